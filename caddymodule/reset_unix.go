//go:build unix

package caddymodule

import (
	"context"
	"syscall"

	"golang.org/x/sys/unix"
)

// resetWhenCut is deferred by handlers for HTTP/1.0 clients. To them the end of
// the connection is the end of a response without a length, so that a response
// that is cut off would look whole (RFC 9112, section 8). A reset does not.
func resetWhenCut(ctx context.Context) {
	p := recover()
	if p == nil {
		return
	}
	if socket, ok := ctx.Value(connCtxKey{}).(syscall.RawConn); ok {
		_ = socket.Control(func(fd uintptr) {
			// Closing then throws away what has not been sent.
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
		})
	}
	panic(p)
}
