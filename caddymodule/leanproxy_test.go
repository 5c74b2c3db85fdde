package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// The tests in this file and in leanproxy_stream_test.go run against both
// proxies: what is expected of one is expected of the other.

// patient is for what must happen; nothing waits for it to pass.
const patient = 10 * time.Second

var nopLog = zap.NewNop()

// theatre is a pool with one instance, at the end of a real tunnel, whose app
// is a handler of the test.
type theatre struct {
	pool *pool.Pool
	ln   *tunnel.Listener

	mu  sync.Mutex
	app http.Handler
}

func (th *theatre) Pin() string       { return "" }
func (th *theatre) Advertise() string { return th.ln.Addr().String() }

func (th *theatre) Expect(id string, secret []byte, accept func(tunnel.Tunnel)) func() {
	return th.ln.Expect(id, secret, accept)
}

func (th *theatre) Invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	s, err := tunnel.Dial(ctx, tunnel.DialConfig{
		Address: ev.Router, Instance: ev.Instance, Secret: ev.Secret,
		Ready:   tunnel.Ready{MaxConcurrent: ev.MaxConcurrent, Deadline: time.Now().Add(time.Hour)},
		Handler: th,
	})
	if err != nil {
		return invoke.Result{}, err
	}
	select {
	case <-s.Requested():
		s.Drain("asked")
	case <-s.Done():
	case <-ctx.Done():
	}
	_ = s.WaitIdle(ctx)
	_ = s.Close()
	return invoke.Result{Instance: ev.Instance, Reason: invoke.ReasonDrained}, nil
}

func (th *theatre) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	th.mu.Lock()
	app := th.app
	th.mu.Unlock()
	app.ServeHTTP(w, r)
}

func (th *theatre) play(app http.HandlerFunc) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.app = app
}

func newTheatre(t testing.TB) *theatre {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	th := &theatre{ln: tunnel.NewListener(ln, tunnel.ListenerConfig{})}
	served := make(chan error, 1)
	go func() { served <- th.ln.Serve() }()
	th.pool = newTestPool(t, th, th)
	t.Cleanup(func() {
		_ = th.ln.Close()
		<-served
	})
	return th
}

// newTestPool returns a pool with one instance that takes many requests.
func newTestPool(t testing.TB, inv invoke.Invoker, cb pool.Callback) *pool.Pool {
	t.Helper()
	p := pool.New("fn", nopLog, nil)
	p.Configure(pool.Settings{
		Scale:     scale.Config{MaxConcurrent: 100, TargetConcurrent: 100, MaxInstances: 1, MinInstances: 1},
		QueueSize: 100, QueueTimeout: patient, Invoker: inv, Callback: cb,
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("closing pool: %v", err)
		}
	})
	return p
}

// proxies returns both implementations.
func proxies(t testing.TB) map[string]proxy {
	t.Helper()
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	lean, err := newProxy(ctx, nil, nopLog)
	if err != nil {
		t.Fatal(err)
	}
	full, err := newProxy(ctx, new(reverseproxy.Handler), nopLog)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := lean.(*leanProxy); !ok {
		t.Fatalf("without options the proxy is %T", lean)
	}
	if _, ok := full.(*reverseProxy); !ok {
		t.Fatalf("with options the proxy is %T", full)
	}
	return map[string]proxy{"lean": lean, "caddy": full}
}

// front is the HTTP server in front of a proxy.
type front struct {
	*httptest.Server
	th    *theatre
	proxy proxy

	// prepare may change a request before the proxy gets it.
	prepare func(w http.ResponseWriter, r *http.Request)

	mu       sync.Mutex
	statuses []int
	faults   []string
	ended    chan struct{} // receives after each request
}

// onBoth runs a test with each proxy.
func onBoth(t *testing.T, test func(t *testing.T, f *front)) {
	for name, p := range proxies(t) {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, p)
			f.Start()
			test(t, f)
		})
	}
}

func newFront(t testing.TB, p proxy) *front {
	t.Helper()
	f := &front{th: newTheatre(t), proxy: p, ended: make(chan struct{}, 100)}
	f.Server = httptest.NewUnstartedServer(f)
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
		for _, fault := range f.faults {
			t.Error(fault)
		}
	})
	return f
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	repl := caddy.NewReplacer()
	w.Header().Set("Server", "Caddy") // as Caddy's server does
	rec := caddyhttp.NewResponseRecorder(w, nil, nil)
	r = caddyhttp.PrepareRequest(r, repl, rec, &caddyhttp.Server{})
	if f.prepare != nil {
		f.prepare(rec, r)
	}
	before := snapshot(r)
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.statuses = append(f.statuses, rec.Status())
		if after := snapshot(r); after != before {
			f.faults = append(f.faults, fmt.Sprintf("the client's request was changed from\n%s\nto\n%s", before, after))
		}
		f.ended <- struct{}{}
	}()
	lease, err := f.th.pool.Enter()
	if err != nil {
		rec.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer lease.Release()
	if err := lease.Wait(r.Context()); err != nil {
		rec.WriteHeader(http.StatusGatewayTimeout)
		return
	}
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	err = f.proxy.ServeHTTP(rec, r, lease)
	if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		rec.WriteHeader(he.StatusCode)
		return
	}
	if err != nil {
		rec.WriteHeader(599)
	}
	if id, _ := repl.GetString("http.lambda_dispatch.instance"); err == nil && rec.Status() != statusClientGone && id != lease.Instance() {
		f.mu.Lock()
		f.faults = append(f.faults, fmt.Sprintf("placeholder instance is %q, not %q", id, lease.Instance()))
		f.mu.Unlock()
	}
}

func snapshot(r *http.Request) string {
	return fmt.Sprint(r.Method, r.URL, r.Host, r.RequestURI, r.ContentLength, printHeader(r.Header))
}

// await waits until a request has been served, and returns its status.
func (f *front) await(t *testing.T) int {
	t.Helper()
	select {
	case <-f.ended:
	case <-time.After(patient):
		t.Fatal("the request has not ended")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.statuses[len(f.statuses)-1]
}

// dial opens a connection to the front.
func (f *front) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", f.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patient))
	return c.(*net.TCPConn)
}

// talk sends raw bytes and returns all that comes back, in a form in which
// only what means something makes a difference.
func (f *front) talk(t *testing.T, method, raw string) string {
	t.Helper()
	c := f.dial(t)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	var out strings.Builder
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			fmt.Fprintf(&out, "no response\n")
			return out.String()
		}
		body, err := io.ReadAll(resp.Body)
		fmt.Fprintf(&out, "%s %s\n%slength %d, %v\n", resp.Proto, resp.Status, printHeader(resp.Header), resp.ContentLength, resp.TransferEncoding)
		if len(body) > 4000 {
			body = fmt.Appendf(nil, "%d bytes, %x", len(body), body[:5])
		}
		fmt.Fprintf(&out, "body %q, error %v\n%s", body, err, printHeader(resp.Trailer))
		if resp.StatusCode >= 200 {
			return out.String()
		}
	}
}

func printHeader(h http.Header) string {
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(h)) {
		if k == "Date" {
			continue
		}
		fmt.Fprintf(&out, "%s: %q\n", k, h[k])
	}
	return out.String()
}

// report is an app that tells what it got.
func report(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	text := fmt.Sprintf("%s %s host %s length %d\n%sbody %q, error %v\n%s", r.Method, r.RequestURI, r.Host,
		r.ContentLength, printHeader(r.Header), body, err, printHeader(r.Trailer))
	// Without a type net/http looks for one in what is written first, and how
	// much that is, is a matter of luck.
	w.Header().Set("Content-Type", "text/report")
	_, _ = w.Write([]byte(text))
}

// TestBothProxiesAlike sends the same bytes through both proxies and expects
// the same result, down to the last header field.
func TestBothProxiesAlike(t *testing.T) {
	trust := func(_ http.ResponseWriter, r *http.Request) {
		caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, true)
	}
	from := func(addr string, trusted bool) func(http.ResponseWriter, *http.Request) {
		return func(_ http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = addr
			caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, trusted)
		}
	}
	const forwarded = "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2, 3.3.3.3\r\n" +
		"X-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n"
	answer := func(change func(w http.ResponseWriter)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { change(w) }
	}
	for _, tc := range []struct {
		name    string
		request string // "GET / HTTP/1.1\r\nHost: h\r\n\r\n" without its last line, and what follows it
		prepare func(http.ResponseWriter, *http.Request)
		app     http.HandlerFunc // nil: report
		want    []string         // what the result holds, among other things
		not     []string
	}{
		{name: "plain", request: "GET /a%2Fb//c?x=1;y=%zz HTTP/1.1\r\nHost: h:1\r\nCookie: a=1; b=2\r\nX: 1\r\nX: 2\r\n",
			want: []string{"GET /a%2Fb//c?x=1;y=%zz host h:1 length 0", `X: [\"1\" \"2\"]`,
				`X-Forwarded-For: [\"127.0.0.1\"]`, `X-Forwarded-Host: [\"h:1\"]`, `X-Forwarded-Proto: [\"http\"]`,
				`Via: [\"1.1 Caddy\"]`, `Via: ["1.1 Caddy"]`}, not: []string{"User-Agent", "Server", "Upgrade"}},
		{name: "HTTP/1.0", request: "GET / HTTP/1.0\r\n", want: []string{"host lambda-dispatch:80", `Via: [\"1.0 Caddy\"]`}},
		{name: "whole URL", request: "GET http://u:p@other/x HTTP/1.1\r\nHost: h\r\n", want: []string{"GET /x host other"}, not: []string{"Authorization"}},
		{name: "hop by hop", request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, x-named\r\nConnection: Other\r\nX-Named: 1\r\nOther: 1\r\n" +
			"Keep-Alive: 1\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nProxy-Authenticate: x\r\nAlt-Svc: x\r\nTe: gzip\r\nUpgrade: h2c\r\nUser-Agent: me\r\nLast: 1\r\n",
			want: []string{`User-Agent: [\"me\"]`, `Last: [\"1\"]`},
			not:  []string{"Named", "Other", "Keep-Alive", "Proxy-", "Alt-Svc", "Te:", "Upgrade", `Connection: [\"`}},
		{name: "te trailers", request: "GET / HTTP/1.1\r\nHost: h\r\nTe: gzip, trailers\r\n", want: []string{`Te: [\"trailers\"]`}},
		{name: "te named", request: "GET / HTTP/1.1\r\nHost: h\r\nTe: trailers\r\nConnection: te\r\n", not: []string{"Te:"}},
		{name: "empty user agent", request: "GET / HTTP/1.1\r\nHost: h\r\nUser-Agent:\r\n"},
		{name: "via", request: "GET / HTTP/1.1\r\nHost: h\r\nVia: 1.0 a\r\nVia: 1.1 b\r\n", want: []string{`Via: [\"1.0 a\" \"1.1 b\" \"1.1 Caddy\"]`}},
		{name: "untrusted", request: "GET / HTTP/1.1\r\nHost: h\r\n" + forwarded, want: []string{`X-Forwarded-For: [\"127.0.0.1\"]`}, not: []string{"1.1.1.1", `[\"b\"]`}},
		{name: "trusted", request: "GET / HTTP/1.1\r\nHost: h\r\n" + forwarded, prepare: trust,
			want: []string{`X-Forwarded-For: [\"1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1\"]`, `X-Forwarded-Proto: [\"https\"]`, `X-Forwarded-Host: [\"b\"]`}},
		{name: "trusted without", request: "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For:\r\nX-Forwarded-Host:\r\n", prepare: trust,
			want: []string{`X-Forwarded-For: [\"127.0.0.1\"]`, `X-Forwarded-Host: [\"h\"]`}},
		{name: "named forwarded", request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Forwarded-For\r\n" + forwarded, prepare: trust,
			want: []string{`X-Forwarded-For: [\"127.0.0.1\"]`}},
		{name: "socket", request: "GET / HTTP/1.1\r\nHost: h\r\n" + forwarded, prepare: from("@", false), not: []string{"X-Forwarded"}},
		{name: "trusted socket", request: "GET / HTTP/1.1\r\nHost: h\r\n" + forwarded, prepare: from("@", true),
			want: []string{`X-Forwarded-For: [\"1.1.1.1, 2.2.2.2, 3.3.3.3\"]`}},
		{name: "trusted socket without", request: "GET / HTTP/1.1\r\nHost: h\r\n", prepare: from("@", true), not: []string{"Forwarded-For"}},
		{name: "no address", request: "GET / HTTP/1.1\r\nHost: h\r\n" + forwarded, prepare: from("?", true), not: []string{"X-Forwarded"}},
		{name: "zone", request: "GET / HTTP/1.1\r\nHost: h\r\n", prepare: from("[fe80::1%eth0]:1", false), want: []string{`[\"fe80::1\"]`}},
		{name: "omitted", request: "GET / HTTP/1.1\r\nHost: h\r\n", prepare: func(_ http.ResponseWriter, r *http.Request) {
			r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], r.Header["X-Forwarded-Host"] = nil, nil, nil
		}, not: []string{"X-Forwarded"}},
		{name: "body", request: "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", want: []string{`length 3`, `body \"abc\"`}},
		{name: "empty body", request: "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n", want: []string{"length 0"}},
		{name: "get with body", request: "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", want: []string{`body \"abc\"`}},
		{name: "chunked", request: "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", want: []string{"length -1", `body \"abc\"`}},
		{name: "trailers", request: "PUT / HTTP/1.1\r\nHost: h\r\nTrailer: A, B\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\nC: 3\r\n",
			want: []string{`A: [\"1\"]`}},
		{name: "unannounced trailers", request: "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\n"},
		{name: "expect", request: "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
			want: []string{"100 Continue", `body \"abc\"`}},
		{name: "incremental", request: "POST / HTTP/1.1\r\nHost: h\r\nIncremental: ?1\r\nContent-Length: 3\r\n\r\nabc", want: []string{`body \"abc\"`}},
		{name: "incremental without body", request: "GET / HTTP/1.1\r\nHost: h\r\nIncremental: ?1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
			want: []string{`length 0`, `body \"\"`}},
		{name: "early data", request: "GET / HTTP/1.1\r\nHost: h\r\nEarly-Data: 0\r\n"},
		{name: "a response", app: answer(func(w http.ResponseWriter) {
			h := w.Header()
			h["Set-Cookie"] = []string{"a=1", "b=2"}
			h["Server"], h["Via"], h["X-Own"] = []string{"app"}, []string{"1.1 x"}, []string{"app's"}
			h["Alt-Svc"], h["Proxy-Authenticate"] = []string{"x"}, []string{"x"}
			h["Content-Length"] = []string{"2"}
			w.WriteHeader(418)
			_, _ = w.Write([]byte("hi"))
		}), prepare: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Own", "handler's") },
			want: []string{"418", `Server: ["app"]`, `Via: ["1.1 Caddy" "1.1 x"]`, `["a=1" "b=2"]`, `X-Own: ["handler's" "app's"]`, "length 2"},
			not:  []string{"Alt-Svc", "Proxy-Auth"}},
		{name: "head", request: "HEAD / HTTP/1.1\r\nHost: h\r\n", app: answer(func(w http.ResponseWriter) { w.Header().Set("Content-Length", "1234") }),
			want: []string{"length 1234", `body ""`}},
		{name: "head of unknown length", request: "HEAD / HTTP/1.1\r\nHost: h\r\n", app: answer(func(w http.ResponseWriter) { w.WriteHeader(200) })},
		{name: "no content", app: answer(func(w http.ResponseWriter) { w.WriteHeader(204) }), want: []string{"204 No Content"}},
		{name: "not modified", app: answer(func(w http.ResponseWriter) { w.Header().Set("Etag", `"x"`); w.WriteHeader(304) }), want: []string{"304", "Etag"}},
		{name: "empty", app: answer(func(w http.ResponseWriter) { w.Header().Set("Content-Length", "0") }), want: []string{"length 0"}},
		{name: "informational", app: answer(func(w http.ResponseWriter) {
			w.Header().Set("Link", "</a>")
			w.Header().Set("Alt-Svc", "x")
			w.Header().Set("X-Early", "1")
			w.WriteHeader(103)
			w.Header().Set("Link", "</b>")
			w.Header().Del("X-Early")
			w.Header().Del("Alt-Svc")
			w.WriteHeader(103)
			w.Header().Del("Link")
			w.Header().Set("Content-Length", "0")
		}), prepare: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Link", "</own>") },
			want: []string{"103 Early Hints\nLink: [\"</own>\" \"</a>\"]\nServer: [\"Caddy\"]\nX-Early: [\"1\"]\n", "103 Early Hints\nLink: [\"</own>\" \"</b>\"]\n", "200 OK\nContent-Length: [\"0\"]\nLink: [\"</own>\"]\n"},
			not:  []string{"Alt-Svc"}},
		{name: "announced trailers", app: answer(func(w http.ResponseWriter) {
			w.Header().Set("Trailer", "A, B")
			w.Header().Set("Content-Type", "text/x")
			_, _ = w.Write([]byte("hi"))
			w.Header().Set("A", "1")
			w.Header().Set("B", "2")
		}), want: []string{`A: ["1"]`, `B: ["2"]`, "[chunked]"}},
		{name: "unannounced trailers of the app", app: answer(func(w http.ResponseWriter) {
			w.Header().Set("Trailer", "A")
			w.Header().Set("Content-Type", "text/x")
			_, _ = w.Write([]byte("hi"))
			w.Header().Set("A", "1")
			w.Header().Set(http.TrailerPrefix+"B", "2")
		}), want: []string{`A: ["1"]`, `B: ["2"]`}},
		{name: "large", app: answer(func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "3000000")
			_, _ = w.Write(bytes.Repeat([]byte("x"), 3000000))
		}), want: []string{"3000000 bytes"}},
		{name: "large of unknown length", app: answer(func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/x")
			_, _ = w.Write(bytes.Repeat([]byte("x"), 3000000))
		}), want: []string{"3000000 bytes", "[chunked]"}},
		{name: "cut", app: answer(func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "3")
			_, _ = w.Write([]byte("a"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}), want: []string{"length 3", `body "a", error unexpected EOF`}},
		{name: "cut of unknown length", app: answer(func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/x")
			_, _ = w.Write([]byte("a"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}), want: []string{`body "a", error unexpected EOF`}},
		{name: "app unavailable", app: answer(func(w http.ResponseWriter) { tunnel.Fail(w, tunnel.CodeAppFailed, "x") }), want: []string{"502 Bad Gateway"}},
		{name: "app too slow", app: answer(func(w http.ResponseWriter) { tunnel.Fail(w, tunnel.CodeAppTimeout, "x") }), want: []string{"504 Gateway Timeout"}},
		{name: "upgrade refused", request: "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n", want: []string{`Upgrade: [\"websocket\"]`, "200 OK"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.request == "" {
				tc.request = "GET / HTTP/1.1\r\nHost: h\r\n"
			}
			if tc.app == nil {
				tc.app = report
			}
			results := map[string]string{}
			for name, p := range proxies(t) {
				f := newFront(t, p)
				f.prepare = tc.prepare
				f.Start()
				f.th.play(tc.app)
				method, _, _ := strings.Cut(tc.request, " ")
				got := f.talk(t, method, tc.request+"\r\n")
				results[name] = got
				for _, s := range tc.want {
					if !strings.Contains(got, s) && !strings.Contains(unquoted(got), s) {
						t.Errorf("%s: no %s in\n%s", name, s, unquoted(got))
					}
				}
				for _, s := range tc.not {
					if strings.Contains(got, s) {
						t.Errorf("%s: %s in\n%s", name, s, unquoted(got))
					}
				}
			}
			if results["lean"] != results["caddy"] {
				t.Errorf("lean:\n%s\ncaddy:\n%s", unquoted(results["lean"]), unquoted(results["caddy"]))
			}
		})
	}
}

// unquoted makes the report of an app easier to read.
func unquoted(s string) string { return strings.ReplaceAll(s, `\n`, "\n") }
