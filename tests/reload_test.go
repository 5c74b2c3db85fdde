package tests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// load is what several clients send, one request after the other.
type load struct {
	clients int
	method  string // default GET
	path    string
	content string
	// reloads tolerates connections that are closed before the first byte of
	// an answer. net/http does that to connections between two requests when
	// Caddy replaces a server, under a plain reverse_proxy just the same.
	reloads bool
}

// send sends the load until stop is called, which returns how many requests
// were answered and fails the test if any was not.
func (r *router) send(l load) (stop func() int) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	var served, failed atomic.Int64
	var firstFailure atomic.Value
	for range l.clients {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				resp, body, err := r.do(l.method, l.path, strings.NewReader(l.content))
				if l.reloads && resp == nil && hungUp(err) {
					continue
				}
				if err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
					firstFailure.CompareAndSwap(nil, fmt.Sprintf("response %v, body %q, error %v", resp, body, err))
					return
				}
				served.Add(1)
			}
		})
	}
	return func() int {
		r.t.Helper()
		close(quit)
		wg.Wait()
		if failed.Load() > 0 {
			r.t.Errorf("%d of %d requests failed, the first with %v", failed.Load(), failed.Load()+served.Load(), firstFailure.Load())
		}
		return int(served.Load())
	}
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// A reload keeps instances, queue and running requests; new settings apply to
// the same pool.
func TestReloadKeepsThePool(t *testing.T) {
	site := func(maxConcurrent int) string {
		return dispatch(fmt.Sprintf("max_concurrent %d", maxConcurrent), "max_instances 1",
			local("command "+demoBin, "cold_start 500ms"))
	}
	r := startCaddy(t, site(4))
	if status, _ := r.get("/ping"); status != 200 {
		t.Fatalf("status %d", status)
	}
	before := r.pool().Instances[0].ID
	stop := r.send(load{clients: 8, path: "/delay?delay=20", reloads: true}) // more than there are slots: some wait
	for i := range 10 {
		if status, body := r.load(site(4 + i%2)); status != 200 {
			t.Fatalf("reload %d: status %d, %s", i, status, body)
		}
	}
	if n := stop(); n == 0 {
		t.Error("no request was served meanwhile")
	}
	after := r.pool().Instances
	if len(after) != 1 || after[0].ID != before {
		t.Errorf("instance was %s, now %+v", before, after)
	}
	started, ended := r.invocations()
	if started != 1 || ended != 0 {
		t.Errorf("metrics after reloads: %d invocations started, %d ended; want 1 and 0", started, ended)
	}
}

func TestPortInUseIsAnErrorAndLeavesTheRunningConfigurationAlone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	app := local("command " + demoBin)
	r := startCaddy(t, dispatch(app))
	if status, _ := r.get("/ping"); status != 200 {
		t.Fatal(status)
	}
	before := r.pool().Instances[0].ID
	status, body := r.load(dispatch("max_concurrent 3", "callback {\n listen "+taken.Addr().String()+"\n}", app))
	if status == 200 || !strings.Contains(body, "callback listener") || !strings.Contains(body, "address already in use") {
		t.Errorf("status %d, %s", status, body)
	}
	if status, body := r.get("/ping"); status != 200 || body != "pong" {
		t.Errorf("after the failed reload: status %d, body %q", status, body)
	}
	if p := r.pool(); len(p.Instances) != 1 || p.Instances[0].ID != before {
		t.Errorf("instance was %s, now %+v", before, p.Instances)
	}
}

// Nobody pays for a configuration that fails.
func TestFailedReloadInvokesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	// On TCP: Caddy cannot take up a Unix socket again after a failed reload.
	first, second := freeAddress(t), freeAddress(t)
	config := func(more string) string {
		return "{\n\tadmin unix//%DIR%/admin.sock\n\tauto_https off\n}\nhttp://" + first + " {\n" + dispatch(local("command "+demoBin)) + "\n}\n" + more
	}
	fresh := func(addr string) string {
		return config("http://" + addr + " {\nlambda_dispatch fresh {\n min_instances 2\n" + local("command "+demoBin) + "\n}\n}\n")
	}
	r := startCaddy(t, config(""))
	for range 4 { // Caddy starts its apps in any order
		status, body := r.load(fresh(taken.Addr().String()))
		if status == 200 || !strings.Contains(body, "address already in use") {
			t.Fatalf("status %d, %s", status, body)
		}
	}
	for _, line := range r.logs.lines("instance starting") {
		if line["pool"] == "fresh" {
			t.Fatalf("a function was invoked: %v", line)
		}
	}
	// In a configuration that does not fail the setting counts.
	if status, body := r.load(fresh(second)); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	r.await("the instances", func() bool { return len(r.logs.lines("instance ready")) == 2 })
}

func TestRemovingTheDirectiveDrainsThePool(t *testing.T) {
	r := startCaddy(t, dispatch("min_instances 1", local("command "+demoBin)))
	checkAll(t, r.burst(5, "/ping"))
	slow := make(chan []answer, 1)
	go func() { slow <- r.burst(1, "/delay?delay=1000") }()
	r.await("the slow request", func() bool { return r.pool().InFlight == 1 })
	if status, body := r.load(`respond "other"`); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	checkAll(t, <-slow)
	r.await("the pool to close", func() bool { return len(r.logs.lines("instance closed")) == 1 })
	if got := r.logs.lines("instance closed")[0]["result"]; got != "drained" {
		t.Errorf("the invocation ended with %v", got)
	}
	if _, body := r.get("/ping"); body != "other" {
		t.Errorf("body %q", body)
	}
}

// Requests that wait on a cold pool are served although the reload that removes
// the directive comes before the first instance.
func TestRemovingTheDirectiveServesTheQueue(t *testing.T) {
	r := startCaddy(t, dispatch(local("command "+demoBin, "cold_start 2s")))
	waiting := make(chan []answer, 1)
	go func() { waiting <- r.burst(20, "/delay?delay=100") }()
	r.await("the requests to wait", func() bool { return r.pool().Queued == 20 })
	if status, body := r.load(`respond "other"`); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	if n := r.pool().Queued; n != 20 {
		t.Errorf("the admin API shows %d waiting requests of a pool that is closing, want 20", n)
	}
	checkAll(t, <-waiting)
}

// SIGTERM serves what was accepted, tells every instance to go, and leaves no
// process behind.
func TestShutdownFinishesRequestsAndInstances(t *testing.T) {
	r := startCaddy(t, dispatch("min_instances 2", "max_concurrent 5", local("command "+demoBin)))
	r.await("two instances", func() bool { return r.pool().in("ready") == 2 })
	processes := descendants(t, r.cmd.Process.Pid)
	if len(processes) < 4 {
		t.Fatalf("expected adapters and apps of two environments, found processes %v", processes)
	}
	running := make(chan []answer, 1)
	go func() { running <- r.burst(15, "/delay?delay=500") }()
	r.await("the requests", func() bool { p := r.pool(); return p.InFlight+p.Queued == 15 })
	r.stop()
	checkAll(t, <-running)
	if r.exitErr != nil {
		t.Errorf("caddy exited with %v", r.exitErr)
	}
	for _, e := range r.logs.lines("instance closed") {
		if e["result"] != "drained" {
			t.Errorf("an invocation ended with %v", e["result"])
		}
	}
	started, closed := len(r.logs.lines("instance starting")), len(r.logs.lines("instance closed"))
	if started != closed {
		t.Errorf("%d instances were started, %d closed", started, closed)
	}
	for _, pid := range processes {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			t.Errorf("process %d is left behind", pid)
		}
	}
}

// Instances are replaced before their function timeout, under load, and no
// request notices.
func TestReplacementBeforeTheDeadline(t *testing.T) {
	if testing.Short() {
		t.Skip("takes three lifetimes of 10 s")
	}
	r := startCaddy(t, dispatch("max_concurrent 4", "min_instances 1", local("command "+demoBin, "timeout 10s", "cold_start 500ms")))
	if status, _ := r.get("/ping"); status != 200 {
		t.Fatal(status)
	}
	stop := r.send(load{clients: 4, path: "/delay?delay=50"})
	r.await("three replacements", func() bool { return len(r.logs.lines("instance closed")) >= 3 })
	n := stop()
	t.Logf("%d requests, %d instances", n, len(r.logs.lines("instance starting")))
	for _, e := range r.logs.lines("instance closed") {
		if e["result"] != "drained" && e["result"] != "deadline" {
			t.Errorf("an invocation ended with %v", e)
		}
	}
}

// What `caddy validate` and `caddy adapt` say about a wrong value.
func TestWrongConfigurationNamesFileAndLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte("http://localhost:0 {\n\tlambda_dispatch app {\n\t\tmax_concurrent lots\n\t}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(caddyBin, "validate", "--config", file, "--adapter", "caddyfile").CombinedOutput()
	if err == nil {
		t.Error("accepted")
	}
	for _, want := range []string{"Caddyfile:3", "max_concurrent", "lots", "a whole number from 1 to 1000"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
}

func TestGarbageOnTheCallbackListenerDoesNoHarm(t *testing.T) {
	for _, mode := range []string{"auto", "off"} {
		t.Run("tls "+mode, func(t *testing.T) {
			r := startCaddy(t, dispatch("callback {\n tls "+mode+"\n}", local("command "+demoBin)))
			if status, _ := r.get("/ping"); status != 200 {
				t.Fatal(status)
			}
			addr := r.logs.lines("callback listener bound")[0]["address"].(string)
			stop := r.send(load{clients: 4, path: "/ping"})
			for _, garbage := range []string{
				"", "\x00", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
				"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", strings.Repeat("\xff", 1<<20),
			} {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = conn.Write([]byte(garbage)) // it may be hung up on while writing
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
				}
				// Dropped means that the router closes it.
				_ = conn.SetReadDeadline(time.Now().Add(patience))
				buf := make([]byte, 1<<16)
				for {
					if _, err := conn.Read(buf); err != nil {
						if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
							t.Errorf("connection with %.20q was left open", garbage)
						}
						break
					}
				}
				conn.Close()
			}
			stop()
			if n := len(r.pool().Instances); n != 1 {
				t.Errorf("%d instances", n)
			}
		})
	}
}
