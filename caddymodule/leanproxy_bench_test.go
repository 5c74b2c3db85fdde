package caddymodule

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// cannedTunnel is a tunnel that costs next to nothing.
type cannedTunnel struct {
	body []byte
	end  sync.Once
	done chan struct{}

	mu     sync.Mutex
	accept map[string]func(tunnel.Tunnel)
}

func (c *cannedTunnel) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, Proto: "HTTP/2.0", ProtoMajor: 2, ContentLength: int64(len(c.body)),
		Header: http.Header{
			"Content-Type": {"text/plain"}, "Content-Length": {strconv.Itoa(len(c.body))},
			"Date": {"Mon, 23 Nov 2026 00:00:00 GMT"}, "Cache-Control": {"no-store"},
		},
		Body: io.NopCloser(bytes.NewReader(c.body)),
	}, nil
}

func (c *cannedTunnel) Ready() tunnel.Ready {
	return tunnel.Ready{MaxConcurrent: 100, Deadline: time.Now().Add(time.Hour)}
}
func (c *cannedTunnel) Slots() int                { return 100 }
func (c *cannedTunnel) Drain(string)              { _ = c.Close() }
func (c *cannedTunnel) Draining() <-chan struct{} { return c.done }
func (c *cannedTunnel) Done() <-chan struct{}     { return c.done }
func (c *cannedTunnel) Err() error                { return tunnel.ErrPeerClosed }
func (c *cannedTunnel) Advertise() string         { return "router:1" }
func (c *cannedTunnel) Pin() string               { return "" }

func (c *cannedTunnel) Close() error {
	c.end.Do(func() { close(c.done) })
	return nil
}

func (c *cannedTunnel) Expect(id string, _ []byte, accept func(tunnel.Tunnel)) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accept[id] = accept
	return func() {}
}

func (c *cannedTunnel) Invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	c.mu.Lock()
	accept := c.accept[ev.Instance]
	c.mu.Unlock()
	accept(c)
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	return invoke.Result{Instance: ev.Instance, Reason: invoke.ReasonDrained}, nil
}

// discard is a response that goes nowhere.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkProxy measures what a proxy adds to a request, and "none" what the
// benchmark itself costs.
func BenchmarkProxy(b *testing.B) {
	all := proxies(b)
	for _, size := range []int{4, 168_161} {
		for _, name := range []string{"none", "lean", "caddy"} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				c := &cannedTunnel{body: make([]byte, size), done: make(chan struct{}), accept: map[string]func(tunnel.Tunnel){}}
				p := newTestPool(b, c, c)
				req, _ := http.NewRequest(http.MethodGet, "/ping", nil)
				req.RequestURI, req.RemoteAddr, req.Host, req.Body = "/ping", "127.0.0.1:1234", "localhost:8080", http.NoBody
				req.Header = http.Header{"Accept": {"*/*"}, "User-Agent": {"bench"}, "Accept-Encoding": {"gzip"}}
				b.ReportAllocs()
				for b.Loop() {
					w := &discard{header: http.Header{"Server": {"Caddy"}}}
					r := caddyhttp.PrepareRequest(req, caddy.NewReplacer(), w, &caddyhttp.Server{})
					lease, err := p.Enter()
					if err != nil {
						b.Fatal(err)
					}
					if err := lease.Wait(r.Context()); err != nil {
						b.Fatal(err)
					}
					if name == "none" {
						var resp *http.Response
						if resp, err = lease.RoundTrip(r); err == nil {
							_, err = io.Copy(w, resp.Body)
						}
					} else {
						err = all[name].ServeHTTP(w, r, lease)
					}
					if err != nil {
						b.Fatal(err)
					}
					lease.Release()
				}
			})
		}
	}
}
