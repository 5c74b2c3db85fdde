package appproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to happen.
const patience = 10 * time.Second

// failHeader carries the code of a failed request to the tests.
const failHeader = "Test-Fail-Code"

func testFail(w http.ResponseWriter, code, message string) {
	w.Header().Set(failHeader, code)
	http.Error(w, message, http.StatusBadGateway)
}

// newProxy returns a proxy for the app at addr.
func newProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	p := New(Config{Address: addr, Fail: testFail})
	t.Cleanup(p.Close)
	return p
}

// front serves h over HTTP/2, as the tunnel does, and returns a client.
func front(t testing.TB, h http.Handler) (url string, client *http.Client) {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = &protocols
	srv.Start()
	transport := &http.Transport{Protocols: &protocols, DisableCompression: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		srv.Close()
	})
	return srv.URL, &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// app starts an ordinary web server and a proxy and a front before it.
func app(t testing.TB, h http.HandlerFunc) (url string, client *http.Client, p *Proxy) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	p = newProxy(t, srv.Listener.Addr().String())
	url, client = front(t, p)
	return url, client, p
}

// fakeApp answers connections by hand.
type fakeApp struct {
	addr string

	mu    sync.Mutex
	conns int // guarded by mu
}

// rawApp starts a fake app whose connections are served by serve, which is
// told how many came before. The connection is closed when serve returns.
func rawApp(t testing.TB, serve func(n int, c *net.TCPConn, r *bufio.Reader)) *fakeApp {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &fakeApp{addr: ln.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			a.mu.Lock()
			n := a.conns
			a.conns++
			a.mu.Unlock()
			wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
				defer stop()
				defer nc.Close() //nolint:errcheck // a test's end
				serve(n, nc.(*net.TCPConn), bufio.NewReader(nc))
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		wg.Wait()
	})
	return a
}

func (a *fakeApp) accepted() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conns
}

// answers is a fake app's connection that gives the same answer to every
// request.
func answers(answer string) func(int, *net.TCPConn, *bufio.Reader) {
	return func(_ int, c *net.TCPConn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

func get(t testing.TB, client *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func do(t testing.TB, client *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// receive waits for a value.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

// onlyReader hides the length of a body from the client.
type onlyReader struct{ io.Reader }

func lines(s ...string) string { return strings.Join(s, "\r\n") }

func okAnswer(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}
