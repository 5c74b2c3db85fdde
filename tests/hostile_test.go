package tests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// invokeAPI stands in front of a local Lambda. It records every dispatch event,
// and a test can take events away: then the test is the environment.
type invokeAPI struct {
	*httptest.Server

	mu     sync.Mutex
	events [][]byte           // guarded by mu
	thief  chan<- stolenEvent // guarded by mu
}

// stolenEvent is an invocation that the test serves.
type stolenEvent struct {
	invoke.Event
	end func(invoke.Reason) // returns the result
}

func startInvokeAPI(t *testing.T, l *localLambda) *invokeAPI {
	t.Helper()
	back, err := url.Parse(l.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(back) }}
	api := &invokeAPI{}
	api.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		payload, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		api.mu.Lock()
		api.events = append(api.events, payload)
		thief := api.thief
		api.mu.Unlock()
		if thief == nil {
			r.Body = io.NopCloser(bytes.NewReader(payload))
			proxy.ServeHTTP(w, r)
			return
		}
		ev, err := invoke.ParseEvent(payload)
		if err != nil {
			t.Error(err)
			return
		}
		ended := make(chan invoke.Reason, 1)
		thief <- stolenEvent{ev, func(reason invoke.Reason) { ended <- reason }}
		select {
		case reason := <-ended:
			_ = json.NewEncoder(w).Encode(invoke.Result{Instance: ev.Instance, Reason: reason})
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	return api
}

func (a *invokeAPI) invoker() string {
	return "invoker aws {\n region local\n endpoint " + a.URL + "\n}"
}

// steal makes the test serve the invocations that come from now on, or no
// longer.
func (a *invokeAPI) steal(to chan<- stolenEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.thief = to
}

// seen returns all events so far.
func (a *invokeAPI) seen() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events)
}

// adapterFor is how an adapter dials for an event.
func adapterFor(ev invoke.Event, h http.Handler) tunnel.DialConfig {
	return tunnel.DialConfig{
		Address: ev.Router, Pin: ev.TLSPin, Instance: ev.Instance, Secret: ev.Secret,
		Ready: tunnel.Ready{MaxConcurrent: ev.MaxConcurrent}, Handler: h,
	}
}

func take[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// rejected returns how many callbacks were rejected, by reason.
func (r *router) rejected() map[string]int {
	found := make(map[string]int)
	for name, v := range r.metrics() {
		if rest, ok := strings.CutPrefix(name, `rejected_callbacks_total{reason="`); ok {
			found[strings.TrimSuffix(rest, `"}`)] = int(v)
		}
	}
	return found
}

// Whoever reaches the callback port without being an instance that is expected
// is turned away, for a reason that a metric tells, and no request notices.
func TestWhoMayNotConnect(t *testing.T) {
	for _, mode := range []string{"auto", "off"} {
		t.Run("tls "+mode, func(t *testing.T) {
			t.Parallel()
			testWhoMayNotConnect(t, mode)
		})
	}
}

func testWhoMayNotConnect(t *testing.T, mode string) {
	api := startInvokeAPI(t, startLocalLambda(t, nil, "--listen", "127.0.0.1:0"))
	// Two real instances are ready; a third is starting, and its event is ours.
	site := func(instances int) string {
		return dispatch("max_concurrent 5", "min_instances "+strconv.Itoa(instances), "callback {\n listen 127.0.0.1:0\n tls "+mode+"\n}", api.invoker())
	}
	r := startCaddy(t, site(2))
	r.await("two instances", func() bool { return r.pool().in("ready") == 2 })
	stolen := make(chan stolenEvent, 10)
	api.steal(stolen)
	if status, body := r.load(site(3)); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	mine := take(t, "an event", stolen)
	taken, err := invoke.ParseEvent(api.seen()[0]) // of an instance that has its tunnel
	if err != nil {
		t.Fatal(err)
	}
	stop := r.send(load{clients: 4, path: "/delay?delay=5", reloads: true})

	served := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a stranger got a request") })
	refused := func(cfg tunnel.DialConfig) func() {
		return func() {
			if s, err := tunnel.Dial(t.Context(), cfg); err == nil {
				_ = s.Close()
				t.Error("a stranger got a tunnel")
			}
		}
	}
	change := func(f func(*tunnel.DialConfig)) tunnel.DialConfig {
		cfg := adapterFor(mine.Event, served)
		cfg.HelloTimeout = 10 * time.Second
		f(&cfg)
		return cfg
	}
	raw := func(what string, hangUp bool) func() {
		return func() {
			c, err := net.Dial("tcp", mine.Router)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, what)
			if hangUp {
				return
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err = io.Copy(io.Discard, c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the router does not hang up")
			}
		}
	}
	garbage := make([]byte, 8<<10)
	rand.Read(garbage)
	var recorded recording
	tests := []struct {
		name string
		do   func()
		want string
	}{
		{"hangs up", raw("", true), ""},
		{"says nothing", raw("", false), "timeout"},
		{"garbage", raw("\x00"+string(garbage), false), ""},
		{"HTTP/1.1", raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false), ""},
		{"unknown ID", refused(change(func(c *tunnel.DialConfig) { c.Instance = strings.Repeat("0f", 16) })), "instance"},
		{"wrong MAC", refused(change(func(c *tunnel.DialConfig) { c.Secret = bytes.Repeat([]byte{1}, 32) })), "mac"},
		{"the secret of another instance", refused(change(func(c *tunnel.DialConfig) { c.Secret = taken.Secret })), "mac"},
		{"the ID of another instance", refused(change(func(c *tunnel.DialConfig) { c.Instance = taken.Instance })), "instance"},
		{"a second tunnel", refused(adapterFor(taken, served)), "instance"},
		{"a hello that is recorded", refused(change(func(c *tunnel.DialConfig) {
			c.Secret = nil // the first time does not succeed either, so the ID stays good
			c.DialContext = recorded.dial
		})), "mac"},
	}
	if mode == "auto" {
		other, err := tunnel.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, []struct {
			name string
			do   func()
			want string
		}{
			{"wants another key", refused(change(func(c *tunnel.DialConfig) { c.Pin = other.Pin() })), "tls"},
			{"plain text to TLS", refused(change(func(c *tunnel.DialConfig) { c.Pin = "" })), "timeout"},
			{"HTTPS", func() {
				c, err := tls.Dial("tcp", mine.Router, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
				if err == nil {
					_ = c.Close()
				}
			}, "tls"},
		}...)
	} else {
		identity, err := tunnel.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, []struct {
			name string
			do   func()
			want string
		}{
			{"TLS to plain text", refused(change(func(c *tunnel.DialConfig) { c.Pin = identity.Pin() })), "protocol"},
			{"the recorded hello again", func() {
				c, err := net.Dial("tcp", mine.Router)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				// An answer before the router's hello would be a violation of HTTP/2.
				if _, err := bufio.NewReader(c).ReadString('}'); err != nil {
					t.Error(err)
				}
				_, _ = c.Write(recorded.adapter.Bytes())
				_, _ = io.Copy(io.Discard, c)
			}, "mac"},
		}...)
	}
	for _, tt := range tests {
		if tt.want == "timeout" && testing.Short() {
			continue // each takes as long as a hello may
		}
		before := r.rejected()
		tt.do()
		r.await(tt.name+" to be counted", func() bool {
			after := r.rejected()
			if tt.want != "" {
				return after[tt.want] > before[tt.want]
			}
			sum := 0
			for reason, n := range after {
				sum += n - before[reason]
			}
			return sum > 0
		})
	}

	// The instance itself still gets in, and once only, ever.
	s, err := tunnel.Dial(t.Context(), adapterFor(mine.Event, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })))
	if err != nil {
		t.Fatal(err)
	}
	r.await("the third instance", func() bool { return r.pool().in("ready") == 3 })
	api.steal(nil)
	_ = s.Close()
	mine.end(invoke.ReasonDrained)
	before := r.rejected()["instance"]
	refused(adapterFor(mine.Event, served))()
	r.await("a finished ID to be counted", func() bool { return r.rejected()["instance"] > before })

	// All are counted, and some are logged.
	before = r.rejected()["instance"]
	const many = 300
	var wg sync.WaitGroup
	begin := time.Now()
	for range 10 {
		wg.Go(func() {
			for range many / 10 {
				refused(adapterFor(mine.Event, served))()
			}
		})
	}
	wg.Wait()
	r.await("all of them to be counted", func() bool { return r.rejected()["instance"] == before+many })
	seconds := int(time.Since(begin).Seconds()) + 2
	lines := 0
	for _, e := range r.logs.lines("callback rejected") {
		if e["level"] == "warn" {
			lines++
		}
	}
	if lines < 5 || lines > 10*seconds+len(tests) {
		t.Errorf("%d warnings about %d strangers in %d s", lines, many, seconds)
	}
	t.Logf("%d requests meanwhile, rejected %v", stop(), r.rejected())
}

// recording is a connection of which everything that the adapter says is kept.
type recording struct {
	net.Conn
	adapter bytes.Buffer
}

func (r *recording) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	r.Conn = c
	return r, err
}

func (r *recording) Write(p []byte) (int, error) {
	r.adapter.Write(p)
	return r.Conn.Write(p)
}

// rss returns the memory of a process in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// peak watches the memory of a process until stop is called.
func peak(t *testing.T, pid int) (stop func() int) {
	quit, most := make(chan struct{}), 0
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, rss(t, pid))
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() int {
		close(quit)
		wg.Wait()
		return most
	}
}

// latencies sends requests one after the other until stop is called, and
// returns how long they took, sorted.
func (r *router) latencies(path string) (stop func() []time.Duration) {
	quit := make(chan struct{})
	var took []time.Duration
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			begin := time.Now()
			resp, body, err := r.do(http.MethodGet, path, nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				r.t.Errorf("a request failed: %v, body %q, error %v", resp, body, err)
				return
			}
			took = append(took, time.Since(begin))
		}
	})
	return func() []time.Duration {
		close(quit)
		wg.Wait()
		slices.Sort(took)
		return took
	}
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(100 * time.Microsecond)
}

// Ten thousand connections from strangers that are slow to say hello, in four
// ways: running requests do not notice, an environment can call back meanwhile,
// the router's memory stays within 100 MB of what it was, and when the time for
// a hello is over they are all gone.
func TestTenThousandSlowHellos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a hello may take")
	}
	const crowd = 10_000
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Max < crowd+2000 {
		t.Skipf("NOT TESTED: only %d files can be open, %v", files.Max, err)
	}
	r := startCaddy(t, anotherPool("auto")+dispatch("callback {\n listen 127.0.0.1:0\n}", local("command "+demoBin)))
	checkAll(t, r.burst(20, "/ping"))
	address, _ := r.logs.lines("callback listener bound")[0]["address"].(string)
	calm := r.latencies("/ping")
	time.Sleep(time.Second) // for figures to compare with
	before := calm()

	clientHello := recordClientHello(t)
	idle := rss(t, r.cmd.Process.Pid)
	highest := peak(t, r.cmd.Process.Pid)
	during := r.latencies("/ping")
	begin := time.Now()
	gone := make(chan struct{}, crowd)
	var open atomic.Int64
	var wg sync.WaitGroup
	const diallers = 50
	for d := range diallers {
		wg.Go(func() {
			for i := range crowd / diallers {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					gone <- struct{}{}
					continue
				}
				open.Add(1)
				go func() {
					defer func() { _ = c.Close(); open.Add(-1); gone <- struct{}{} }()
					_ = c.SetDeadline(time.Now().Add(patience))
					slowHello(c, (d+i)%4, clientHello)
				}()
			}
		})
	}
	wg.Wait()
	connected := time.Since(begin)
	cold := time.Now()
	status, _ := r.get("/other/ping")
	coldStart := time.Since(cold)
	if status != 200 || coldStart > 5*time.Second {
		t.Errorf("a cold start in the crowd: status %d after %v, with %d strangers", status, coldStart, open.Load())
	}
	for range crowd {
		take(t, "the strangers to be gone", gone)
	}
	allGone := time.Since(begin)
	after := during()
	most := highest()
	t.Logf("%d connected in %v, all gone after %v; cold start %v; latency p50 %v p99 %v max %v, before p50 %v p99 %v max %v; memory %d MB, before %d MB; rejected %v",
		crowd, connected.Round(time.Millisecond), allGone.Round(time.Millisecond), coldStart.Round(time.Millisecond),
		quantile(after, 0.5), quantile(after, 0.99), quantile(after, 1), quantile(before, 0.5), quantile(before, 0.99), quantile(before, 1),
		most>>20, idle>>20, r.rejected())
	if most-idle > 100<<20 && !raceEnabled {
		t.Errorf("memory rose by %d MB", (most-idle)>>20)
	}
	if allGone > connected+10*time.Second {
		t.Errorf("the last was gone after %v", allGone)
	}
	if p99, calm := quantile(after, 0.99), quantile(before, 0.99); p99 > max(10*calm, 500*time.Millisecond) {
		t.Errorf("p99 is %v in the crowd, %v without", p99, calm)
	}
	if lines := strings.Count(r.logs.String(), `"level":"warn"`) + strings.Count(r.logs.String(), `"level":"error"`); lines > 10 {
		t.Errorf("strangers wrote %d warnings into the log", lines)
	}
}

// anotherPool is a directive for a pool below /other that shares the callback
// listener.
func anotherPool(tls string) string {
	return `route /other* {
	uri strip_prefix /other
	lambda_dispatch other {
		callback {
			listen 127.0.0.1:0
			tls ` + tls + `
		}
		` + local("command "+demoBin) + `
	}
}
`
}

// slowHello is one way to begin a hello and not to end it. It returns when the
// router has hung up.
func slowHello(c net.Conn, way int, clientHello []byte) {
	switch way {
	case 1: // drop by drop
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range clientHello {
			if _, err := c.Write(clientHello[i : i+1]); err != nil {
				return
			}
			<-tick.C
		}
	case 2: // half a handshake
		_, _ = c.Write(clientHello)
	case 3: // TLS and then nothing
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"rh2"}})
		if t.Handshake() != nil {
			return
		}
	}
	_, _ = io.Copy(io.Discard, c)
}

// recordClientHello returns the first thing that a TLS client says.
func recordClientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"rh2"}}).Handshake()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(far, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// injector is an adapter's connection into which frames can be written.
type injector struct {
	mu sync.Mutex // held while something is written
	net.Conn
}

func (i *injector) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	i.Conn = c
	return i, err
}

func (i *injector) Write(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.Conn.Write(p)
}

// h2frame returns an HTTP/2 frame.
func h2frame(kind, flags byte, stream uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	return string(binary.BigEndian.AppendUint32(b, stream)) + payload
}

// Instances of a pool that turn hostile, each in its own way, with tunnels that
// were theirs by right: requests that run on another instance of the pool and
// those of another pool do not notice, the hostile are cut off and replaced, and
// the router's memory stays within 100 MB of what it was.
func TestInstancesThatTurnHostile(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as floods are borne")
	}
	bomb := "\x88" + strings.Repeat("\x90", 16<<10)
	attacks := map[string]string{
		"pings":           h2frame(6, 0, 0, "12345678"),
		"settings":        h2frame(4, 0, 0, ""),
		"window updates":  h2frame(8, 0, 7777, "\x00\x00\x00\x01"),
		"resets":          h2frame(3, 0, 1, "\x00\x00\x00\x08"),
		"HPACK bombs":     h2frame(1, 4, 1, bomb),
		"endless headers": h2frame(1, 0, 1, "\x88") + strings.Repeat(h2frame(9, 0, 1, "\x90"), 1<<16),
		"empty data":      h2frame(0, 0, 1, ""),
		"unknown frames":  h2frame(0xbe, 0, 0, "?"),
		"unasked data":    h2frame(0, 0, 99, "?"),
		"a long line":     h2frame(0, 0, 3, strings.Repeat("x", 8<<10)),
		"control lines":   h2frame(0, 0, 3, `{"type":"stats","in_flight":3}`+"\n"),
		"garbage":         strings.Repeat("\xff\x00garbage", 4<<10),
		"pushes":          h2frame(5, 4, 3, "\x00\x00\x00\x02\x88"),
	}
	api := startInvokeAPI(t, startLocalLambda(t, nil, "--listen", "127.0.0.1:0"))
	site := func(instances int) string {
		return anotherPool("off") + dispatch("max_concurrent 10", "min_instances "+strconv.Itoa(instances), "callback {\n listen 127.0.0.1:0\n tls off\n}", api.invoker())
	}
	r := startCaddy(t, site(1))
	checkAll(t, r.burst(5, "/ping"))
	checkAll(t, r.burst(5, "/other/ping"))
	running := make(chan []answer, 1)
	go func() { running <- r.burst(5, "/delay?delay=10000") }()
	r.await("requests to run", func() bool { return r.pool().InFlight == 5 })
	calm := r.latencies("/other/ping")
	time.Sleep(time.Second) // for figures to compare with
	before := calm()

	stolen := make(chan stolenEvent, 10*len(attacks))
	api.steal(stolen)
	if status, body := r.load(site(1 + len(attacks))); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	idle := rss(t, r.cmd.Process.Pid)
	highest := peak(t, r.cmd.Process.Pid)
	answers := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pong") })
	type hostile struct {
		name    string
		ev      stolenEvent
		session *tunnel.Session
		conn    *injector
	}
	var all []hostile
	for name := range attacks {
		h := hostile{name: name, ev: take(t, "an event", stolen), conn: new(injector)}
		cfg := adapterFor(h.ev.Event, answers)
		cfg.DialContext = h.conn.dial
		var err error
		if h.session, err = tunnel.Dial(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	r.await("the hostile instances", func() bool { return r.pool().in("ready") == 1+len(attacks) })
	api.steal(nil) // what replaces them is honest

	during := r.latencies("/other/ping")
	var wg sync.WaitGroup
	begin := time.Now()
	for _, h := range all {
		wg.Go(func() {
			many := []byte(strings.Repeat(attacks[h.name], 1+32<<10/len(attacks[h.name])))
			_ = h.conn.SetDeadline(time.Now().Add(patience))
			for {
				if _, err := h.conn.Write(many); err != nil {
					break
				}
			}
			if errors.Is(h.session.Err(), os.ErrDeadlineExceeded) {
				t.Errorf("%s: the router did not hang up", h.name)
			}
			_ = h.session.Close()
			h.ev.end(invoke.ReasonDrained)
		})
	}
	wg.Wait()
	over := time.Since(begin)
	r.await("honest instances", func() bool { return r.pool().in("ready") == 1+len(attacks) })
	after := during()
	most := highest()
	checkAll(t, take(t, "what ran before", running))
	checkAll(t, r.burst(20, "/ping"))
	t.Logf("%d attacks were over after %v; latency p50 %v p99 %v max %v, before p50 %v p99 %v max %v; memory %d MB, before %d MB",
		len(attacks), over.Round(time.Millisecond), quantile(after, 0.5), quantile(after, 0.99), quantile(after, 1),
		quantile(before, 0.5), quantile(before, 0.99), quantile(before, 1), most>>20, idle>>20)
	if most-idle > 100<<20 && !raceEnabled {
		t.Errorf("memory rose by %d MB", (most-idle)>>20)
	}
	if p99, calm := quantile(after, 0.99), quantile(before, 0.99); p99 > max(10*calm, 500*time.Millisecond) {
		t.Errorf("p99 is %v beside the floods, %v without", p99, calm)
	}
	if n := strings.Count(r.logs.String(), "http2:") + strings.Count(r.logs.String(), "unhandled response frame"); n > len(attacks) {
		t.Errorf("the engine wrote %d lines into the log", n)
	}
}
