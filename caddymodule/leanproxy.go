package caddymodule

import (
	"context"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

// leanProxy does what Caddy's reverse proxy does when nothing of it is
// configured, and keeps to its behaviour where a client or an app could see
// it. It costs less because there is one upstream, nothing to choose, and no
// log entry to prepare.
type leanProxy struct {
	log      *zap.Logger
	upgrades *upgrades
}

func newLeanProxy(log *zap.Logger) *leanProxy {
	return &leanProxy{log: log, upgrades: newUpgrades(nil, log)}
}

// Cleanup does nothing: what outlives its request is the pool's.
func (p *leanProxy) Cleanup() error {
	p.upgrades.unload()
	return nil
}

// exchange is what one request needs on its way, in one piece of memory.
type exchange struct {
	w     http.ResponseWriter
	trace httptrace.ClientTrace
	url   url.URL

	// values backs header fields of one value. Nothing in it is shared with
	// another request, because Caddy's header handler changes values in place.
	values [6]string
	used   int

	// extended is the body of an extended CONNECT (RFC 8441), which becomes
	// the client's end of an upgrade; nil for any other request.
	extended io.ReadCloser

	// For placeholders: when the request was sent, how long it took until the
	// response began and until it ended, and the response.
	sent          time.Time
	latency, took time.Duration
	resp          *http.Response

	mu       sync.Mutex // guards answered and, until it is true, w
	answered bool
}

// value returns a field value that nothing else refers to.
func (x *exchange) value(s string) []string {
	if x.used == len(x.values) {
		return []string{s}
	}
	i := x.used
	x.used++
	x.values[i] = s
	return x.values[i : i+1 : i+1]
}

func (p *leanProxy) ServeHTTP(w http.ResponseWriter, r *http.Request, lease *pool.Lease) error {
	x := &exchange{w: w}
	x.trace.Got1xxResponse = x.inform
	ctx := r.Context()
	req := r.WithContext(httptrace.WithClientTrace(ctx, &x.trace))
	x.prepare(req)

	x.sent = time.Now()
	resp, err := lease.RoundTrip(req)
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
	if err != nil {
		err = gatewayError(ctx, err)
		if errors.Is(err, context.Canceled) {
			// Nobody is there to see it, but the access log tells it from an
			// answer that was never written.
			w.WriteHeader(statusClientGone)
			return nil
		}
		return err
	}
	x.latency, x.resp = time.Since(x.sent), resp
	setPlaceholders(ctx, r.Header, lease, x.placeholder)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return p.upgrades.pass(w, req, x.extended, resp, lease)
	}
	return p.respond(x, req, resp)
}

// inform passes an informational response on. The transport can call it from
// another goroutine, also after it gave up the request.
func (x *exchange) inform(code int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answered {
		return nil
	}
	h := x.w.Header()
	own := maps.Clone(h)
	informed := maps.Clone(http.Header(header))
	removeHopByHop(informed)
	// The map is what the final response will start with, so it must be left
	// as it was, without sharing memory with what is added here.
	for k, vv := range informed {
		h[k] = slices.Concat(h[k], vv)
	}
	x.w.WriteHeader(code)
	clear(h)
	maps.Copy(h, own)
	return nil
}

// respond passes the app's response on. It does not return if the response
// was cut: the client must not take it for a complete one.
func (p *leanProxy) respond(x *exchange, req *http.Request, resp *http.Response) error {
	now := flushesAtOnce(resp)
	removeHopByHop(resp.Header)
	header := x.w.Header()
	delete(header, "Server") // the app's, if it says so, and Via for the proxy
	if via := viaOf(resp.ProtoMajor, resp.ProtoMinor); len(header["Via"]) == 0 {
		header["Via"] = x.value(via)
	} else {
		header["Via"] = append(header["Via"], via)
	}
	addHeader(header, resp.Header)
	announced := len(resp.Trailer)
	if announced > 0 {
		header.Add("Trailer", strings.Join(slices.Sorted(maps.Keys(resp.Trailer)), ", "))
	}
	x.w.WriteHeader(resp.StatusCode)

	err := copyBody(x.w, resp, now)
	_ = resp.Body.Close() // now, because it can add to the trailers
	x.took = time.Since(x.sent)
	if err != nil {
		p.logCut(req, err)
		// What has been read is the client's, even if the rest will not come.
		_ = http.NewResponseController(x.w).Flush()
		panic(http.ErrAbortHandler)
	}
	if len(resp.Trailer) == 0 {
		return nil
	}
	// Only a chunked body can have trailers. A flush before the end keeps
	// net/http from giving a short one a length instead.
	_ = http.NewResponseController(x.w).Flush()
	if len(resp.Trailer) == announced {
		addHeader(header, resp.Trailer)
		return nil
	}
	for k, vv := range resp.Trailer {
		k = http.TrailerPrefix + k
		header[k] = append(header[k], vv...)
	}
	return nil
}

func (p *leanProxy) logCut(req *http.Request, err error) {
	level := zap.WarnLevel
	if errors.Is(err, errClientGone) || req.Context().Err() != nil {
		level = zap.DebugLevel // it happens all day, and nobody can mend it
	}
	if c := p.log.Check(level, "aborting with incomplete response"); c != nil {
		c.Write(zap.String("method", req.Method), zap.String("host", req.Host),
			zap.String("path", req.URL.Path), zap.Error(err))
	}
}

// flushesAtOnce reports whether every part of a response goes to the client as
// it comes: if its length is unknown, if it is a stream of server-sent events,
// or if it asks for it (RFC 10036).
func flushesAtOnce(resp *http.Response) bool {
	if resp.ContentLength < 0 || caddyhttp.IsIncremental(resp.Header) {
		return true
	}
	const sse = "text/event-stream"
	contentType := resp.Header.Get("Content-Type")
	if len(contentType) < len(sse) || !strings.EqualFold(contentType[:len(sse)], sse) {
		return false
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == sse
}

// addHeader adds all values of src to dst, which may then share memory.
func addHeader(dst, src http.Header) {
	for k, vv := range src {
		switch {
		case len(vv) == 0: // as an entry of dst it would mean: leave this out
		case len(dst[k]) == 0:
			dst[k] = vv
		default:
			dst[k] = append(dst[k], vv...)
		}
	}
}

var _ proxy = (*leanProxy)(nil)
