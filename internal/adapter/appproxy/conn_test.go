package appproxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func newHTTP1Front(t testing.TB, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestCancelReachesTheApp(t *testing.T) {
	for _, when := range []string{"before the answer", "within the answer", "within the upload"} {
		t.Run(when, func(t *testing.T) {
			arrived, gone := make(chan struct{}), make(chan struct{})
			url, client, _ := app(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 5)
				if when == "within the answer" {
					w.(http.Flusher).Flush()
				}
				close(arrived)
				// The server notices a lost client while the body is being read
				// or after its end.
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				close(gone)
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			body, pw := io.Pipe()
			defer pw.Close() //nolint:errcheck // a test's end
			go func() {
				_, _ = io.WriteString(pw, "hello")
				if when != "within the upload" {
					_ = pw.Close()
				}
			}()
			go func() {
				<-arrived
				cancel()
			}()
			resp, err := client.Do(newRequest(t, "POST", url, body).WithContext(ctx))
			if err == nil {
				_, _ = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			receive(t, gone, "the app to notice")
		})
	}
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	told := make(chan error, 1)
	p := New(Config{Address: ln.Addr().String(), Fail: testFail, Unreachable: func(err error) { told <- err }})
	defer p.Close()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader("x")))
	if w.Header().Get(failHeader) != CodeUnavailable || !strings.Contains(w.Body.String(), ln.Addr().String()) {
		t.Errorf("answer %v %q, want %s and the address", w.Header(), w.Body, CodeUnavailable)
	}
	receive(t, told, "Unreachable")
}

// TestAppClosesIdleConnection is what Node does after 5 s: the next request
// must not notice.
func TestAppClosesIdleConnection(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		closed := make(chan struct{})
		a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
			defer func() { closed <- struct{}{} }()
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, okAnswer("ok"))
			_ = c.Close()
		})
		url, client := front(t, newProxy(t, a.addr))
		for range 3 {
			if _, body := do(t, client, newRequest(t, method, url, strings.NewReader("x"))); body != "ok" {
				t.Errorf("%s: client got %q", method, body)
			}
			receive(t, closed, "the app to close")
		}
	}
}

// TestAppClosesUnderTheRequest is the race that checking before cannot win.
func TestAppClosesUnderTheRequest(t *testing.T) {
	tests := []struct {
		method, body string
		retried      bool
	}{
		{"GET", "", true},
		{"DELETE", "", true},
		{"POST", "", false},
		{"PUT", "body", false},
	}
	for _, tt := range tests {
		t.Run(tt.method, func(t *testing.T) {
			a := rawApp(t, func(n int, c *net.TCPConn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, okAnswer("ok"))
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
			})
			url, client := front(t, newProxy(t, a.addr))
			get(t, client, url)
			resp, body := do(t, client, newRequest(t, tt.method, url, strings.NewReader(tt.body)))
			if tt.retried && body != "ok" {
				t.Errorf("client got %q", body)
			}
			if !tt.retried && resp.Header.Get(failHeader) != CodeFailed {
				t.Errorf("client got %d %q, want %s", resp.StatusCode, body, CodeFailed)
			}
			if n, want := a.accepted(), map[bool]int{true: 2, false: 1}[tt.retried]; n != want {
				t.Errorf("%d connections, want %d", n, want)
			}
		})
	}
}

func TestFreshConnectionIsNotRetried(t *testing.T) {
	a := rawApp(t, func(_ int, _ *net.TCPConn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
	})
	url, client := front(t, newProxy(t, a.addr))
	if resp, _ := get(t, client, url); resp.Header.Get(failHeader) != CodeFailed {
		t.Errorf("client got %d", resp.StatusCode)
	}
	if n := a.accepted(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestConnectionThatTalksWhileIdle is not reused: what it says could be taken
// for the answer to the next request.
func TestConnectionThatTalksWhileIdle(t *testing.T) {
	talk, talked := make(chan struct{}), make(chan struct{})
	a := rawApp(t, func(n int, c *net.TCPConn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, okAnswer("ok"))
		if n > 0 {
			return
		}
		<-talk
		_, _ = io.WriteString(c, okAnswer("poison"))
		close(talked)
		_, _ = io.Copy(io.Discard, r)
	})
	url, client := front(t, newProxy(t, a.addr))
	get(t, client, url)
	talk <- struct{}{}
	receive(t, talked, "the app")
	if _, body := get(t, client, url); body != "ok" {
		t.Errorf("client got %q", body)
	}
}

func TestIdleTimeout(t *testing.T) {
	closed := make(chan struct{}, 10)
	a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		answers(okAnswer("ok"))(0, c, r)
		closed <- struct{}{}
	})
	p := New(Config{Address: a.addr, IdleTimeout: 20 * time.Millisecond})
	defer p.Close()
	for range 2 {
		p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		receive(t, closed, "the idle connection to be closed")
	}
	if n := a.accepted(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestCloseIdle(t *testing.T) {
	closed := make(chan struct{}, 10)
	a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		answers(okAnswer("ok"))(0, c, r)
		closed <- struct{}{}
	})
	p := newProxy(t, a.addr)
	for i := range 2 {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Body.String() != "ok" || a.accepted() != i+1 {
			t.Errorf("got %q on connection %d", w.Body, a.accepted())
		}
		p.CloseIdle()
		receive(t, closed, "the connection to be closed")
	}
}

func TestAbort(t *testing.T) {
	arrived, gone := make(chan struct{}, 2), make(chan struct{}, 2)
	url, client, p := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/began" {
			w.(http.Flusher).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	got := make(chan *http.Response, 1)
	go func() {
		resp, err := client.Get(url + "/waiting")
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	began, err := client.Get(url + "/began")
	if err != nil {
		t.Fatal(err)
	}
	defer began.Body.Close() //nolint:errcheck // broken anyway
	for range 2 {
		receive(t, arrived, "the requests")
	}
	p.Abort()
	resp := receive(t, got, "the answer")
	defer resp.Body.Close() //nolint:errcheck // not read
	if resp.Header.Get(failHeader) != CodeTimeout {
		t.Errorf("client got %d %v, want %s", resp.StatusCode, resp.Header, CodeTimeout)
	}
	if _, err := io.ReadAll(began.Body); err == nil {
		t.Error("a cut answer looked complete")
	}
	for range 2 {
		receive(t, gone, "the app to notice")
	}
	w := httptest.NewRecorder()
	p.Close()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Header().Get(failHeader) != CodeUnavailable {
		t.Errorf("after Close: %d %v", w.Code, w.Header())
	}
}

func TestManyAtOnce(t *testing.T) {
	url, client, p := app(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	done := make(chan bool)
	const workers, each = 16, 30
	for i := range workers {
		go func() {
			ok := true
			for j := range each {
				want := strings.Repeat(string(rune('a'+i)), 1+j*997)
				req, _ := http.NewRequestWithContext(t.Context(), "POST", url, onlyReader{strings.NewReader(want)})
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					ok = false
					break
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				ok = ok && err == nil && string(got) == want
			}
			done <- ok
		}()
	}
	for range workers {
		if !receive(t, done, "a worker") {
			t.Error("an echo differed")
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.Activity(); a.Waiting != 0 || len(p.idle) > workers {
		t.Errorf("%d requests wait, %d idle connections", a.Waiting, len(p.idle))
	}
}

// TestConnectionWithAnUnfinishedBodyIsNotKept: nobody else closes it here.
func TestConnectionWithAnUnfinishedBodyIsNotKept(t *testing.T) {
	a := rawApp(t, answers(okAnswer("ok")))
	early := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		_, _ = io.WriteString(c, okAnswer("ok"))
		_, _ = io.Copy(io.Discard, r)
	})
	for addr, kept := range map[string]int{a.addr: 1, early.addr: 0} {
		p := newProxy(t, addr)
		body, pw := io.Pipe()
		if kept == 1 {
			_ = pw.Close()
		}
		r := httptest.NewRequest("POST", "/", nil)
		r.Body, r.ContentLength = body, -1
		p.ServeHTTP(httptest.NewRecorder(), r)
		if _, err := body.Read(make([]byte, 1)); kept == 0 && err != io.ErrClosedPipe { //nolint:errorlint // of io.Pipe
			t.Errorf("body: %v", err)
		}
		p.mu.Lock()
		if len(p.idle) != kept {
			t.Errorf("%d idle connections, want %d", len(p.idle), kept)
		}
		p.mu.Unlock()
	}
}

func TestNothingIsKeptAfterClose(t *testing.T) {
	a := rawApp(t, answers(okAnswer("ok")))
	p := newProxy(t, a.addr)
	c, err := p.get(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	c.idleFor = time.Second
	p.Close()
	p.put(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) != 0 {
		t.Errorf("%d idle connections", len(p.idle))
	}
}
