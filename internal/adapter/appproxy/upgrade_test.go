package appproxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// duplexWriter is the client of an upgraded request as the tunnel shows it.
type duplexWriter struct {
	header http.Header
	status chan int
	out    *io.PipeWriter
}

func (w *duplexWriter) Header() http.Header         { return w.header }
func (w *duplexWriter) WriteHeader(status int)      { w.status <- status }
func (w *duplexWriter) Write(p []byte) (int, error) { return w.out.Write(p) }
func (w *duplexWriter) FlushError() error           { return nil }
func (w *duplexWriter) CloseWrite() error           { return w.out.Close() }

// plainWriter is one that cannot be half-closed.
type plainWriter struct{ w *duplexWriter }

func (w plainWriter) Header() http.Header         { return w.w.Header() }
func (w plainWriter) WriteHeader(status int)      { w.w.WriteHeader(status) }
func (w plainWriter) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w plainWriter) FlushError() error           { return nil }

type upgraded struct {
	w      *duplexWriter
	in     *io.PipeReader // what the client receives
	out    *io.PipeWriter // what it sends
	done   chan any       // the handler's end: nil or what it panicked with
	cancel context.CancelFunc
}

func upgrade(t *testing.T, addr, protocol string, halfClose bool) *upgraded {
	t.Helper()
	u := &upgraded{done: make(chan any, 1)}
	var body *io.PipeReader
	var in *io.PipeWriter
	body, u.out = io.Pipe()
	u.in, in = io.Pipe()
	u.w = &duplexWriter{header: http.Header{}, status: make(chan int, 4), out: in}
	r := httptest.NewRequest("GET", "/chat", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocol}, "Sec-Websocket-Key": {"x"}}
	r.Body, r.ContentLength = body, 0
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	u.cancel = cancel
	p := newProxy(t, addr)
	var w http.ResponseWriter = u.w
	if !halfClose {
		w = plainWriter{u.w}
	}
	go func() {
		defer func() {
			_ = in.Close()
			u.done <- recover()
		}()
		p.ServeHTTP(w, r.WithContext(ctx))
	}()
	return u
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-Websocket-Accept: y\r\n\r\n"

// shout is an app that answers 101 together with the first bytes and then
// echoes until the client ends, and says goodbye after that.
func shout(t *testing.T) *fakeApp {
	return rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") != "websocket" || req.Header.Get("Connection") != "Upgrade" {
			t.Errorf("the app saw %v", req.Header)
		}
		_, _ = io.WriteString(c, switching+"hello")
		_, _ = io.Copy(c, r)
		_, _ = io.WriteString(c, "bye")
	})
}

func (u *upgraded) expect(t *testing.T, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(u.in, got); err != nil || string(got) != want {
		t.Fatalf("client got %q, %v; want %q", got, err, want)
	}
}

func TestUpgrade(t *testing.T) {
	for _, halfClose := range []bool{true, false} {
		u := upgrade(t, shout(t).addr, "websocket", halfClose)
		if status := receive(t, u.w.status, "the status"); status != http.StatusSwitchingProtocols {
			t.Fatalf("status %d, want 101", status)
		}
		if h := u.w.header; h.Get("Upgrade") != "websocket" || h.Get("Connection") != "Upgrade" || h.Get("Sec-Websocket-Accept") != "y" {
			t.Errorf("header %v", h)
		}
		u.expect(t, "hello")
		for _, word := range []string{"ping", "pong"} {
			if _, err := io.WriteString(u.out, word); err != nil {
				t.Fatal(err)
			}
			u.expect(t, word)
		}
		// The client ends its direction; the app still has something to say.
		_ = u.out.Close()
		if rest, err := io.ReadAll(u.in); err != nil || string(rest) != "bye" {
			t.Errorf("rest %q, %v", rest, err)
		}
		if v := receive(t, u.done, "the handler"); v != nil {
			t.Errorf("handler panicked: %v", v)
		}
	}
}

func TestUpgradeAppEndsFirst(t *testing.T) {
	got := make(chan string, 1)
	a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, switching+"bye")
		_ = c.CloseWrite()
		rest, _ := io.ReadAll(r)
		got <- string(rest)
	})
	u := upgrade(t, a.addr, "websocket", true)
	receive(t, u.w.status, "the status")
	if rest, err := io.ReadAll(u.in); err != nil || string(rest) != "bye" {
		t.Errorf("rest %q, %v", rest, err)
	}
	_, _ = io.WriteString(u.out, "still here")
	_ = u.out.Close()
	if s := receive(t, got, "the app"); s != "still here" {
		t.Errorf("the app got %q", s)
	}
	receive(t, u.done, "the handler")
}

func TestUpgradeAppEndsFirstWithoutHalfClose(t *testing.T) {
	a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, switching+"bye")
	})
	u := upgrade(t, a.addr, "websocket", false)
	receive(t, u.w.status, "the status")
	if rest, err := io.ReadAll(u.in); err != nil || string(rest) != "bye" {
		t.Errorf("rest %q, %v", rest, err)
	}
	receive(t, u.done, "the handler")
}

func TestUpgradeCancelled(t *testing.T) {
	ended := make(chan error, 1)
	a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, switching)
		_, err := io.Copy(io.Discard, r)
		ended <- err
	})
	u := upgrade(t, a.addr, "websocket", true)
	receive(t, u.w.status, "the status")
	u.cancel()
	_ = u.out.CloseWithError(errors.New("reset"))
	receive(t, ended, "the app to notice")
	receive(t, u.done, "the handler")
}

func TestUpgradeDeclined(t *testing.T) {
	a := rawApp(t, answers(lines("HTTP/1.1 426 Upgrade Required", "Content-Length: 2", "", "no")))
	u := upgrade(t, a.addr, "websocket", true)
	if status := receive(t, u.w.status, "the status"); status != http.StatusUpgradeRequired {
		t.Errorf("status %d", status)
	}
	u.expect(t, "no")
	receive(t, u.done, "the handler")
}

func TestUpgradeToSomethingElse(t *testing.T) {
	a := rawApp(t, answers(switching))
	u := upgrade(t, a.addr, "h2c", true)
	if status := receive(t, u.w.status, "the status"); status != http.StatusBadGateway || u.w.header.Get(failHeader) != CodeFailed {
		t.Errorf("status %d %v", status, u.w.header)
	}
	u.cancel()
	_, _ = io.ReadAll(u.in)
	receive(t, u.done, "the handler")
}
