package adapter

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// BenchmarkDirect is an event's whole way: event, request, an app on loopback,
// its answer, result. "reconnect" is what it costs to keep no connection from
// one invocation to the next.
func BenchmarkDirect(b *testing.B) {
	header := make([]string, 0, 40)
	for i := range 20 {
		header = append(header, fmt.Sprintf("X-Header-%d", i), strings.Repeat("v", 40))
	}
	page := []byte(strings.Repeat("<p>a page of some words and numbers</p>\n", 1500)) // 60 KB
	cases := []struct {
		name      string
		event     string
		compress  bool
		reconnect bool
	}{
		{"get", urlEvent("GET", "/ping", "", header...), false, false},
		{"get/reconnect", urlEvent("GET", "/ping", "", header...), false, true},
		{"post", urlEvent("POST", "/ping", strings.Repeat("x", 1024), header...), false, false},
		{"page", urlEvent("GET", "/page", ""), false, false},
		{"page/gzip", urlEvent("GET", "/page", "", "accept-encoding", "gzip"), true, false},
		{"page/br", urlEvent("GET", "/page", "", "accept-encoding", "br"), true, false},
		{"page/zstd", urlEvent("GET", "/page", "", "accept-encoding", "zstd"), true, false},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			w := newDirectWorld(b, func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				rw.Header()["Content-Type"] = []string{"text/html"}
				if r.URL.Path == "/page" {
					_, _ = rw.Write(page)
					return
				}
				_, _ = io.WriteString(rw, "pong")
			})
			w.d.cfg.Compress = c.compress
			inv := &lambdaapi.Invocation{RequestID: "r-1", Deadline: time.Now().Add(time.Hour), Event: []byte(c.event)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.d.handle(b.Context(), inv); err != nil {
					b.Fatal(err)
				}
				if c.reconnect {
					w.d.proxy.CloseIdle()
				}
			}
		})
	}
}

// BenchmarkDirectStream has Lambda's end on loopback, too.
func BenchmarkDirectStream(b *testing.B) {
	const size = 8 << 20
	w := newDirectWorld(b, func(rw http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 64<<10)
		for range size / len(piece) {
			_, _ = rw.Write(piece)
		}
	})
	w.d.cfg.Stream = true
	defer close(w.pieces) // every answer has ended by then
	go func() {
		for range w.pieces { //nolint:revive // only the end counts
		}
	}()
	inv := &lambdaapi.Invocation{RequestID: "r-1", Deadline: time.Now().Add(time.Hour), Event: []byte(urlEvent("GET", "/", ""))}
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = w.d.handle(b.Context(), inv) //nolint:errcheck // it has been answered
		<-w.ends
	}
}
