//go:build unix

package tunnel

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"syscall"
	"testing"
)

// BenchmarkRoundTrip is both ends of a request over loopback TCP, the handler
// included: a GET of 4 bytes and one of 168,161, which is the image of the
// comparison with others.
func BenchmarkRoundTrip(b *testing.B) {
	for _, tls := range []bool{false, true} {
		for _, size := range []int{4, 168_161} {
			b.Run(fmt.Sprintf("tls=%v/size=%d", tls, size), func(b *testing.B) {
				var cfg ListenerConfig
				if tls {
					cfg.Identity = testIdentity
				}
				benchmarkRoundTrip(b, cfg, size)
			})
		}
	}
}

func benchmarkRoundTrip(b *testing.B, cfg ListenerConfig, size int) {
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
	}), func(c *DialConfig) { c.Ready.MaxConcurrent = 100 })
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

// BenchmarkUpload is a body of 1 MiB from the router to the adapter.
func BenchmarkUpload(b *testing.B) {
	const size = 1 << 20
	p := connectPair(b, ListenerConfig{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		buf := make([]byte, FrameSize)
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, buf); err != nil || n != size {
			b.Errorf("got %d bytes, %v", n, err)
		}
	}))
	data := make([]byte, size)
	b.SetBytes(size)
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		req := request(b, "POST", "/echo")
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(data)), -1
		resp, err := p.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
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
