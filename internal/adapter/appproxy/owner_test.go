package appproxy

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestReport: the owner of a scope hears of each failure once, and the log does
// not.
func TestReport(t *testing.T) {
	tests := map[string]struct {
		serve  func(int, *net.TCPConn, *bufio.Reader)
		change func(r *http.Request) *http.Request
		code   string
	}{
		"no answer": {code: CodeFailed, serve: func(_ int, _ *net.TCPConn, r *bufio.Reader) { _, _ = http.ReadRequest(r) }},
		"cut": {code: CodeFailed, serve: func(_ int, c *net.TCPConn, r *bufio.Reader) {
			_, _ = http.ReadRequest(r)
			_, _ = io.WriteString(c, lines("HTTP/1.1 200 OK", "Content-Length: 5", "", "x"))
		}},
		"refused": {code: CodeRefused, change: func(r *http.Request) *http.Request {
			r.Header["Bad Name"] = []string{"x"}
			return r
		}},
		"unreachable": {code: CodeUnavailable},
		"cancelled": {code: CodeCancelled, change: func(r *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			return r.WithContext(ctx)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			address := "127.0.0.1:1"
			if tt.serve != nil {
				address = rawApp(t, tt.serve).addr
			}
			var log strings.Builder
			p := New(Config{Address: address, Fail: testFail, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			defer p.Close()
			s := NewScope(p)
			var got []string
			s.Report = func(code string, err error) {
				if err == nil {
					t.Error("no reason")
				}
				got = append(got, code)
			}
			r := httptest.NewRequest("GET", "/", nil)
			if tt.change != nil {
				r = tt.change(r)
			}
			func() {
				defer func() { _ = recover() }() // http.ErrAbortHandler
				s.ServeHTTP(httptest.NewRecorder(), r)
			}()
			if len(got) != 1 || got[0] != tt.code {
				t.Errorf("reported %v, want %s", got, tt.code)
			}
			if log.Len() > 0 {
				t.Errorf("logged %s", log.String())
			}
		})
	}
}

// TestH2IdleTimeout: a connection that was idle for too long is not used again.
func TestH2IdleTimeout(t *testing.T) {
	var conns atomic.Int64
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	srv.Config.Protocols = &protocols
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	for timeout, want := range map[time.Duration]int64{time.Hour: 1, -1: 3} {
		conns.Store(0)
		p := NewH2(Config{Address: srv.Listener.Addr().String(), IdleTimeout: timeout})
		for range 3 {
			w := httptest.NewRecorder()
			NewScope(p).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if w.Body.String() != "ok" {
				t.Errorf("answer %d %q", w.Code, w.Body)
			}
		}
		if n := conns.Load(); n != want {
			t.Errorf("%v: %d connections, want %d", timeout, n, want)
		}
		p.Close()
	}
}
