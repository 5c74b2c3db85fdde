package tests

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// leaveLimit is how soon the router and the app have to notice that a client
// left. The median of several tries counts, because the machine may be busy.
const (
	leaveLimit = 100 * time.Millisecond
	leaveTries = 5
)

// leaveSite is a Caddy that can be reached in every way, with an app that the
// test is itself. There are two pools, "lean" with our proxy and "full" with
// Caddy's; each has one instance with one slot.
type leaveSite struct {
	*router
	app  *leaveApp
	addr string // plain, HTTP/1.1
	tls  string // HTTP/1.1, 2 and 3
}

func startLeaveSite(t *testing.T) *leaveSite {
	t.Helper()
	s := &leaveSite{app: startLeaveApp(t), addr: freeAddress(t), tls: freeAddress(t)}
	pool := func(name, option string) string {
		return fmt.Sprintf(`
	@%[1]s header X-Pool %[1]s
	lambda_dispatch @%[1]s %[1]s {
		min_instances 1
		max_instances 1
		max_concurrent 1
		%[2]s
		%[3]s
	}`, name, option, local("command sleep 1000000", "env LAMBDA_DISPATCH_PORT "+s.app.port()))
	}
	pools := pool("lean", "") + pool("full", "flush_interval 100ms")
	s.router = startCaddy(t, fmt.Sprintf(`{
	admin unix//%%DIR%%/admin.sock
	metrics
	skip_install_trust
	auto_https disable_redirects
	log {
		format json
		level DEBUG
	}
}
http://%[1]s {
	log
%[3]s
}
http://localhost {
	bind unix//%%DIR%%/site.sock
	log
%[3]s
}
https://%[2]s {
	tls internal
	log
%[3]s
}
`, s.addr, s.tls, pools))
	s.await("a certificate", func() bool { // Caddy makes it after it has begun to serve
		conn, err := tls.Dial("tcp", s.tls, insecure())
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	for _, name := range []string{"lean", "full"} {
		s.await("an instance of "+name, func() bool { return s.pools()[name].in("ready") == 1 })
	}
	return s
}

// leaveApp is an app that tells when it got a request and when it saw that the
// client had left.
type leaveApp struct {
	ln net.Listener

	mu   sync.Mutex // guards seen
	seen map[string]*leaveSeen
}

type leaveSeen struct {
	begun chan struct{}  // closed when the app has the request and done its part
	look  chan struct{}  // a request that is not read looks at its connection when this is closed
	left  chan time.Time // receives when the client has left
}

func startLeaveApp(t *testing.T) *leaveApp {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &leaveApp{ln: ln, seen: make(map[string]*leaveSeen)}
	srv := &http.Server{Handler: a, ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	return a
}

func (a *leaveApp) port() string {
	_, port, _ := net.SplitHostPort(a.ln.Addr().String())
	return port
}

// of returns what the app saw, or will see, of a request.
func (a *leaveApp) of(id string) *leaveSeen {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen[id] == nil {
		a.seen[id] = &leaveSeen{make(chan struct{}), make(chan struct{}), make(chan time.Time, 1)}
	}
	return a.seen[id]
}

// got reports whether the app has seen the request.
func (s *leaveSeen) got() bool {
	select {
	case <-s.begun:
		return true
	default:
		return false
	}
}

func (a *leaveApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Id")
	if id == "" {
		return // somebody asks whether the app is there
	}
	seen := a.of(id)
	switch r.URL.Path {
	case "/hold":
		_, _ = io.Copy(io.Discard, r.Body)
		close(seen.begun)
		<-r.Context().Done()
	case "/half":
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		close(seen.begun)
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	case "/read":
		_, _ = io.ReadFull(r.Body, make([]byte, 1))
		close(seen.begun)
		_, _ = io.Copy(io.Discard, r.Body)
	case "/unread":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		close(seen.begun)
		<-seen.look
		_, _ = io.Copy(io.Discard, conn)
	case "/sum":
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprintf(w, "%x %s", sum.Sum(nil), r.Trailer.Get("X-Sum"))
		return
	case "/duplex":
		ctrl := http.NewResponseController(w)
		_ = ctrl.EnableFullDuplex()
		buf := make([]byte, 1000)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			if ctrl.Flush() != nil || err != nil {
				return
			}
		}
	}
	seen.left <- time.Now()
}

// leaveCall is a request of a client that will leave.
type leaveCall struct {
	id, pool, path string
	method         string
	length         int // of the body; -1: unknown
	sent           int // bytes of the body that are sent
	ends           bool
	expect         bool
}

// body is what of the body is sent.
func (c leaveCall) body() []byte { return []byte(strings.Repeat("x", c.sent)) }

// way is a way to send a request, which returns how to leave.
type way struct {
	name string
	send func(t *testing.T, s *leaveSite, c leaveCall) (leave func())
}

func ways() []way {
	raw := func(dial func(s *leaveSite) (net.Conn, error), reset bool) func(*testing.T, *leaveSite, leaveCall) func() {
		return func(t *testing.T, s *leaveSite, c leaveCall) func() {
			t.Helper()
			conn, err := dial(s)
			if err != nil {
				t.Fatal(err)
			}
			var head strings.Builder
			host := s.addr
			switch conn.(type) {
			case *tls.Conn:
				host = s.tls
			case *net.UnixConn:
				host = "localhost"
			}
			fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\nX-Pool: %s\r\nX-Id: %s\r\n", c.method, c.path, host, c.pool, c.id)
			if c.expect {
				head.WriteString("Expect: 100-continue\r\n")
			}
			switch {
			case c.length < 0:
				head.WriteString("Transfer-Encoding: chunked\r\n")
			case c.length > 0:
				fmt.Fprintf(&head, "Content-Length: %d\r\n", c.length)
			}
			head.WriteString("\r\n")
			if c.length < 0 && c.sent > 0 {
				fmt.Fprintf(&head, "%x\r\n", c.sent)
			}
			head.Write(c.body())
			if c.length < 0 && c.sent > 0 {
				head.WriteString("\r\n")
			}
			if c.ends {
				head.WriteString("0\r\n\r\n")
			}
			go func() { _, _ = io.WriteString(conn, head.String()) }() // may wait until the client has left
			return func() {
				if reset {
					_ = conn.(*net.TCPConn).SetLinger(0)
				}
				_ = conn.Close()
			}
		}
	}
	tcp := func(s *leaveSite) (net.Conn, error) { return net.Dial("tcp", s.addr) }
	return []way{
		{"HTTP/1.1", raw(tcp, false)},
		{"HTTP/1.1 with reset", raw(tcp, true)},
		{"HTTP/1.1 with TLS", raw(func(s *leaveSite) (net.Conn, error) {
			return tls.Dial("tcp", s.tls, insecure())
		}, false)},
		{"HTTP/1.1 on Unix socket", raw(func(s *leaveSite) (net.Conn, error) {
			return net.Dial("unix", filepath.Join(s.dir, "site.sock"))
		}, false)},
		{"HTTP/2", func(t *testing.T, s *leaveSite, c leaveCall) func() {
			return c.roundTrip(t, s, &http.Transport{TLSClientConfig: insecure(), ForceAttemptHTTP2: true})
		}},
		{"HTTP/3", func(t *testing.T, s *leaveSite, c leaveCall) func() {
			return c.roundTrip(t, s, &http3.Transport{TLSClientConfig: insecure()})
		}},
	}
}

func insecure() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate is made by Caddy itself
}

// roundTrip sends the request and cancels it to leave.
func (c leaveCall) roundTrip(t *testing.T, s *leaveSite, rt http.RoundTripper) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var body io.ReadCloser
	var pw *io.PipeWriter
	if c.length != 0 {
		body, pw = io.Pipe()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, "https://"+s.tls+c.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		req.Body, req.ContentLength = body, int64(c.length)
		go func() {
			_, _ = pw.Write(c.body())
			if c.ends || c.length == c.sent {
				_ = pw.Close()
			}
		}()
	}
	req.Header.Set("X-Pool", c.pool)
	req.Header.Set("X-Id", c.id)
	if c.expect {
		req.Header.Set("Expect", "100-continue")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err := rt.RoundTrip(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	return func() {
		cancel()
		<-done
		switch rt := rt.(type) {
		case *http.Transport:
			t.Cleanup(rt.CloseIdleConnections)
		case *http3.Transport:
			t.Cleanup(func() { _ = rt.Close() })
		}
	}
}

var leaveCount int

// fresh gives the request a name of its own.
func (c leaveCall) fresh() leaveCall {
	leaveCount++
	c.id = fmt.Sprintf("%s-%d", strings.Trim(c.path, "/"), leaveCount)
	return c
}

// take measures how long something takes to happen.
func (s *leaveSite) take(what string, cond func() bool) time.Duration {
	s.t.Helper()
	begin := time.Now()
	for !cond() {
		if time.Since(begin) > 5*time.Second {
			s.t.Logf("waited 5 s in vain for %s", what)
			return time.Since(begin)
		}
		time.Sleep(time.Millisecond) // the admin API has nothing to wait on
	}
	return time.Since(begin)
}

func medianOf(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

// worstOf keeps the worst median of each group of measurements.
type worstOf map[string]worstCase

type worstCase struct {
	name string
	took []time.Duration
}

func (w worstOf) add(group, name string, took []time.Duration) {
	if old, ok := w[group]; !ok || medianOf(took) > medianOf(old.took) {
		w[group] = worstCase{name, took}
	}
}

func (w worstOf) log(t *testing.T) {
	for group, c := range w {
		t.Logf("worst of %s: %v, median of %v (%s)", group, medianOf(c.took), c.took, c.name)
	}
}

// logged returns the statuses in the access log of a pool.
func (s *leaveSite) logged(pool string) (statuses []float64) {
	for _, line := range s.logs.lines("handled request") {
		if d, ok := line["lambda_dispatch"].(map[string]any); ok && d["pool"] == pool {
			statuses = append(statuses, line["status"].(float64))
		}
	}
	return statuses
}

// statuses returns what the access log says of all requests.
func (s *leaveSite) statuses() (all []float64) {
	for _, line := range s.logs.lines("handled request") {
		all = append(all, line["status"].(float64))
	}
	return all
}

// openRequests returns how many requests Caddy is handling.
func (s *leaveSite) openRequests() int {
	resp, err := s.admin.Get("http://localhost/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	n := 0
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "caddy_http_requests_in_flight{") {
			var v int
			_, _ = fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
			n += v
		}
	}
	return n
}
