package adapter

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
)

// rawDirectApp serves connections by hand; serve is told how many came before.
func rawDirectApp(t *testing.T, network string, cfg appproxy.Config, serve func(n int, c net.Conn, r *bufio.Reader)) (*directWorld, *atomic.Int64) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "app.sock")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conns atomic.Int64
	w := newDirectWorldAt(t, network, ln.Addr().String(), cfg, false)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n := int(conns.Add(1)) - 1
			wg.Go(func() {
				defer c.Close() //nolint:errcheck // a test's end
				serve(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		w.d.proxy.Close()
		_ = ln.Close()
		wg.Wait()
	})
	return w, &conns
}

func answerOnce(c net.Conn, r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	body, _ := io.ReadAll(req.Body)
	text := req.Method + " " + string(body)
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	return err == nil
}

// TestDirectKeepsConnections from one invocation to the next: a connect for
// each request would cost more than everything else.
func TestDirectKeepsConnections(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		w, conns := rawDirectApp(t, network, appproxy.Config{}, func(_ int, c net.Conn, r *bufio.Reader) {
			for answerOnce(c, r) {
			}
		})
		for range 20 {
			if r := w.wantResult(restEvent("POST", "/", "x"), time.Minute); r.Body != "POST x" {
				t.Fatalf("%s: result %+v", network, r)
			}
		}
		if n := conns.Load(); n != 1 {
			t.Errorf("%s: %d connections", network, n)
		}
	}
}

// TestDirectAppClosesItsConnections is Node's 5 s, in a hurry: the app closes a
// connection when it has answered, and no request may be lost by that.
func TestDirectAppClosesItsConnections(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		closed := make(chan struct{}, 1)
		w, _ := rawDirectApp(t, network, appproxy.Config{}, func(_ int, c net.Conn, r *bufio.Reader) {
			answerOnce(c, r)
			_ = c.Close()
			closed <- struct{}{}
		})
		for range 20 {
			if r := w.wantResult(restEvent("POST", "/", "x"), time.Minute); r.Body != "POST x" {
				t.Fatalf("%s: result %+v", network, r)
			}
			receive(t, closed, "the app to close")
		}
		w.wantLines()
	}
}

// TestDirectAppClosesUnderTheRequest: the app closes the connection while the
// request is on its way. One that it may see twice is sent again, with its
// body; another one must not be.
func TestDirectAppClosesUnderTheRequest(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for method, again := range map[string]bool{"GET": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false} {
			t.Run(network+" "+method, func(t *testing.T) {
				var seen atomic.Int64
				w, conns := rawDirectApp(t, network, appproxy.Config{}, func(n int, c net.Conn, r *bufio.Reader) {
					if !answerOnce(c, r) || n > 0 {
						return
					}
					if req, err := http.ReadRequest(r); err == nil {
						_, _ = io.Copy(io.Discard, req.Body)
						seen.Add(1)
					}
				})
				w.wantResult(restEvent("GET", "/", ""), time.Minute)
				r := w.wantResult(restEvent(method, "/", "body"), time.Minute)
				if again && r.Body != method+" body" {
					t.Errorf("result %+v", r)
				}
				if !again && r.StatusCode != 502 {
					t.Errorf("result %+v", r)
				}
				if n, want := conns.Load(), map[bool]int64{true: 2, false: 1}[again]; n != want || seen.Load() != 1 {
					t.Errorf("%d connections, want %d; the first saw %d requests", n, want, seen.Load())
				}
			})
		}
	}
}

// TestDirectExpiredConnection: one that has waited too long is not used again.
func TestDirectExpiredConnection(t *testing.T) {
	ended := make(chan struct{}, 10)
	w, conns := rawDirectApp(t, "tcp", appproxy.Config{IdleTimeout: 20 * time.Millisecond}, func(_ int, c net.Conn, r *bufio.Reader) {
		for answerOnce(c, r) {
		}
		ended <- struct{}{}
	})
	for range 2 {
		w.wantResult(restEvent("POST", "/", "x"), time.Minute)
		receive(t, ended, "the connection's end")
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}
