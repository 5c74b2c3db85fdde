package adapter

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// BenchmarkThroughTunnel is a request's whole way from RoundTrip over the
// tunnel to an app and back, in one process, over loopback.
func BenchmarkThroughTunnel(b *testing.B) {
	big := make([]byte, 168161)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			w.Header().Set("Content-Length", "168161")
			_, _ = w.Write(big)
			return
		}
		_, _ = io.WriteString(w, "pong")
	}))
	defer app.Close()
	addr := app.Listener.Addr().String()
	p := appproxy.New(appproxy.Config{Address: addr, Fail: failRequest})
	defer p.Close()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
	defer transport.CloseIdleConnections()
	rp := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: addr}) },
		Transport: transport,
	}
	for _, path := range []string{"/ping", "/big"} {
		b.Run("lean"+path, func(b *testing.B) { benchmarkTunnel(b, p, path) })
		b.Run("reverseproxy"+path, func(b *testing.B) { benchmarkTunnel(b, rp, path) })
	}
}

func benchmarkTunnel(b *testing.B, h http.Handler, path string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	listener := tunnel.NewListener(ln, tunnel.ListenerConfig{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = listener.Serve()
	}()
	defer func() {
		_ = listener.Close()
		<-served
	}()
	ev := invoke.NewEvent("bench", ln.Addr().String(), "", 100)
	tunnels := make(chan tunnel.Tunnel, 1)
	defer listener.Expect(ev.Instance, ev.Secret, func(t tunnel.Tunnel) { tunnels <- t })()
	session, err := tunnel.Dial(b.Context(), tunnel.DialConfig{
		Address: ev.Router, Instance: ev.Instance, Secret: ev.Secret, Handler: h,
		Ready: tunnel.Ready{MaxConcurrent: 100, Deadline: time.Now().Add(time.Hour)},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer session.Close() //nolint:errcheck // always nil
	tun := <-tunnels
	defer tun.Close() //nolint:errcheck // always nil
	b.ReportAllocs()
	b.SetParallelism(25)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), "GET", "http://example.com"+path, nil)
			if err != nil {
				b.Error(err)
				return
			}
			resp, err := tun.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}
