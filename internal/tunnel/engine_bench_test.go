//go:build unix

package tunnel

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
)

// The other engine that the package comment speaks of.

type xnetRouter struct {
	stockRouter
	cc *http2.ClientConn //nolint:staticcheck // the deprecated one is what is compared with
}

func (e *xnetRouter) RoundTrip(r *http.Request) (*http.Response, error) { return e.cc.RoundTrip(r) }
func (e *xnetRouter) Streams() int                                      { return e.cc.State().StreamsActive }
func (e *xnetRouter) Notify(func())                                     {}
func (e *xnetRouter) Close() error                                      { return e.cc.Close() }

func xnetTransport(cfg engineConfig) func(net.Conn) (routerEngine, error) {
	t := &http2.Transport{ //nolint:staticcheck // see above
		AllowHTTP: true, DisableCompression: true, MaxReadFrameSize: uint32(cfg.FrameSize),
		ReadIdleTimeout: cfg.PingInterval, PingTimeout: cfg.PingTimeout, WriteByteTimeout: cfg.WriteTimeout,
	}
	return func(c net.Conn) (routerEngine, error) {
		cc, err := t.NewClientConn(c)
		return &xnetRouter{cc: cc}, err
	}
}

func serveXnet(c *conn, cfg engineConfig, h http.Handler) {
	s := &http2.Server{ //nolint:staticcheck // see above
		MaxConcurrentStreams: uint32(cfg.MaxStreams), MaxReadFrameSize: uint32(cfg.FrameSize),
		MaxUploadBufferPerStream: int32(cfg.StreamWindow), MaxUploadBufferPerConnection: int32(cfg.ConnWindow),
		ReadIdleTimeout: cfg.PingInterval, PingTimeout: cfg.PingTimeout, WriteByteTimeout: cfg.WriteTimeout,
	}
	s.ServeConn(c, &http2.ServeConnOpts{Handler: h}) //nolint:staticcheck // see above
}

// BenchmarkRoundTrip is both ends of a request over loopback TCP, the handler
// included: a GET of 4 bytes and one of 168,161, which is the image of the
// comparison with others.
func BenchmarkRoundTrip(b *testing.B) {
	for _, engine := range []struct {
		name    string
		router  routerEngines
		adapter adapterEngine
	}{
		{"nethttp", stockTransport, serveStock},
		{"xnet", xnetTransport, serveXnet},
	} {
		for _, tls := range []bool{false, true} {
			for _, size := range []int{4, 168_161} {
				b.Run(fmt.Sprintf("engine=%s/tls=%v/size=%d", engine.name, tls, size), func(b *testing.B) {
					cfg := ListenerConfig{engines: engine.router}
					if tls {
						cfg.Identity = testIdentity
					}
					benchmarkRoundTrip(b, cfg, engine.adapter, size)
				})
			}
		}
	}
}

func benchmarkRoundTrip(b *testing.B, cfg ListenerConfig, adapter adapterEngine, size int) {
	body := make([]byte, size)
	length := []string{strconv.Itoa(size)}
	p := connectPair(b, cfg, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Content-Type"] = []string{"image/jpeg"}
		h["Content-Length"] = length
		for rest := body; len(rest) > 0; {
			n := min(len(rest), FrameSize)
			_, _ = w.Write(rest[:n])
			rest = rest[n:]
		}
	}), func(c *DialConfig) { c.engine, c.Ready.MaxConcurrent = adapter, 100 })
	req := request(b, "GET", "/public/silly-test-image.jpg")
	req.Header["User-Agent"] = []string{"bench"}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	before := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op") }()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, FrameSize)
		for pb.Next() {
			resp, err := p.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
			_ = resp.Body.Close()
			if err != nil || n != int64(size) {
				b.Errorf("got %d bytes, %v", n, err)
				return
			}
		}
	})
}

// cpuTime is the processor time of this process in ns, which a busy machine
// disturbs less than the time by the clock.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkHello is what a new tunnel costs both ends.
func BenchmarkHello(b *testing.B) {
	for _, tls := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", tls), func(b *testing.B) {
			var cfg ListenerConfig
			if tls {
				cfg.Identity = testIdentity
			}
			l := listen(b, cfg)
			b.ReportAllocs()
			for b.Loop() {
				tunnels := l.expect(testID, testSecret)
				s, err := Dial(b.Context(), l.dialConfig(http.NotFoundHandler()))
				if err != nil {
					b.Fatal(err)
				}
				t := receive(b, tunnels)
				_ = s.Close()
				wait(b, t.Done())
			}
		})
	}
}
