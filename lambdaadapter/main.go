// Command lambdaadapter runs beside a web app inside AWS Lambda and lets it
// answer the requests of a lambda-dispatch router. It is an external extension
// when it has no arguments (/opt/extensions/lambdaadapter), and starts the app
// when it has some (lambdaadapter -- node server.js).
package main

import (
	"os"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter"
)

func main() { os.Exit(adapter.Main(os.Args[1:])) }
