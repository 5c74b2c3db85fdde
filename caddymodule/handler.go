// Package caddymodule is the Caddy plugin of lambda-dispatch: the
// lambda_dispatch HTTP handler with its Caddyfile directive, the app that
// gives pools and callback listeners a life longer than one configuration, the
// admin endpoint, the metrics and the commands. It is glue: it is the only
// package that knows Caddy (cmd/caddy aside), and it decides neither who runs
// a request nor how many instances there are.
package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

func init() {
	caddy.RegisterModule(&Handler{})
}

// statusClientGone is what Caddy and others log when the client went away.
const statusClientGone = 499

// Handler proxies requests to a web app that runs on AWS Lambda. It holds them
// in a queue, starts as many instances of the function as the load needs, and
// gives each request to an instance that has a free slot; one instance serves
// many requests at once.
//
// Handlers for the same function share one pool, also across reloads, and must
// agree on everything that concerns it.
//
// This module sets the following placeholders, before the response is written:
//
// Placeholder | Description
// ------------|-------------
// `{http.lambda_dispatch.pool}` | The name of the pool, which is the function
// `{http.lambda_dispatch.instance}` | The ID of the instance that answered
// `{http.lambda_dispatch.queue_wait}` | How long the request waited for a slot, as a duration
// `{http.lambda_dispatch.queue_wait_ms}` | The same in milliseconds
// `{http.lambda_dispatch.attempts}` | How many instances the request was sent to
// `{http.lambda_dispatch.trace_id}` | The ID of the request's trace, from `X-Amzn-Trace-Id` or else `traceparent`; empty without
//
// It also sets those of `reverse_proxy` that do not concern the choice of an
// upstream: `{http.reverse_proxy.status_code}`, `status_text`, `header.*`,
// `duration`, `upstream.duration` and `upstream.latency`, the latter three also
// with `_ms`.
//
// Its own are in the access log too, as `lambda_dispatch`.
type Handler struct {
	// The Lambda function to invoke: a name, `name:qualifier`, or an ARN.
	// Placeholders that are known when the configuration is loaded, such as
	// `{env.FUNCTION}`, are replaced then. With any other, such as
	// `preview-{http.request.host.labels.2}`, each request chooses its function.
	Function string `json:"function,omitempty"`

	// The functions that requests may choose; required if `function` holds a
	// placeholder of the request. In a name, `name:qualifier` or ARN, `*` stands
	// for one or more characters of a name (letters, digits, `-` and `_`) and
	// `?` for one. The whole function has to match. A request that chooses no
	// such function, or one that does not exist, is answered with status 404.
	AllowFunctions []string `json:"allow_functions,omitempty"`

	// The most functions that have a pool at once because requests have chosen
	// them; for one more, requests are answered with status 503. It also bounds
	// how many functions that are not known to run are tried: as many at once,
	// and as many again per minute. Default: 100.
	MaxFunctions int `json:"max_functions,omitempty"`

	// The settings of the function's pool.
	PoolConfig

	// How the request and its response pass through, as in Caddy's
	// `reverse_proxy` handler. Its transport, upstreams, load balancing and
	// health checks have no meaning here and are refused.
	Proxy *reverseproxy.Handler `json:"proxy,omitempty"`

	logger *zap.Logger
	app    *App
	shared *sharedPool // nil if requests choose the function
	proxy  proxy

	requested *requestedPools // nil if they do not
}

// proxy passes a request that has a lease to its instance and the response to
// the client. See newProxy for the two that there are.
type proxy interface {
	ServeHTTP(w http.ResponseWriter, r *http.Request, lease *pool.Lease) error
	Cleanup() error
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.lambda_dispatch",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler. It does no I/O: sockets are bound and
// functions invoked only when the configuration is started.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		srv.RegisterConnContext(rememberConn)
	}
	h.Function = caddy.NewReplacer().ReplaceKnown(h.Function, "")
	if err := h.PoolConfig.provision(); err != nil {
		return err
	}
	prx, err := newProxy(ctx, h.Proxy, h.logger)
	if err != nil {
		return err
	}
	h.proxy = prx
	app, err := ctx.App("lambda_dispatch")
	if err != nil {
		return fmt.Errorf("loading lambda_dispatch app: %w", err)
	}
	h.app = app.(*App)
	return h.provisionFunction()
}

// Cleanup releases what the handler alone owns. The pool is the app's: requests
// of this handler can still be running and waiting.
func (h *Handler) Cleanup() error {
	if h.proxy == nil {
		return nil
	}
	return h.proxy.Cleanup()
}

// ServeHTTP gives the request to an instance once one has a free slot.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if err := h.app.awaitStart(r.Context()); err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	function, err := h.choose(r)
	if err != nil {
		return err
	}
	if outer, ok := r.Context().Value(proxyCallCtxKey{}).(*proxyCall); ok {
		// A route of handle_response has brought the request here. It must not
		// hold a slot while it waits for one.
		outer.finish()
	}
	if !r.ProtoAtLeast(1, 1) {
		defer resetWhenCut(r.Context())
	}
	defer dropEmptyBody(r)()
	kept, err := keepBody(r)
	if err != nil {
		return caddyhttp.Error(statusOfBody(r, err), fmt.Errorf("reading request body: %w", err))
	}
	if kept != nil {
		defer dropBody(kept)
		return reject(w, h.explain(function, h.serve(w, r, function, kept, nil)))
	}
	dw, dr, body := fullDuplex(w, r)
	defer body.finish()
	err = h.explain(function, h.serve(dw, dr, function, nil, body))
	if err == nil {
		return nil
	}
	fault := body.failure()
	if fault == nil && dr.Context().Err() == nil {
		body.skip()
	}
	if d, ok := dw.(*duplexWriter); ok {
		d.begin() // what answers the error writes past it
	}
	if fault != nil {
		err = caddyhttp.Error(statusOfBody(r, fault), fmt.Errorf("reading request body: %w", fault))
	}
	return reject(w, err)
}

// serve takes the request through the queue and to an instance. Its body is
// kept in memory, or is what the client is still sending, or there is none.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, function string, kept []byte, body *clientBody) error {
	shared, use, err := h.poolOf(r.Context(), function)
	if err != nil {
		addToAccessLog(r, loggedRefusal(function, r.Header, err))
		return err
	}
	defer use.release()
	lease, err := shared.pool.Enter()
	if err != nil {
		addToAccessLog(r, loggedRefusal(function, r.Header, err))
		return err
	}
	defer lease.Release()
	logged := &loggedLease{Lease: lease, header: r.Header}
	addToAccessLog(r, zap.Object("lambda_dispatch", logged))
	if lease.Queued() {
		body.readAhead()
	}
	if logged.err = lease.Wait(r.Context()); logged.err != nil {
		return logged.err
	}
	if kept != nil {
		lease.KeepBody(kept)
	}
	logged.err = h.proxy.ServeHTTP(w, r, lease)
	return logged.err
}

// reject turns an error of a request without a response into the answer that
// its client gets.
func reject(w http.ResponseWriter, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		return err
	}
	return caddyhttp.Error(rejection(w.Header(), err), err)
}

// rejection returns the status for an error of the pool, and sets Retry-After
// where it is known when to come back.
func rejection(header http.Header, err error) int {
	if tooMany, ok := errors.AsType[*tooManyError](err); ok {
		setRetryAfter(header, time.Until(tooMany.retryAt))
		return http.StatusServiceUnavailable
	}
	unavailable, ok := errors.AsType[*pool.UnavailableError](err)
	switch {
	case ok:
		setRetryAfter(header, time.Until(unavailable.RetryAt))
		return statusOfCause(unavailable.Cause)
	case errors.Is(err, pool.ErrQueueFull):
		setRetryAfter(header, time.Second)
		return http.StatusServiceUnavailable
	case errors.Is(err, pool.ErrClosed):
		setRetryAfter(header, time.Second)
		return http.StatusServiceUnavailable
	case errors.Is(err, pool.ErrQueueTimeout):
		return http.StatusGatewayTimeout
	case errors.Is(err, context.Canceled):
		return statusClientGone
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	default:
		return http.StatusBadGateway
	}
}

func setRetryAfter(header http.Header, d time.Duration) {
	seconds := max(1, int(math.Ceil(d.Seconds())))
	header.Set("Retry-After", strconv.Itoa(seconds))
}

// addToAccessLog adds a field to the request's line in the access log, if there
// is one.
func addToAccessLog(r *http.Request, field zap.Field) {
	if srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); !ok || srv.Logs == nil {
		return
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(field)
	}
}

// loggedLease is a lease as it is logged. The values are read when the line is
// written, so that a request whose connection is aborted has them too.
type loggedLease struct {
	*pool.Lease
	header http.Header // of the request
	err    error       // why there was no response
}

func (l *loggedLease) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("pool", l.Pool().Name())
	enc.AddString("instance", l.Instance())
	enc.AddDuration("queue_wait", l.Waited())
	enc.AddInt("attempts", l.Attempts())
	if id := traceID(l.header); id != "" {
		enc.AddString(traceIDField, id)
	}
	if err := l.err; err != nil {
		if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok && he.Err != nil {
			err = he.Err // without what it says of the log line itself
		}
		enc.AddString("error", err.Error())
	}
	return nil
}

// loggedRefusal is what is logged of a request that did not come into the queue.
func loggedRefusal(function string, header http.Header, err error) zap.Field {
	fields := []zap.Field{zap.String("pool", function), zap.String("error", err.Error())}
	if id := traceID(header); id != "" {
		fields = append(fields, zap.String(traceIDField, id))
	}
	return zap.Dict("lambda_dispatch", fields...)
}

// traceIDField is the trace's ID in lines about a request, the adapter's as well.
const traceIDField = "trace_id"

func traceID(header http.Header) string {
	return httprules.TraceID(header.Get("X-Amzn-Trace-Id"), header.Get("Traceparent"))
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
