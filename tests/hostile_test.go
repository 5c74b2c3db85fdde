package tests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
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
