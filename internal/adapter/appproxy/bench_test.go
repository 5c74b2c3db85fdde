package appproxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// nullWriter is a server's end that costs nothing.
type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) WriteHeader(int)             {}
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) FlushError() error           { return nil }
func (w *nullWriter) Flush()                      {}

// cheapApp answers without parsing or allocating, so that what is measured is
// the proxy.
func cheapApp(b *testing.B, body int) string {
	head := lines("HTTP/1.1 200 OK", "Content-Type: text/plain; charset=utf-8", "Date: Mon, 23 Nov 2026 01:00:00 GMT", "")
	answer := []byte(head + strings.Replace(okAnswer(strings.Repeat("x", body)), "HTTP/1.1 200 OK\r\n", "", 1))
	return rawApp(b, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		for {
			left := 0
			for {
				line, err := r.ReadSlice('\n')
				if err != nil {
					return
				}
				if bytes.HasPrefix(line, []byte("Content-Length: 1024")) {
					left = 1024
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := r.Discard(left); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}).addr
}

// BenchmarkProxy compares the proxy with what the standard library offers.
// "transport" is the leanest handler that can be written over http.Transport.
func BenchmarkProxy(b *testing.B) {
	handlers := map[string]func(addr string) http.Handler{
		"lean": func(addr string) http.Handler {
			p := New(Config{Address: addr})
			b.Cleanup(p.Close)
			return p
		},
		"transport":    func(addr string) http.Handler { return transportHandler(b, addr) },
		"reverseproxy": func(addr string) http.Handler { return reverseProxy(b, addr) },
	}
	cases := []struct {
		name         string
		answer, body int
	}{{"get", 4, 0}, {"big", 168161, 0}, {"post", 4, 1024}}
	for _, c := range cases {
		for _, name := range []string{"lean", "transport", "reverseproxy"} {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				h := handlers[name](cheapApp(b, c.answer))
				b.ReportAllocs()
				payload := strings.Repeat("x", c.body)
				template := httptest.NewRequest("GET", "/ping?x=1", nil)
				template.Header = http.Header{
					"User-Agent": {"bench"}, "Accept": {"*/*"}, "Accept-Encoding": {"gzip"},
					"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"example.com"},
				}
				if c.body > 0 {
					template.Method, template.ContentLength = "POST", int64(c.body)
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						r := *template
						if c.body > 0 {
							r.Body = io.NopCloser(strings.NewReader(payload))
						}
						h.ServeHTTP(&nullWriter{make(http.Header)}, r.WithContext(b.Context()))
					}
				})
			})
		}
	}
}

func newTransport(b *testing.B) *http.Transport {
	t := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100, ReadBufferSize: 4 << 10}
	b.Cleanup(t.CloseIdleConnections)
	return t
}

func reverseProxy(b *testing.B, addr string) http.Handler {
	target := &url.URL{Scheme: "http", Host: addr}
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:  newTransport(b),
		BufferPool: pool{},
	}
}

type pool struct{}

func (pool) Get() []byte  { return copyBuffers.Get().(*[copyBuffer]byte)[:] }
func (pool) Put(p []byte) { copyBuffers.Put((*[copyBuffer]byte)(p)) }

func transportHandler(b *testing.B, addr string) http.Handler {
	t := newTransport(b)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := *r
		u := *r.URL
		u.Scheme, u.Host = "http", addr
		out.URL, out.RequestURI = &u, ""
		resp, err := t.RoundTrip(&out)
		if err != nil {
			panic(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read to the end
		copyHeader(w.Header(), resp.Header, false)
		w.WriteHeader(resp.StatusCode)
		buf := pool{}.Get()
		defer pool{}.Put(buf)
		_, _ = io.CopyBuffer(onlyWriter{w}, resp.Body, buf)
	})
}

type onlyWriter struct{ io.Writer }

func BenchmarkAppendHead(b *testing.B) {
	r := httptest.NewRequest("GET", "/ping?x=1", nil)
	for name := range strings.FieldsSeq("User-Agent Accept Accept-Encoding Accept-Language Cookie Referer Sec-Fetch-Dest " +
		"Sec-Fetch-Mode Sec-Fetch-Site X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host") {
		r.Header[name] = []string{strings.Repeat("v", 40)}
	}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := appendHead(buf, r); err != nil {
			b.Fatal(err)
		}
	}
}
