package caddymodule

import (
	"context"
	"net"
	"reflect"
	"syscall"
)

type connCtxKey struct{}

// rememberConn gives the requests of a connection the way to its socket. A
// server calls it once for each connection and each of our handlers.
func rememberConn(ctx context.Context, c net.Conn) context.Context {
	if ctx.Value(connCtxKey{}) != nil {
		return ctx
	}
	socket := socketOf(c)
	if socket == nil {
		return ctx
	}
	return context.WithValue(ctx, connCtxKey{}, socket)
}

// watchClient calls gone, from another goroutine, when the client has closed
// its connection, or has said that it will send no more; data that nobody has
// read yet does not hide that. If the system or the kind of connection does not
// allow it, gone is never called. The caller must call unwatch in the end; gone
// can still be called while it returns.
func watchClient(ctx context.Context, gone func()) (unwatch func()) {
	socket, ok := ctx.Value(connCtxKey{}).(syscall.RawConn)
	if !ok {
		return func() {}
	}
	return watchHangup(socket, gone)
}

// socketOf returns the socket below a connection, or nil if it cannot be found.
func socketOf(c net.Conn) syscall.RawConn {
	for range 10 { // layers; nobody has that many
		switch inner := c.(type) {
		case syscall.Conn:
			socket, err := inner.SyscallConn()
			if err != nil {
				return nil
			}
			return socket
		case interface{ NetConn() net.Conn }: // TLS
			c = inner.NetConn()
		case interface{ Raw() net.Conn }: // the PROXY protocol
			c = inner.Raw()
		default:
			c = embedded(c)
		}
		if c == nil {
			return nil
		}
	}
	return nil
}

// embedded returns the connection in the field Conn of a struct, which is how
// listener wrappers, Caddy's own among them, are usually made. They have no
// method for it.
func embedded(c net.Conn) net.Conn {
	v := reflect.Indirect(reflect.ValueOf(c))
	if v.Kind() != reflect.Struct {
		return nil
	}
	field, ok := v.Type().FieldByName("Conn")
	if !ok || !field.IsExported() {
		return nil
	}
	f, err := v.FieldByIndexErr(field.Index)
	if err != nil || !f.CanInterface() {
		return nil
	}
	inner, _ := reflect.TypeAssert[net.Conn](f)
	return inner
}
