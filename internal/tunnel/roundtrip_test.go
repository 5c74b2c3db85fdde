package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// seen is what a handler saw of a request.
type seen struct {
	Method, URI, Host string
	Header, Trailer   http.Header
	Length            int64
	Body              string
	BodyErr           error
}

// recorder is a handler that answers 200 and tells what it saw.
func recorder(ch chan<- seen) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		ch <- seen{
			r.Method, r.RequestURI, r.Host, maps.Clone(r.Header), maps.Clone(r.Trailer),
			r.ContentLength, string(body), err,
		}
	})
}

func do(t testing.TB, p Tunnel, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: reading body: %v", r.Method, r.URL, err)
	}
	_ = resp.Body.Close()
	return resp, string(body)
}

func TestTargetsByteForByte(t *testing.T) {
	ch := make(chan seen, 1)
	p := connectPair(t, ListenerConfig{}, recorder(ch))
	for _, target := range []string{
		"/", "/?", "/??", "/?a=b&&c=%zz", "//", "//a//b", "//example.com/x", "///", "/a%2Fb", "/a%2fb", "/%41",
		"/a/../b", "/./", "/..", "/.%2e/", "/a|b", `/"quoted"`, "/^`{}", "/{a}%2F", "/\xc3\xbc", "/%C3%BC", "/%ff",
		"/a;b=c", "/a:b@c", "/a b", "/?q=a b", "/?q=\"|\xc3\xbc", "/a+b", "/*", "/?/x//y", "/http://x/y", "//|//",
	} {
		u, err := url.ParseRequestURI(target) // as net/http's server does
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"example.com", "lambda-dispatch", "[::1]:8080"} {
			r := &http.Request{Method: "GET", URL: &url.URL{}, Host: host}
			*r.URL = *u
			r.URL.Scheme, r.URL.Host = "http", "lambda-dispatch" // as a proxy does
			resp, _ := do(t, p, r)
			if got := receive(t, ch); got.URI != target || got.Host != host {
				t.Errorf("sent %q to %q, app got %q to %q", target, host, got.URI, got.Host)
			}
			if resp.Request != r {
				t.Error("response has another request")
			}
		}
	}
	r := &http.Request{Method: "OPTIONS", URL: &url.URL{Path: "*"}, Host: "example.com"}
	do(t, p, r)
	if got := receive(t, ch); got.URI != "*" || got.Method != "OPTIONS" {
		t.Errorf("OPTIONS * arrived as %s %q", got.Method, got.URI)
	}
	for _, m := range []string{"PROPFIND", "M-SEARCH", "get", "QUERY", "DELETE", "TRACE"} {
		do(t, p, request(t, m, "/m"))
		if got := receive(t, ch); got.Method != m {
			t.Errorf("%s arrived as %s", m, got.Method)
		}
	}
}

func TestRequestHeaders(t *testing.T) {
	tests := []struct {
		name     string
		in, want http.Header
	}{
		{"nothing is added", http.Header{}, http.Header{}},
		{"nil", nil, http.Header{}},
		{"repeated in order", http.Header{"X-A": {"2", "1", "2", ""}}, http.Header{"X-A": {"2", "1", "2", ""}}},
		{"obs-text", http.Header{"X-A": {"\xe9\x80"}}, http.Header{"X-A": {"\xe9\x80"}}},
		{"agent", http.Header{"User-Agent": {"x"}}, http.Header{"User-Agent": {"x"}}},
		{"encoding", http.Header{"Accept-Encoding": {"br"}}, http.Header{"Accept-Encoding": {"br"}}},
		{
			"hop by hop",
			http.Header{
				"Connection": {"close, x-a"}, "Keep-Alive": {"timeout=5"}, "Proxy-Connection": {"x"},
				"Transfer-Encoding": {"chunked"}, "Upgrade": {"h2c"}, "X-A": {"kept: Caddy's business"},
			},
			http.Header{"X-A": {"kept: Caddy's business"}},
		},
		{"te", http.Header{"Te": {"gzip, trailers"}}, http.Header{"Te": {"trailers"}}},
		{"te without trailers", http.Header{"Te": {"gzip"}}, http.Header{}},
		{
			"spoofed",
			http.Header{
				"Lambda-Dispatch-Upgrade": {"x"}, "Lambda-Dispatch-Error": {"x"}, "lambda-dispatch-cookie": {"x"},
				"LAMBDA-DISPATCH-X": {"x"}, "Lambda-Dispatchy": {"ok"},
			},
			http.Header{"Lambda-Dispatchy": {"ok"}},
		},
		{"cookie", http.Header{"Cookie": {"a=1; b=2"}}, http.Header{"Cookie": {"a=1; b=2"}}},
		{"cookie without space", http.Header{"Cookie": {"a=1;b=2"}}, http.Header{"Cookie": {"a=1;b=2"}}},
		{"cookie lines", http.Header{"Cookie": {"a=1", "b=2"}}, http.Header{"Cookie": {"a=1", "b=2"}}},
		{"cookie trash", http.Header{"Cookie": {"; ;;a=1;  b;"}}, http.Header{"Cookie": {"; ;;a=1;  b;"}}},
		{"empty cookie", http.Header{"Cookie": {""}}, http.Header{"Cookie": {""}}},
		{"expect without body", http.Header{"Expect": {"100-continue"}}, http.Header{"Expect": {"100-continue"}}},
		{"large", http.Header{"X-A": {strings.Repeat("x", 300<<10)}}, http.Header{"X-A": {strings.Repeat("x", 300<<10)}}},
	}
	ch := make(chan seen, 1)
	p := connectPair(t, ListenerConfig{}, recorder(ch))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, "GET", "/")
			r.Header = tt.in
			before := maps.Clone(tt.in)
			do(t, p, r)
			if got := receive(t, ch); !reflect.DeepEqual(got.Header, tt.want) {
				t.Errorf("app got %q, want %q", got.Header, tt.want)
			}
			if !reflect.DeepEqual(tt.in, before) {
				t.Errorf("RoundTrip changed the request's header to %q", tt.in)
			}
		})
	}
	t.Run("connection close does not close the tunnel", func(t *testing.T) {
		r := request(t, "GET", "/")
		r.Close = true
		do(t, p, r)
		receive(t, ch)
		do(t, p, request(t, "GET", "/"))
		receive(t, ch)
	})
}

func TestRequestBodies(t *testing.T) {
	ch := make(chan seen, 1)
	p := connectPair(t, ListenerConfig{}, recorder(ch))
	big := strings.Repeat("0123456789abcdef", 300_000)
	for _, tt := range []struct {
		name   string
		body   io.Reader
		length int64
		want   string
	}{
		{"sized", strings.NewReader("hello"), 5, "hello"},
		{"unknown", strings.NewReader("hello"), -1, "hello"},
		{"unknown and empty", strings.NewReader(""), -1, ""},
		{"4.8 MB", strings.NewReader(big), int64(len(big)), big},
		{"none", nil, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, "POST", "/")
			if tt.body != nil {
				r.Body = io.NopCloser(tt.body)
			}
			r.ContentLength = tt.length
			do(t, p, r)
			got := receive(t, ch)
			if got.Body != tt.want || got.BodyErr != nil || got.Length != tt.length {
				t.Errorf("app got %d bytes of %d, %v", len(got.Body), got.Length, got.BodyErr)
			}
		})
	}
}

func TestRequestTrailers(t *testing.T) {
	ch := make(chan seen, 1)
	p := connectPair(t, ListenerConfig{}, recorder(ch))
	for range 2 { // a second time on the same tunnel: the first must not have harmed it
		r := request(t, "POST", "/")
		r.ContentLength = -1
		r.Trailer = http.Header{"X-Sum": nil, "Lambda-Dispatch-X": nil}
		r.Body = &eofHook{strings.NewReader("body"), func() {
			// What a client may send in HTTP/1.1 and Go's server hands on.
			r.Trailer["X-Sum"] = []string{"42"}
			r.Trailer["Authorization"] = []string{"x"}
			r.Trailer["Content-Length"] = []string{"7"}
			r.Trailer["Connection"] = []string{"x"}
			r.Trailer["If-Match"] = []string{"x"}
			r.Trailer["X-Bad"] = []string{"a\nb"}
			r.Trailer["Lambda-Dispatch-X"] = []string{"x"}
		}}
		do(t, p, r)
		if got := receive(t, ch); !reflect.DeepEqual(got.Trailer, http.Header{"X-Sum": {"42"}}) || got.Body != "body" {
			t.Errorf("app got %q with trailer %q", got.Body, got.Trailer)
		}
	}
}

type eofHook struct {
	r    io.Reader
	hook func()
}

func (h *eofHook) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if errors.Is(err, io.EOF) {
		h.hook()
	}
	return n, err
}

func (h *eofHook) Close() error { return nil }

func TestResponses(t *testing.T) {
	tests := []struct {
		name    string
		method  string
		handler http.HandlerFunc
		status  int
		header  http.Header
		trailer http.Header
		length  int64
		body    string
	}{
		{
			name: "nothing is added", handler: func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "<html>")
			}, status: 200, header: http.Header{}, length: -1, body: "<html>",
		},
		{name: "empty", handler: func(http.ResponseWriter, *http.Request) {}, status: 200, header: http.Header{}},
		{
			name: "status 519", handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "3")
				w.WriteHeader(519)
				_, _ = io.WriteString(w, "odd")
			}, status: 519, header: http.Header{"Content-Length": {"3"}}, length: 3, body: "odd",
		},
		{name: "204", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, status: 204, header: http.Header{}},
		{name: "304", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		}, status: 304, header: http.Header{"Etag": {`"x"`}}},
		{name: "head", method: "HEAD", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "168161")
		}, status: 200, header: http.Header{"Content-Length": {"168161"}}, length: 168161},
		{
			name: "fields that must not pass", handler: func(w http.ResponseWriter, _ *http.Request) {
				h := w.Header()
				h["Connection"] = []string{"close"}
				h["Keep-Alive"] = []string{"timeout=5"}
				h["Lambda-Dispatch-Error"] = []string{"draining"}
				h["lambda-dispatch-status"] = []string{"500"}
				h["Lambda-Dispatch-Upgrade"] = []string{"x"}
				h["Set-Cookie"] = []string{"b=2", "a=1"}
				h["Date"] = []string{"then"}
				w.WriteHeader(201)
			}, status: 201, header: http.Header{"Set-Cookie": {"b=2", "a=1"}, "Date": {"then"}},
		},
		{
			name: "trailers", handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				_, _ = io.WriteString(w, "body")
				w.Header().Set("X-Sum", "42")
				w.Header().Set(http.TrailerPrefix+"X-Late", "1")
				w.Header().Set(http.TrailerPrefix+"Lambda-Dispatch-X", "1")
			}, status: 200, header: http.Header{}, trailer: http.Header{"X-Sum": {"42"}, "X-Late": {"1"}}, length: -1, body: "body",
		},
	}
	handlers := make(map[string]http.HandlerFunc)
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers[r.Header.Get("X-Test")](w, r)
	}))
	for _, tt := range tests {
		handlers[tt.name] = tt.handler
		for _, body := range []string{"", "request body that nobody reads"} {
			t.Run(tt.name+"/"+body, func(t *testing.T) {
				r := request(t, "POST", "/")
				if tt.method != "" {
					r.Method = tt.method
				}
				if body != "" {
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				}
				r.Header.Set("X-Test", tt.name)
				resp, got := do(t, p, r)
				if resp.StatusCode != tt.status || got != tt.body || resp.ContentLength != tt.length {
					t.Errorf("got %d, length %d, %q", resp.StatusCode, resp.ContentLength, got)
				}
				if want := fmt.Sprintf("%d %s", tt.status, http.StatusText(tt.status)); resp.Status != want {
					t.Errorf("status line is %q, want %q", resp.Status, want)
				}
				if !reflect.DeepEqual(resp.Header, tt.header) {
					t.Errorf("header is %q, want %q", resp.Header, tt.header)
				}
				if !maps.EqualFunc(resp.Trailer, tt.trailer, slices.Equal) {
					t.Errorf("trailer is %q, want %q", resp.Trailer, tt.trailer)
				}
			})
		}
	}
}

func TestInformationalResponses(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.Header().Set("Lambda-Dispatch-X", "1")
		w.WriteHeader(103)
		w.WriteHeader(103)
		_, _ = io.WriteString(w, "ok")
	}))
	var got []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got = append(got, fmt.Sprint(code, h))
			return nil
		},
	})
	_, body := do(t, p, requestCtx(ctx, t, "GET", "/"))
	want := "103 map[Link:[</a.css>; rel=preload]]"
	if body != "ok" || !slices.Equal(got, []string{want, want}) {
		t.Errorf("got %q before %q", got, body)
	}
}

func TestExpectContinue(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Expect") != "100-continue" {
			t.Errorf("app got Expect %q", r.Header["Expect"])
		}
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	t.Run("asked for", func(t *testing.T) {
		r := request(t, "POST", "/yes")
		r.Header.Set("Expect", "100-continue")
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 4
		if _, body := do(t, p, r); body != "body" {
			t.Errorf("got %q", body)
		}
	})
	t.Run("not asked for", func(t *testing.T) {
		r := request(t, "POST", "/no")
		r.Header.Set("Expect", "100-continue")
		r.Body, r.ContentLength = &unreadable{t: t}, 4
		resp, _ := do(t, p, r)
		if resp.StatusCode != 417 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
	waitStreams(t, p)
}

type unreadable struct{ t *testing.T }

func (u *unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}
func (u *unreadable) Close() error { return nil }

// waitStreams waits until only the control stream is open.
func waitStreams(t testing.TB, p *pair) {
	t.Helper()
	e := p.Tunnel.(*tunnel).engine
	changed := make(chan struct{}, 1)
	e.Notify(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	for e.Streams() > 1 {
		wait(t, changed)
	}
	e.Notify(func() {})
}

// The app may answer with any status before it has read the body.
func TestFullDuplexWithErrorStatus(t *testing.T) {
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		p := connectPair(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(519)
			w.(http.Flusher).Flush()
			buf := make([]byte, 100)
			for {
				n, err := r.Body.Read(buf)
				if _, werr := w.Write(bytes.ToUpper(buf[:n])); werr != nil {
					t.Errorf("writing: %v", werr)
				}
				w.(http.Flusher).Flush()
				if err != nil {
					return
				}
			}
		}))
		pr, pw := io.Pipe()
		r := request(t, "POST", "/")
		r.Body, r.ContentLength = pr, -1
		resp, err := p.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 519 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		buf := make([]byte, 5)
		for range 100 {
			if _, err := io.WriteString(pw, "hello"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "HELLO" {
				t.Fatalf("got %q, %v", buf, err)
			}
		}
		_ = pw.Close()
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
			t.Errorf("got %q, %v at the end", rest, err)
		}
		_ = resp.Body.Close()
	})
}

func TestCancelReachesTheApp(t *testing.T) {
	started, cancelled := make(chan struct{}), make(chan struct{})
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.(http.Flusher).Flush()
		}
		started <- struct{}{}
		<-r.Context().Done()
		cancelled <- struct{}{}
	}))
	t.Run("before the response", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() {
			_, err := p.RoundTrip(requestCtx(ctx, t, "GET", "/"))
			errs <- err
		}()
		wait(t, started)
		cancel()
		wait(t, cancelled)
		if err := receive(t, errs); !errors.Is(err, context.Canceled) || !err.(*RoundTripError).Processed {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by closing the body", func(t *testing.T) {
		resp := make(chan *http.Response, 1)
		go func() {
			r, err := p.RoundTrip(request(t, "GET", "/body"))
			if err != nil {
				t.Error(err)
			}
			resp <- r
		}()
		wait(t, started)
		_ = receive(t, resp).Body.Close()
		wait(t, cancelled)
	})
	waitStreams(t, p)
	for start := time.Now(); p.session.InFlight() > 0; runtime.Gosched() {
		if time.Since(start) > patient {
			t.Fatalf("%d requests in flight", p.session.InFlight())
		}
	}
}

// Whatever ends a response early, it must not look complete.
func TestCutResponses(t *testing.T) {
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		for name, cut := range map[string]func(*pair){
			"abort":         nil,
			"session close": func(p *pair) { _ = p.session.Close() },
			"tunnel close":  func(p *pair) { _ = p.Close() },
			"kill":          func(p *pair) { _ = p.session.conn.raw.Close() },
		} {
			for _, sized := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v", name, sized), func(t *testing.T) {
					p := connectPair(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if sized {
							w.Header().Set("Content-Length", "100000")
						}
						_, _ = w.Write(make([]byte, 50000))
						w.(http.Flusher).Flush()
						if cut == nil {
							panic(http.ErrAbortHandler)
						}
						<-r.Context().Done()
					}))
					resp, err := p.RoundTrip(request(t, "GET", "/"))
					if err != nil {
						t.Fatal(err)
					}
					if cut != nil {
						if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
							t.Fatal(err)
						}
						cut(p)
					}
					n, err := io.Copy(io.Discard, resp.Body)
					if err == nil {
						t.Errorf("%d bytes ended like a complete response", n)
					}
					_ = resp.Body.Close()
				})
			}
		}
	})
}

func TestAbortBeforeResponse(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
	}))
	_, err := p.RoundTrip(request(t, "GET", "/abort"))
	if rt, ok := errors.AsType[*RoundTripError](err); !ok || !rt.Processed {
		t.Errorf("got %v, want an error of a request that may have been processed", err)
	}
	do(t, p, request(t, "GET", "/"))
}

func TestFail(t *testing.T) {
	for _, code := range Codes {
		p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-App", "half a response")
			Fail(wrapped{w}, code, "dial tcp 127.0.0.1:8080:\r\nconnection refused "+strings.Repeat("é", 1000))
		}))
		_, err := p.RoundTrip(request(t, "GET", "/"))
		rt, _ := errors.AsType[*RoundTripError](err)
		ae, ok := errors.AsType[*AdapterError](err)
		if !ok || ae.Code != code || !strings.HasPrefix(ae.Message, "dial tcp 127.0.0.1:8080:  connection refused é") {
			t.Fatalf("got %v", err)
		}
		if len(ae.Message) > maxErrorMessage {
			t.Errorf("message has %d bytes", len(ae.Message))
		}
		if want := code == CodeAppFailed || code == CodeAppTimeout; rt.Processed != want {
			t.Errorf("%s: processed is %v", code, rt.Processed)
		}
	}
}

// wrapped is a middleware's writer.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestAdapterErrorOfTheFuture(t *testing.T) {
	if e := parseAdapterError("app_exploded: so it says"); e.Code != CodeAppFailed || e.Message != "so it says" {
		t.Errorf("got %+v", e)
	}
}

func TestHeaderLimits(t *testing.T) {
	p := connectPair(t, ListenerConfig{MaxHeaderBytes: 64 << 10}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			w.Header().Set("X-Large", strings.Repeat("x", 60<<10))
		case "/too-large":
			w.Header().Set("X-Large", strings.Repeat("x", 65<<10))
		case "/early-hints":
			w.Header().Set("X-Large", strings.Repeat("x", 65<<10))
			w.WriteHeader(103)
		case "/trailer":
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(http.TrailerPrefix+"X-Large", strings.Repeat("x", 65<<10))
		}
	}), func(c *DialConfig) { c.MaxHeaderBytes = 64 << 10 })

	if resp, _ := do(t, p, request(t, "GET", "/large")); len(resp.Header.Get("X-Large")) != 60<<10 {
		t.Error("large header was lost")
	}
	for _, path := range []string{"/too-large", "/early-hints"} {
		_, err := p.RoundTrip(request(t, "GET", path))
		if ae, ok := errors.AsType[*AdapterError](err); !ok || ae.Code != CodeAppFailed || !strings.Contains(ae.Message, "65536") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	resp, err := p.RoundTrip(request(t, "GET", "/trailer"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("response with an oversize trailer looks complete")
	}
	_ = resp.Body.Close()

	r := request(t, "GET", "/")
	r.Header.Set("X-Large", strings.Repeat("x", 70<<10))
	_, err = p.RoundTrip(r)
	if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed || !errors.Is(err, ErrHeadersTooLarge) {
		t.Errorf("got %v", err)
	}
	do(t, p, request(t, "GET", "/")) // and the tunnel has survived all that
}

func TestBadRequestsAreNotSent(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("request arrived")
	}))
	for name, change := range map[string]func(*http.Request){
		"query":   func(r *http.Request) { r.URL.RawQuery = "a\nb" },
		"opaque":  func(r *http.Request) { r.URL.Opaque = "/a\x7f" },
		"method":  func(r *http.Request) { r.Method = "G T" },
		"name":    func(r *http.Request) { r.Header["X A"] = []string{"x"} },
		"value":   func(r *http.Request) { r.Header["X-A"] = []string{"a\r\nb"} },
		"host":    func(r *http.Request) { r.Host = "user@example.com" },
		"no url":  func(r *http.Request) { r.URL = nil },
		"no path": func(r *http.Request) { r.URL.Opaque = "x" },
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, "GET", "/")
			body := &closeCounter{Reader: strings.NewReader("x")}
			r.Body, r.ContentLength = body, 1
			change(r)
			_, err := p.RoundTrip(r)
			if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed {
				t.Errorf("got %v", err)
			}
			if body.closed == 0 {
				t.Error("the body was not closed")
			}
		})
	}
}

type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error {
	c.closed++
	return nil
}

// A stalled stream must not stop its neighbours, in either direction.
func TestBackPressure(t *testing.T) {
	const streams = 10
	release := make(chan struct{})
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stall-down": // the router does not read
			buf := make([]byte, FrameSize)
			for {
				if _, err := w.Write(buf); err != nil {
					return
				}
			}
		case "/stall-up": // the app does not read
			w.(http.Flusher).Flush()
			<-release
		default:
			_, _ = io.Copy(w, r.Body)
		}
	}), func(c *DialConfig) { c.Ready.MaxConcurrent = streams + 1 })

	var stalled []io.Closer
	for range streams / 2 {
		resp, err := p.RoundTrip(request(t, "GET", "/stall-down"))
		if err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, resp.Body)

		r := request(t, "POST", "/stall-up")
		full := &stallWatch{full: make(chan struct{})}
		r.Body, r.ContentLength = full, -1
		if resp, err = p.RoundTrip(r); err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, resp.Body)
		wait(t, full.full) // its window is used up
	}
	big := strings.Repeat("x", 3*streamWindow)
	r := request(t, "POST", "/echo")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(big)), int64(len(big))
	if _, body := do(t, p, r); body != big {
		t.Error("echo was not equal")
	}
	for _, c := range stalled {
		_ = c.Close()
	}
	close(release)
	waitStreams(t, p)
}

// stallWatch is an endless body that tells when as much has been read as the
// window of a stream takes.
type stallWatch struct {
	n    int
	full chan struct{}
}

func (s *stallWatch) Read(p []byte) (int, error) {
	if s.n < streamWindow && s.n+len(p) >= streamWindow {
		close(s.full)
	}
	s.n += len(p)
	return len(p), nil
}

func (s *stallWatch) Close() error { return nil }

func TestFirstByteAtOnce(t *testing.T) {
	next := make(chan struct{})
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	}))
	resp, err := p.RoundTrip(request(t, "GET", "/"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := io.ReadFull(resp.Body, make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		next <- struct{}{}
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v at the end", err)
	}
	_ = resp.Body.Close()
}

// The server ends the connection if the handlers of cancelled streams pile up;
// clients that leave while the app takes its time must not get near that.
func TestManyCancels(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 1000)
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
	}))
	for range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := p.RoundTrip(requestCtx(ctx, t, "GET", "/slow"))
			ended <- err
		}()
		select {
		case <-arrived:
		case <-time.After(5 * time.Millisecond): // all handlers that may run do
		}
		cancel()
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	close(release)
	do(t, p, request(t, "GET", "/"))
	waitStreams(t, p)
}
