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
// deprecated since v0.62 and become wrappers of net/http with Go 1.27. Measured
// with both (Go 1.26.8, 2 CPUs shared with others, CPU time of both ends per
// request, medians of six alternating runs): 4 bytes plain 85 µs with net/http
// and 91 with x/net, TLS 92 and 91; 168,161 bytes plain 350 and 358, TLS 503 and
// 541; 62 to 82 allocations with either. That is no difference on such a
// machine. Nor is one between stream windows of 1 and 4 MiB, or with and
// without a timeout for writes.
//
// Only engine_stock_router.go and engine_stock_adapter.go know the engine; the
// rest of the package sees the interfaces in engine.go.
//
// What the engine would lose and this package carries itself, in headers that
// begin with "Lambda-Dispatch-" and that neither end lets pass from or to the
// outside: upgrades, Expect, cookies that are not in canonical form, and final
// statuses above 299 while a request body is still being sent (net/http's
// client stops sending the body when it sees one).
package tunnel
