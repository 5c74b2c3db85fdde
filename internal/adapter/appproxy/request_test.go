package appproxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestAppSeesTheRequestAsItWas(t *testing.T) {
	seen := make(chan *http.Request, 1)
	url, client, _ := app(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header()["X-Many"] = []string{"1", "2"}
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	req := newRequest(t, "PATCH", url+"/a%2Fb//c/..;x?q=1&q=%20", nil)
	req.Host = "example.com:8080"
	req.Header = http.Header{
		"X-Repeated":   {"one", "two"},
		"Cookie":       {"a=1; b=2"},
		"Te":           {"trailers"},
		"User-Agent":   {"test"},
		"X-Underscore": {"tab\there"},
	}
	resp, body := do(t, client, req)
	got := receive(t, seen, "the request")

	if got.RequestURI != "/a%2Fb//c/..;x?q=1&q=%20" || got.Method != "PATCH" || got.Host != "example.com:8080" {
		t.Errorf("app saw %s %s of %s", got.Method, got.RequestURI, got.Host)
	}
	if got.ContentLength != 0 || got.Header.Get("Content-Length") != "0" {
		t.Errorf("a PATCH without a body should say so; header %v", got.Header)
	}
	got.Header.Del("Content-Length")
	got.Header.Del("Accept-Encoding")
	want := req.Header
	if !equalHeaders(got.Header, want) {
		t.Errorf("app saw header\n%v, want\n%v", got.Header, want)
	}
	if resp.StatusCode != http.StatusTeapot || body != "short and stout" || !slices.Equal(resp.Header["X-Many"], []string{"1", "2"}) {
		t.Errorf("client got %d %q %v", resp.StatusCode, body, resp.Header)
	}
}

func equalHeaders(a, b http.Header) bool {
	if len(a) != len(b) {
		return false
	}
	for name, values := range a {
		if !slices.Equal(values, b[name]) {
			return false
		}
	}
	return true
}

func TestHopByHopFieldsStayHere(t *testing.T) {
	seen := make(chan http.Header, 1)
	a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			seen <- req.Header
			_, _ = io.WriteString(c, lines("HTTP/1.1 200 OK", "Connection: X-Private", "X-Private: 1",
				"Keep-Alive: timeout=5", "Proxy-Connection: x", "Upgrade: h2c", "X-Kept: 1", "Content-Length: 0", "", ""))
		}
	})
	p := newProxy(t, a.addr)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = http.Header{
		"Connection": {"X-Hop, close"}, "X-Hop": {"1"}, "Keep-Alive": {"1"}, "Proxy-Connection": {"1"},
		"Transfer-Encoding": {"chunked"}, "Content-Length": {"7"}, "Trailer": {"X"}, "Te": {"gzip"}, "Upgrade": {"websocket"},
		"Http2-Settings": {"x"}, "X-Kept": {"1"}, "Host": {"other"},
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	if got := receive(t, seen, "the request"); !equalHeaders(got, http.Header{"X-Kept": {"1"}}) {
		t.Errorf("app saw %v", got)
	}
	got := w.Result().Header //nolint:bodyclose // a recorder's
	for _, name := range []string{"Connection", "X-Private", "Keep-Alive", "Proxy-Connection", "Upgrade"} {
		if got.Values(name) != nil {
			t.Errorf("client got %s: %v", name, got.Values(name))
		}
	}
	if got.Get("X-Kept") != "1" {
		t.Error("client did not get X-Kept")
	}
}

func TestCookiesAreJoined(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["Cookie"] = []string{"a=1", "b=2", "c=3"}
	head, _, err := appendHead(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		t.Fatal(err)
	}
	if got := req.Header["Cookie"]; !slices.Equal(got, []string{"a=1; b=2; c=3"}) {
		t.Errorf("cookies %q", got)
	}
}

func TestRefusesWhatCouldSmuggleARequest(t *testing.T) {
	const evil = "\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
	tests := map[string]func(*http.Request){
		"path":                func(r *http.Request) { r.RequestURI = "/ HTTP/1.1" + evil },
		"path space":          func(r *http.Request) { r.RequestURI = "/a b" },
		"path tab":            func(r *http.Request) { r.RequestURI = "/a\tb" },
		"path nul":            func(r *http.Request) { r.RequestURI = "/a\x00b" },
		"path without slash":  func(r *http.Request) { r.RequestURI = "admin"; r.URL.Path = "admin"; r.URL.Host = "" },
		"asterisk":            func(r *http.Request) { r.RequestURI = "*"; r.URL.Path = "*" },
		"method":              func(r *http.Request) { r.Method = "GET / HTTP/1.1" + evil },
		"method empty":        func(r *http.Request) { r.Method = "" },
		"connect":             func(r *http.Request) { r.Method = "CONNECT" },
		"host":                func(r *http.Request) { r.Host = "a" + evil },
		"value CRLF":          func(r *http.Request) { r.Header["X"] = []string{"1" + evil} },
		"value LF":            func(r *http.Request) { r.Header["X"] = []string{"1\nY: 2"} },
		"value CR":            func(r *http.Request) { r.Header["X"] = []string{"1\rY: 2"} },
		"value nul":           func(r *http.Request) { r.Header["X"] = []string{"1\x00"} },
		"cookie joined":       func(r *http.Request) { r.Header["Cookie"] = []string{"a=1", "b\r\nX: 1"} },
		"name with colon":     func(r *http.Request) { r.Header["X: 1\r\nTransfer-Encoding"] = []string{"chunked"} },
		"name with space":     func(r *http.Request) { r.Header["Transfer-Encoding "] = []string{"chunked"} },
		"name empty":          func(r *http.Request) { r.Header[""] = []string{"1"} },
		"trailer name":        func(r *http.Request) { r.Trailer = http.Header{"X\r\nY": nil}; withBody(r, -1) },
		"trailer not allowed": func(r *http.Request) { r.Trailer = http.Header{"Content-Length": nil}; withBody(r, -1) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			a := rawApp(t, answers(okAnswer("")))
			r := httptest.NewRequest("GET", "/", nil)
			spoil(r)
			w := httptest.NewRecorder()
			newProxy(t, a.addr).ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest {
				t.Errorf("status %d, want 400", w.Code)
			}
			if n := a.accepted(); n != 0 {
				t.Errorf("the app got %d connections", n)
			}
		})
	}
}

func withBody(r *http.Request, length int64) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), length
}

func TestFramingFieldsOfTheRequestAreNotBelieved(t *testing.T) {
	for _, length := range []int64{-1, 4} {
		r := httptest.NewRequest("POST", "/", nil)
		withBody(r, length)
		r.Header = http.Header{"Content-Length": {"1"}, "Transfer-Encoding": {"identity"}, "Content_Length": {"9"}}
		head, _, err := appendHead(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			t.Fatal(err)
		}
		if got.ContentLength != length || (length < 0) != slices.Equal(got.TransferEncoding, []string{"chunked"}) {
			t.Errorf("length %d: app reads length %d, encoding %v", length, got.ContentLength, got.TransferEncoding)
		}
	}
}

func TestNonASCIIPathIsEscaped(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RequestURI = "/\xc3\xa4?\xff"
	head, _, err := appendHead(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	if want := "GET /%C3%A4?%FF HTTP/1.1\r\n"; !strings.HasPrefix(string(head), want) {
		t.Errorf("head %q, want %q", head, want)
	}
}

func TestRequestBodies(t *testing.T) {
	url, client, p := app(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Got-Length", strconv.FormatInt(r.ContentLength, 10))
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	for _, size := range []int{0, 1, uploadBuffer - 12, uploadBuffer, uploadBuffer + 1, 1 << 20} {
		body := make([]byte, size)
		_, _ = rand.Read(body)
		for _, known := range []bool{true, false} {
			var reader io.Reader = bytes.NewReader(body)
			want := int64(size)
			if !known {
				reader, want = onlyReader{reader}, -1
			}
			resp, got := do(t, client, newRequest(t, "POST", url, reader))
			if got != string(body) {
				t.Errorf("size %d known %v: echo differs, %d bytes", size, known, len(got))
			}
			if l := resp.Header.Get("Got-Length"); l != strconv.FormatInt(want, 10) {
				t.Errorf("size %d known %v: app saw length %s", size, known, l)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) != 1 {
		t.Errorf("%d idle connections, want the one that served all", len(p.idle))
	}
}

func TestRequestTrailers(t *testing.T) {
	seen := make(chan http.Header, 1)
	url, client, _ := app(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r.Trailer
	})
	req := newRequest(t, "POST", url, strings.NewReader("body with a length"))
	req.Trailer = http.Header{"X-Sum": {"42"}, "X-Late": nil}
	req.Trailer.Set("X-Late", "yes")
	do(t, client, req)
	if got := receive(t, seen, "trailers"); got.Get("X-Sum") != "42" || got.Get("X-Late") != "yes" {
		t.Errorf("app saw trailers %v", got)
	}
}

// FuzzAppendHead checks that whatever head goes out, an HTTP/1.1 server finds
// exactly one request in it, with the body that we meant.
func FuzzAppendHead(f *testing.F) {
	f.Add("GET", "/", "example.com", "X-A", "1", int64(0))
	f.Add("POST", "/a?b", "example.com", "Content-Length", "5", int64(3))
	f.Add("POST", "/%zz\x80", "[::1]:80", "Connection", "upgrade", int64(-1))
	f.Add("GET", "/\r\n\r\n", "h\r\n", "A\r\nB", "c\r\nd", int64(-1))
	f.Fuzz(func(t *testing.T, method, target, host, name, value string, length int64) {
		r := &http.Request{
			Method: method, RequestURI: target, URL: &url.URL{Path: "/"}, Host: host,
			Header: http.Header{name: {value}}, ContentLength: max(length, -1),
			Body: io.NopCloser(strings.NewReader("")),
		}
		head, framing, err := appendHead(nil, r)
		if err != nil {
			return
		}
		in := bufio.NewReader(bytes.NewReader(head))
		got, err := http.ReadRequest(in)
		if err != nil {
			// Go's parser is stricter with URLs and hosts than the grammar;
			// what matters is that no second request is in the bytes.
			if n := bytes.Count(head, []byte("\r\n\r\n")); n != 1 || !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
				t.Fatalf("%d ends in head %q", n, head)
			}
			return
		}
		if in.Buffered() != 0 {
			t.Fatalf("bytes behind the head in %q", head)
		}
		if !framing.body && len(got.TransferEncoding) > 0 || framing.body && framing.length != got.ContentLength {
			t.Fatalf("framing %+v, app reads %d %v from %q", framing, got.ContentLength, got.TransferEncoding, head)
		}
	})
}
