// Package lambdadispatch adds the lambda_dispatch module to Caddy when it is
// imported, for its effect only. It exists so that the path of the repository
// is all that xcaddy needs:
//
//	xcaddy build --with github.com/lambda-dispatch/lambda-dispatch
//
// The module itself is the package caddymodule.
package lambdadispatch

import (
	_ "github.com/lambda-dispatch/lambda-dispatch/caddymodule" // registers the module
)
