//go:build !unix

package caddymodule

import "context"

// resetWhenCut does nothing where sockets cannot be told to reset.
func resetWhenCut(context.Context) {}
