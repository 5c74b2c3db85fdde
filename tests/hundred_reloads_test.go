package tests

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// crowd is clients of socketsApp that do different things at once, one after
// another, until they are told to stop. Each request has a connection of its
// own, and a number. A connection that a server closes without having read a
// request from it, as Caddy's sometimes do when they are replaced or stopped, has
// failed none: those that were read are in the access log.
type crowd struct {
	r    *router
	dial dialer
	quit chan struct{}
	wg   sync.WaitGroup

	served, streams, uploads, messages, restarts, numbers atomic.Int64

	mu       sync.Mutex
	failures []string         // guarded by mu
	unread   map[string]error // guarded by mu: requests without a response
}

func newCrowd(r *router, dial dialer) *crowd {
	return &crowd{r: r, dial: dial, quit: make(chan struct{}), unread: make(map[string]error)}
}

func (c *crowd) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
}

// stop waits until everybody has finished what they do, and fails the test if
// anything of it failed.
func (c *crowd) stop() {
	c.r.t.Helper()
	close(c.quit)
	c.wg.Wait()
	for _, e := range c.r.logs.lines("handled request") {
		request, _ := e["request"].(map[string]any)
		uri, _ := request["uri"].(string)
		if err := c.unread[uri]; err != nil {
			c.fail("%s was accepted: %v: %v", uri, err, e)
		}
	}
	for i, f := range c.failures {
		if i == 10 {
			c.r.t.Errorf("and %d more", len(c.failures)-i)
			break
		}
		c.r.t.Error(f)
	}
	c.r.t.Logf("%d requests, %d streams, %d uploads, %d messages; WebSockets were told to come again %d times, "+
		"%d connections were closed before their request was read", c.served.Load(), c.streams.Load(), c.uploads.Load(),
		c.messages.Load(), c.restarts.Load(), len(c.unread))
}

// each has several clients do something over and over.
func (c *crowd) each(clients int, do func()) {
	for range clients {
		c.wg.Go(func() {
			for {
				select {
				case <-c.quit:
					return
				case <-c.r.exited:
					return
				default:
					do()
				}
			}
		})
	}
}

// explain adds what Caddy says about a request.
func (c *crowd) explain(path string) {
	for line := range strings.Lines(c.r.logs.String()) {
		if strings.Contains(line, strings.ReplaceAll(path, "&", `\\u0026`)+`"`) || strings.Contains(line, path+`"`) {
			c.fail("%.1500s", line)
		}
	}
}

// number makes a request one that can be found in the access log.
func (c *crowd) number(path string) string {
	mark := "?"
	if strings.Contains(path, "?") {
		mark = "&"
	}
	return fmt.Sprintf("%s%snumber=%d", path, mark, c.numbers.Add(1))
}

func (c *crowd) unanswered(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unread[path] = err
}

// send sends a request on a new connection. It returns no response if there was
// none.
func (c *crowd) send(method, path string, body io.Reader) (*http.Response, string) {
	path = c.number(path)
	req, err := http.NewRequestWithContext(c.r.t.Context(), method, "http://"+c.dial.host()+path, body)
	if err != nil {
		c.fail("%v", err)
		return nil, ""
	}
	client := c.dial.client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		c.unanswered(path, err)
		return nil, ""
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.fail("%s %s: status %d, %d bytes, %v: %.200s", method, path, resp.StatusCode, len(got), err, got)
		c.explain(path)
		return nil, ""
	}
	return resp, string(got)
}

func (c *crowd) get() {
	if resp, _ := c.send(http.MethodGet, "/delay?delay=50", nil); resp != nil {
		c.served.Add(1)
	}
}

func (c *crowd) stream() {
	const parts = 20
	if resp, got := c.send(http.MethodGet, fmt.Sprintf("/stream?parts=%d&pause=50", parts), nil); resp != nil {
		c.streams.Add(1)
		if got != streamed(parts) {
			c.fail("stream: got %d bytes", len(got))
		}
	}
}

// slowBody is a body that takes its time.
type slowBody struct {
	left int
	sum  uint32
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	b.left--
	time.Sleep(50 * time.Millisecond) // this is the speed of the network
	n := min(len(p), 10_000)
	for i := range p[:n] {
		p[i] = byte(b.left + i)
	}
	b.sum = crc32.Update(b.sum, crc32.IEEETable, p[:n])
	return n, nil
}

func (c *crowd) upload() {
	body := &slowBody{left: 20}
	if resp, got := c.send(http.MethodPost, "/upload", body); resp != nil {
		c.uploads.Add(1)
		if want := fmt.Sprintf("sum %08x", body.sum); !strings.Contains(got, want) {
			c.fail("upload: the app got %s, sent was %s", got, want)
		}
	}
}

// socket talks on one WebSocket for as long as it lasts. Only its instance may
// end it.
func (c *crowd) socket() {
	path := c.number("/ws")
	conn, err := c.r.socket(c.r.t.Context(), path, c.dial)
	if err != nil {
		c.unanswered(path, err)
		return
	}
	defer func() { _ = conn.CloseNow() }()
	ctx, cancel := context.WithTimeout(c.r.t.Context(), 2*patience)
	defer cancel()
	for i := 0; ; i++ {
		select {
		case <-c.quit:
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return
		default:
		}
		err := talk(ctx, conn, fmt.Sprint("message ", i))
		if websocket.CloseStatus(err) == websocket.StatusServiceRestart {
			c.restarts.Add(1)
			return
		}
		if err != nil {
			c.fail("after %d messages a WebSocket: %v", i, err)
			return
		}
		c.messages.Add(1)
		time.Sleep(10 * time.Millisecond) // a person who types
	}
}

// reloads makes the configurations of TestHundredReloadsUnderLoad, each of them
// different from the one before.
type reloads struct {
	address   string // of the site
	callbacks [2]string
	cert, key string
	taken     string // an address that somebody else listens on
}

func (v reloads) site(i int) string {
	lines := []string{
		fmt.Sprintf("max_concurrent %d", 6+i%3),
		"min_instances 2", "max_instances 3",
		fmt.Sprintf("queue_timeout %ds", 30+i%7),
		fmt.Sprintf("queue_size %d", 1000+i),
	}
	tls := []string{"auto", "off", v.cert + " " + v.key}[i/2%3]
	lines = append(lines, fmt.Sprintf("callback {\n listen %s\n tls %s\n}", v.callbacks[i/4%2], tls))
	if i%2 == 1 { // Caddy's proxy instead of our own
		lines = append(lines, fmt.Sprintf("header_up X-Generation %d", i), "header_down -X-Nothing")
	}
	return v.wrap(dispatch(append(lines, socketsApp("timeout 15s"))...))
}

// wrap makes a site of it that listens on TCP: when the HTTP server has been
// started with a configuration that then fails, Caddy 2.11 cannot use the Unix
// socket of the running one any more.
func (v reloads) wrap(site string) string {
	return strings.Replace(withGrace("20s", site), "http://localhost {\n	bind unix//%DIR%/site.sock",
		"http://"+v.address+" {\n	bind 127.0.0.1", 1)
}

// bad makes a configuration that cannot be started, and that would fail
// requests if anything of it came into force.
func (v reloads) bad(i int) string {
	harm := []string{"queue_size 1", "max_instances 1", "min_instances 0", "max_concurrent 1", "target_concurrent 1"}
	if i%2 == 0 {
		return v.wrap(dispatch(append(harm, "callback {\n listen "+v.taken+"\n}", socketsApp("timeout 15s"))...))
	}
	// Here it is another pool that fails, before this one is told or after.
	return v.wrap("handle /other {\nlambda_dispatch other {\n callback {\n listen " + v.taken + "\n}\n" + socketsApp() + "\n}\n}\nhandle {\n" +
		dispatch(append(harm, "callback {\n listen "+v.callbacks[0]+"\n}", socketsApp("timeout 15s"))...) + "\n}\n")
}

func newReloads(t *testing.T) reloads {
	t.Helper()
	var v reloads
	for _, address := range []*string{&v.address, &v.callbacks[0], &v.callbacks[1]} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*address = ln.Addr().String()
		_ = ln.Close()
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	v.taken = ln.Addr().String()
	dir := t.TempDir()
	v.cert, v.key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCallbackCertificate(t, v.cert, v.key)
	return v
}

// neverLess checks that no counter has gone back.
func neverLess(t *testing.T, before, after map[string]float64) {
	t.Helper()
	for name, was := range before {
		base, _, _ := strings.Cut(name, "{")
		if !strings.HasSuffix(base, "_total") && !strings.HasSuffix(base, "_count") && !strings.HasSuffix(base, "_bucket") {
			continue
		}
		if is, ok := after[name]; !ok || is < was {
			t.Errorf("%s was %v, is %v", name, was, is)
		}
	}
}

// Whatever a reload changes, and whether it succeeds or not, nobody notices:
// running requests, those that wait, streams, uploads, WebSockets, environments
// that start meanwhile, metrics.
func TestHundredReloadsUnderLoad(t *testing.T) {
	n := 100
	if testing.Short() {
		n = 24
	}
	v := newReloads(t)
	r := startCaddy(t, v.site(0))
	c := newCrowd(r, dialer{"tcp", v.address})
	c.each(24, c.get) // more than there are slots: some wait
	c.each(2, c.stream)
	c.each(2, c.upload)
	c.each(2, c.socket)
	r.await("a full queue", func() bool { return r.pool().Queued > 0 })

	counters := r.metrics()
	failed, queued, last := 0, 0, 0
	for i := 1; i <= n; i++ {
		if i%5 == 0 {
			failed++
			if status, body := r.load(v.bad(i / 5)); status == 200 || !strings.Contains(body, "address already in use") {
				t.Errorf("bad configuration %d: status %d, %s", i, status, body)
			}
		} else if status, body := r.load(v.site(i)); status != 200 {
			t.Fatalf("configuration %d: status %d, %s", i, status, body)
		} else {
			last = i
		}
		queued = max(queued, r.pool().Queued)
		now := r.metrics()
		neverLess(t, counters, now)
		counters = now
	}
	c.stop()

	t.Logf("%d reloads and %d that failed; up to %d requests waited", n-failed, failed, queued)
	started, closed := r.logs.lines("instance starting"), r.logs.lines("instance closed")
	t.Logf("%d instances started, %d closed", len(started), len(closed))
	for _, e := range closed {
		// An overloaded machine may miss the last half second of a deadline,
		// which is not what this is about.
		if letGo(e) {
			continue
		}
		if e["result"] != "drained" && e["result"] != "deadline" && !strings.Contains(fmt.Sprint(e["error"]), "Sandbox.Timedout") {
			t.Errorf("an invocation ended with %v", e)
		}
	}
	for _, e := range r.logs.lines("callback rejected") {
		t.Errorf("an instance was turned away: %v", e)
	}
	if c.messages.Load() == 0 || c.uploads.Load() == 0 || c.streams.Load() == 0 || queued == 0 {
		t.Error("some of the load did not happen")
	}
	// Only a deadline ends a WebSocket, so far fewer of them ended than reloads came.
	if most := int64(2 * (len(closed) + 3)); c.restarts.Load() > most {
		t.Errorf("WebSockets were told to come again %d times, with %d instances that ended", c.restarts.Load(), len(closed))
	}
	r.await("the addresses that are not used to be free", func() bool {
		return freeToBind(v.callbacks[1-last/4%2])
	})
}

func freeToBind(address string) bool {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	_ = ln.Close()
	return true
}

func writeCallbackCertificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
