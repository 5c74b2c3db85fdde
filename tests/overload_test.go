package tests

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// startBusySite is startCaddy with the site on TCP, because the backlog of a
// Unix socket refuses clients when it is full, and without a log of everything.
func startBusySite(t *testing.T, directives string) *router {
	t.Helper()
	addr := freeAddress(t)
	_, port, _ := net.SplitHostPort(addr)
	r := startCaddy(t, fmt.Sprintf("{\n\tadmin unix//%%DIR%%/admin.sock\n\tauto_https off\n}\nhttp://:%s {\n\tbind 127.0.0.1\n%s\n}\n", port, directives))
	r.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		},
		MaxIdleConnsPerHost: 1000,
		DisableCompression:  true,
	}}
	r.await("the instance", func() bool { return r.pool().in("ready") == 1 })
	return r
}

// dial opens a connection to the site.
func (r *router) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(r.dir, "site.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// heap returns how much memory is in use in Caddy, in bytes.
func (r *router) heap() int {
	r.t.Helper()
	for range 2 { // what is in a sync.Pool survives the first
		resp, err := r.admin.Get("http://localhost/debug/pprof/heap?gc=1")
		if err != nil {
			r.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	resp, err := r.admin.Get("http://localhost/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	all, _ := io.ReadAll(resp.Body)
	_, rest, _ := strings.Cut(string(all), "\ngo_memstats_heap_alloc_bytes ")
	value, _, _ := strings.Cut(rest, "\n")
	bytes, err := strconv.ParseFloat(value, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return int(bytes)
}

// goroutines returns how many goroutines Caddy has.
func (r *router) goroutines() int {
	r.t.Helper()
	resp, err := r.admin.Get("http://localhost/debug/pprof/goroutine?debug=1")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var n int
	if _, err := fmt.Fscanf(resp.Body, "goroutine profile: total %d", &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// pace returns how long the site takes for some thousand small requests, the
// best of three. All must be answered.
func (r *router) pace() time.Duration {
	r.t.Helper()
	best := time.Duration(1 << 62)
	for range 3 {
		begin := time.Now()
		var clients sync.WaitGroup
		for range 10 {
			clients.Go(func() {
				for range 200 {
					resp, body, err := r.do(http.MethodGet, "/ping", nil)
					if err != nil || resp.StatusCode != http.StatusOK || body != "pong" {
						r.t.Errorf("got %v, %q, %v", resp, body, err)
						return
					}
				}
			})
		}
		clients.Wait()
		best = min(best, time.Since(begin))
	}
	return best
}

// checkPace fails the test if the site has become slow.
func (r *router) checkPace(before time.Duration) {
	r.t.Helper()
	var after time.Duration
	for range 3 { // others may use the machine at the moment
		if after = r.pace(); after < before*3/2 {
			break
		}
	}
	r.t.Logf("2000 requests took %v before and %v after", before, after)
	if after > 2*before {
		r.t.Errorf("2000 requests took %v before and %v after", before, after)
	}
}

// A request that finds the queue full is told so at once, even if it is still
// sending its body, and when to come back.
func TestQueueIsFull(t *testing.T) {
	r := startCaddy(t, dispatch("max_instances 1", "min_instances 1", "max_concurrent 1", "queue_size 2", local("command "+demoBin)))
	r.await("the instance", func() bool { return r.pool().in("ready") == 1 })
	for range 3 {
		fmt.Fprint(r.dial(), "GET /delay?delay=60000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	r.await("the queue to be full", func() bool { return r.pool().Queued == 2 })
	for _, tc := range []struct {
		name, request string
		again         bool // the connection can be used again
	}{
		{"GET", "GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n", true},
		{"chunked body", "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", true},
		{"part of a chunked body", "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", false},
		{"part of a big body", "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\na", false},
		{"body to be asked for", "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", false},
	} {
		var took []time.Duration
		for range leaveTries {
			conn := r.dial()
			begin := time.Now()
			fmt.Fprint(conn, tc.request)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			took = append(took, time.Since(begin))
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" {
				t.Errorf("%s: status %d, header %v", tc.name, resp.StatusCode, resp.Header)
			}
			if resp.Close == tc.again {
				t.Errorf("%s: the connection ends: %v", tc.name, resp.Close)
			}
			_ = resp.Body.Close()
			_ = conn.Close()
		}
		if m := medianOf(took); m > leaveLimit {
			t.Errorf("%s: answered after %v", tc.name, took)
		}
	}
	if n := r.metrics()[`rejected_requests_total{pool="app",reason="queue_full"}`]; n != 5*leaveTries {
		t.Errorf("%v requests counted as refused", n)
	}
}

// A request that has waited for queue_timeout is told so in time, and the next
// ones are served as ever.
func TestQueueTimeoutIsInTime(t *testing.T) {
	const timeout = time.Second
	r := startCaddy(t, dispatch("max_instances 1", "min_instances 1", "max_concurrent 1",
		fmt.Sprintf("queue_timeout %v", timeout), local("command "+demoBin)))
	r.await("the instance", func() bool { return r.pool().in("ready") == 1 })
	holder := r.dial()
	fmt.Fprint(holder, "GET /delay?delay=60000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	r.await("the slot to be taken", func() bool { return r.pool().InFlight == 1 })
	var took []time.Duration
	for _, a := range r.burst(200, "/ping") {
		if a.err != nil || a.status != http.StatusGatewayTimeout {
			t.Errorf("status %d, %v", a.status, a.err)
		}
		if a.took < timeout {
			t.Errorf("gave up after %v", a.took)
		}
		took = append(took, a.took)
	}
	t.Logf("200 requests were told after %v", medianOf(took))
	if m := medianOf(took); m > timeout+500*time.Millisecond {
		t.Errorf("told after %v", m)
	}
	// One that is still sending its body is told, too.
	slow := r.dial()
	begin := time.Now()
	fmt.Fprint(slow, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("got %v, %v", resp, err)
	}
	t.Logf("an upload was told after %v", time.Since(begin))
	_ = holder.Close()
	checkAll(t, r.burst(5, "/ping"))
}

// Many more clients than there is room for are refused or served, without much
// memory, and at once afterwards everything is as before.
func TestRouterOverload(t *testing.T) {
	if testing.Short() {
		t.Skip("takes its time")
	}
	const crowd = 4000
	r := startBusySite(t, dispatch("max_instances 1", "min_instances 1", "max_concurrent 10", "queue_size 1000", local("command "+demoBin)))
	before, idle := r.pace(), rss(t, r.cmd.Process.Pid)

	// They send more than the kernel holds, and of a part nothing is known but
	// that it goes on.
	body := bytes.Repeat([]byte("x"), 300_000)
	var served, refused, other atomic.Int64
	var clients sync.WaitGroup
	begin := time.Now()
	for i := range crowd {
		clients.Go(func() {
			var src io.Reader
			if i%2 == 0 {
				src = struct{ io.Reader }{bytes.NewReader(body)} // of unknown length
			}
			method := http.MethodGet
			path := "/delay?delay=50"
			if src != nil {
				method, path = http.MethodPost, "/echo"
			}
			resp, got, err := r.do(method, path, src)
			switch {
			case resp != nil && resp.StatusCode == http.StatusServiceUnavailable:
				refused.Add(1)
			case err == nil && resp.StatusCode == http.StatusOK:
				served.Add(1)
				if src != nil && got != string(body) {
					t.Errorf("an echo of %d bytes is wrong", len(got))
				}
			case src != nil && err != nil:
				other.Add(1) // a refused client that sends on may miss the answer
			default:
				t.Errorf("got %v, %v", resp, err)
			}
		})
	}
	peak := 0
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(10 * time.Millisecond):
			peak = max(peak, rss(t, r.cmd.Process.Pid))
		}
	}
	t.Logf("%d served, %d refused, %d cut off in %v; memory %d MB idle, %d MB at most",
		served.Load(), refused.Load(), other.Load(), time.Since(begin), idle>>20, peak>>20)
	if refused.Load() == 0 || served.Load() < 1000 {
		t.Errorf("%d served, %d refused", served.Load(), refused.Load())
	}
	// 128 MB for bodies, 1000 in the queue, some 50 KB for each connection, and
	// what Go's collector lets pile up.
	if most := idle + 2*(128<<20+crowd*50_000); !raceEnabled && peak > most {
		t.Errorf("memory grew from %d to %d MB", idle>>20, peak>>20)
	}
	r.client.CloseIdleConnections()
	r.await("the queue to be empty", func() bool { p := r.pool(); return p.Queued == 0 && p.InFlight == 0 })
	r.checkPace(before)
}

// Clients that leave at any moment disturb nobody else and leave nothing behind.
func TestThousandsOfClientsThatLeave(t *testing.T) {
	if testing.Short() {
		t.Skip("takes its time")
	}
	const leavers = 10_000
	r := startBusySite(t, dispatch("max_instances 1", "min_instances 1", "max_concurrent 10", local("command "+demoBin)))
	before := r.pace()
	r.client.CloseIdleConnections()
	goroutines, heap, memory := r.goroutines(), r.heap(), rss(t, r.cmd.Process.Pid)

	ctx, stop := context.WithCancel(t.Context())
	var stayed atomic.Int64
	var others sync.WaitGroup
	for i := range 4 {
		others.Go(func() {
			dice := rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				body := make([]byte, dice.IntN(300_000))
				for j := range body {
					body[j] = byte(dice.Uint32())
				}
				resp, got, err := r.do(http.MethodPost, "/echo", bytes.NewReader(body))
				if err != nil || resp.StatusCode != http.StatusOK || got != string(body) {
					t.Errorf("somebody else's request: %v, %v, %d bytes of %d", resp, err, len(got), len(body))
					return
				}
				stayed.Add(1)
			}
		})
	}
	var left atomic.Int64
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			for left.Add(1) <= leavers {
				ctx, leave := context.WithTimeout(ctx, time.Duration(rand.IntN(15_000))*time.Microsecond)
				method, path := http.MethodGet, "/delay?delay=10"
				var src io.Reader
				switch rand.IntN(4) {
				case 0:
					method, path, src = http.MethodPost, "/echo", strings.NewReader(strings.Repeat("x", 1000))
				case 1:
					method, path, src = http.MethodPost, "/echo", io.LimitReader(unending{}, 2_000_000)
				case 2:
					path = "/public/silly-test-image.jpg"
				}
				req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, src)
				if err != nil {
					t.Error(err)
				}
				if resp, err := r.client.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a leaver: %v", err)
				}
				leave()
			}
		})
	}
	clients.Wait()
	stop()
	others.Wait()
	r.await("the slots to be free", func() bool { p := r.pool(); return p.Queued == 0 && p.InFlight == 0 })
	r.client.CloseIdleConnections()
	r.await("the goroutines to end", func() bool { return r.goroutines() <= goroutines+10 })
	heapNow, memoryNow := r.heap(), rss(t, r.cmd.Process.Pid)
	t.Logf("%d requests of others were right; %v left the queue; goroutines %d, then %d; heap %d KB, then %d KB; resident %d MB, then %d MB",
		stayed.Load(), r.metrics()[`rejected_requests_total{pool="app",reason="client_gone"}`],
		goroutines, r.goroutines(), heap>>10, heapNow>>10, memory>>20, memoryNow>>20)
	if heapNow > heap+(8<<20) {
		t.Errorf("the heap has grown from %d to %d bytes", heap, heapNow)
	}
	// Resident memory is only logged: what the heap no longer uses goes back to
	// the system when Go's runtime sees fit, which says nothing about a leak.
	if stayed.Load() == 0 {
		t.Error("nobody stayed")
	}
	if n := r.pool().Instances; len(n) != 1 || n[0].State != "ready" {
		t.Errorf("instances: %+v", n)
	}
	if started, _ := r.invocations(); started != 1 {
		t.Errorf("%d instances were started: clients that leave cost one", started)
	}
	r.checkPace(before)
}

type unending struct{}

func (unending) Read(p []byte) (int, error) { return len(p), nil }
