package tunnel

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
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
			r.Trailer["X-Late"] = []string{"a: b", "", "a: b"}
			r.Trailer["Authorization"] = []string{"x"}
			r.Trailer["Content-Length"] = []string{"7"}
			r.Trailer["Connection"] = []string{"x"}
			r.Trailer["If-Match"] = []string{"x"}
			r.Trailer["X-Bad"] = []string{"a\nb"}
			r.Trailer["Lambda-Dispatch-X"] = []string{"x"}
			r.Trailer[hdrTrailer] = []string{"X-Spoof: x", "Content-Length: 7"}
		}}
		do(t, p, r)
		want := http.Header{"X-Sum": {"42"}, "X-Late": {"a: b", "", "a: b"}}
		if got := receive(t, ch); !reflect.DeepEqual(got.Trailer, want) || got.Body != "body" {
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
