package tests

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

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
	before := r.timed("/other/ping", 500)

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
