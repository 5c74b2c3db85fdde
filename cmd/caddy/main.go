// Command caddy is Caddy with the lambda_dispatch module compiled in. It is
// what "xcaddy build --with github.com/lambda-dispatch/lambda-dispatch" generates,
// kept here so that a checkout runs without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/lambda-dispatch/lambda-dispatch/caddymodule"
)

func main() {
	caddycmd.Main()
}
