package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

// newProxy returns the proxy for a configuration, nil being Caddy's defaults.
//
// There are two. Caddy's reverse proxy brings everything that its users know:
// header operations, buffering, response handlers and more. But it costs more
// per request than all the rest of the router, much of it for things that are
// then not used, such as the log entry of the whole request, balancing load
// over one upstream, and placeholders. So a configuration that asks for none
// of its options gets leanProxy, which does what the other does by default.
// Clients and apps must not be able to tell the two apart: the same tests run
// against both.
func newProxy(ctx caddy.Context, conf *reverseproxy.Handler, log *zap.Logger) (proxy, error) {
	if conf == nil {
		return newLeanProxy(log), nil
	}
	return newReverseProxy(ctx, conf, log)
}

// reverseProxy is Caddy's own reverse proxy with leases for a transport. It
// brings what users of Caddy expect of a proxy: hop-by-hop headers,
// X-Forwarded-*, Via, 1xx, trailers, flushing, buffering, header operations.
// Only upgrades are not its own: it closes them at every reload.
type reverseProxy struct {
	handler  *reverseproxy.Handler
	upgrades *upgrades
}

// newReverseProxy provisions the reverse proxy.
func newReverseProxy(ctx caddy.Context, conf *reverseproxy.Handler, log *zap.Logger) (*reverseProxy, error) {
	if conf.TransportRaw != nil || conf.DynamicUpstreamsRaw != nil || len(conf.Upstreams) > 0 ||
		conf.LoadBalancing != nil || conf.HealthChecks != nil || conf.CBRaw != nil {
		return nil, errors.New("proxy: transport, upstreams, load balancing, health checks and " +
			"circuit breaker have no meaning in lambda_dispatch")
	}
	h := *conf // the configuration stays as it was written
	h.Transport = leaseTransport{}
	// The proxy wants to know an upstream; the lease is the real one.
	h.Upstreams = reverseproxy.UpstreamPool{{Dial: "lambda-dispatch:80"}}
	if err := h.Provision(ctx); err != nil {
		return nil, fmt.Errorf("provisioning reverse proxy: %w", err)
	}
	return &reverseProxy{handler: &h, upgrades: newUpgrades(conf, log)}, nil
}

func (p *reverseProxy) ServeHTTP(w http.ResponseWriter, r *http.Request, lease *pool.Lease) error {
	call := &proxyCall{lease: lease}
	call.client, _ = r.Body.(*clientBody)
	ctx := context.WithValue(r.Context(), proxyCallCtxKey{}, call)
	err := p.handler.ServeHTTP(w, r.WithContext(ctx), nil)
	if call.switched == nil {
		return err
	}
	// Caddy's proxy has sent the request, and was told that this failed.
	sent := call.switched.Request
	extended, _ := caddyhttp.GetVar(sent.Context(), extendedConnectVar).(io.ReadCloser)
	return p.upgrades.pass(w, sent, extended, call.switched, lease)
}

func (p *reverseProxy) Cleanup() error {
	p.upgrades.unload()
	return p.handler.Cleanup()
}

type proxyCallCtxKey struct{}

// proxyCall is what the transport has to know of the request that the proxy
// made its own from.
type proxyCall struct {
	lease  *pool.Lease
	client *clientBody // nil: the request has no body, or it was kept
	// switched is the response of an app that has accepted an upgrade.
	switched *http.Response
	// answer is the body of the app's response, nil before there is one.
	answer io.Closer
}

// finish gives the slot back before the proxy is done with the request.
func (c *proxyCall) finish() {
	if c.answer != nil {
		_ = c.answer.Close() // what is left of it is of no use
	}
	c.lease.Release()
}

// leasedBody is the body of an app's response. Its end frees the slot, because
// the proxy can still be busy for long: handle_response runs whole routes, of
// which one may send a file, and another wait for a slot of the same pool.
type leasedBody struct {
	io.ReadCloser
	lease *pool.Lease
}

func (b *leasedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.lease.Release()
	}
	return n, err
}

func (b *leasedBody) Close() error {
	err := b.ReadCloser.Close()
	b.lease.Release()
	return err
}

// serialBody reads and closes the proxy's body one at a time, which the proxy's
// layers need: a tunnel closes a body while it still reads it when an app
// answers early.
type serialBody struct {
	client *clientBody // what the proxy reads from in the end

	mu     sync.Mutex // held while reading; guards the following
	body   io.ReadCloser
	closed bool
}

func (b *serialBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyDone
	}
	return b.body.Read(p)
}

// Close first closes the client's body, so that it does not wait for a read
// that waits for the client.
func (b *serialBody) Close() error {
	_ = b.client.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.body.Close()
}

// extendedConnectVar is where Caddy's proxy keeps the body of an extended
// CONNECT (RFC 8441).
const extendedConnectVar = "extended_connect_websocket_body"

// leaseTransport sends a request to the instance that its lease is for.
type leaseTransport struct{}

func (leaseTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	call, ok := r.Context().Value(proxyCallCtxKey{}).(*proxyCall)
	if !ok {
		return nil, errors.New("request has no lease")
	}
	// The tunnel speaks HTTP for the app behind it, whatever the client spoke.
	r.URL.Scheme = "http"
	if caddyhttp.GetVar(r.Context(), extendedConnectVar) != nil {
		// The proxy has made it an upgrade, whose body it keeps. What it left
		// here is empty but does not look so, and an upgrade has no body.
		r.Body, r.ContentLength = nil, 0
	}
	if call.client != nil && r.Body != nil && r.Body != http.NoBody {
		r.Body = &serialBody{client: call.client, body: r.Body}
	}
	resp, err := call.lease.RoundTrip(r)
	if err != nil {
		return nil, gatewayError(r.Context(), err)
	}
	setPlaceholders(r.Context(), r.Header, call.lease, nil)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Request = r
		call.switched = resp
		return nil, errSwitching
	}
	if resp.Body == http.NoBody {
		call.lease.Release()
		return resp, nil
	}
	resp.Body = &leasedBody{resp.Body, call.lease}
	call.answer = resp.Body
	return resp, nil
}

// gatewayError gives a failed round trip its status here, because the reverse
// proxy would not know the errors of the pool and of the tunnel.
func gatewayError(ctx context.Context, err error) error {
	// The context alone says nothing: it ends too when the body of a client
	// that is still sending has been closed after a failure.
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return ctx.Err() // the proxy knows what a client that left means
	}
	return caddyhttp.Error(statusOfRoundTrip(err), err)
}

// setPlaceholders sets the placeholders of lambda_dispatch, and others if there
// are more.
func setPlaceholders(ctx context.Context, header http.Header, lease *pool.Lease, more func(key string) (any, bool)) {
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.Map(func(key string) (any, bool) {
		switch key {
		case "http.lambda_dispatch.pool":
			return lease.Pool().Name(), true
		case "http.lambda_dispatch.instance":
			return lease.Instance(), true
		case "http.lambda_dispatch.queue_wait":
			return lease.Waited(), true
		case "http.lambda_dispatch.queue_wait_ms":
			return strconv.FormatFloat(lease.Waited().Seconds()*1e3, 'f', 3, 64), true
		case "http.lambda_dispatch.attempts":
			return lease.Attempts(), true
		case "http.lambda_dispatch.trace_id":
			return traceID(header), true
		}
		if more != nil {
			return more(key)
		}
		return nil, false
	})
}
