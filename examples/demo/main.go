// Command demo is the demo app as a program of its own: an ordinary web server
// on 127.0.0.1:$PORT that knows nothing of Lambda. Run it behind the adapter
// with "lambdaadapter -- demo".
package main

import (
	"os"

	"github.com/lambda-dispatch/lambda-dispatch/internal/demoapp"
)

func main() {
	os.Exit(demoapp.Main(os.Args[1:]))
}
