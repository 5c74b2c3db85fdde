// Package tunnel carries HTTP requests from the router to an adapter over a
// reversed HTTP/2 connection: the adapter dials and is the HTTP/2 server, the
// router accepts and is the HTTP/2 client. It authenticates both ends (the
// hello), keeps a control stream, drains without losing a request, passes
// upgrades through, and tells for every failed request whether the app can
// have seen it.
//
// It must not know what a pool, a queue or a Lambda invocation is, and it
// keeps no request: retrying is the caller's.
//
// # The engine
//
// Both ends are Go's own net/http endpoints: [http.Transport.NewClientConn]
// over the accepted connection and [http.Server] over a listener of one
// connection. The Server and Transport of golang.org/x/net/http2 are
// deprecated since v0.62 and become wrappers of net/http with Go 1.27; both
// run the same code. engine_bench_test.go keeps the comparison: a small GET
// differs by less than the noise of the machine and 168,161 bytes cost the same.
// Only engine_stock_router.go and engine_stock_adapter.go know the
// engine; the rest of the package sees the two interfaces in engine.go.
//
// What the engine would lose and this package carries itself, in headers that
// begin with "Lambda-Dispatch-" and that neither end lets pass from or to the
// outside: upgrades, Expect, cookies that are not in canonical form, and final
// statuses above 299 while a request body is still being sent (net/http's
// client stops sending the body when it sees one).
package tunnel
