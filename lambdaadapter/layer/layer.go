// Package layer holds the script of the adapter's Lambda layer, which starts
// the app of a function that is a zip file. It must not know how a layer is
// packed (cmd/dist) nor what the adapter does.
package layer

import _ "embed"

// Bootstrap is the file /opt/bootstrap of the layer, a POSIX shell script for
// AWS_LAMBDA_EXEC_WRAPPER. See
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html.
//
//go:embed bootstrap
var Bootstrap []byte
