package tests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// withGrace is the Caddyfile of a site with a grace period.
func withGrace(grace, site string) string {
	return `{
	admin unix//%DIR%/admin.sock
	auto_https off
	grace_period ` + grace + `
	log {
		format json
		level DEBUG
	}
}
http://localhost {
	bind unix//%DIR%/site.sock
	log
` + site + `
}
`
}

// terminate ends Caddy and returns how long it took.
func (r *router) terminate(limit time.Duration) time.Duration {
	r.t.Helper()
	start := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	select {
	case <-r.exited:
	case <-time.After(patience):
		r.t.Fatal("Caddy does not exit")
	}
	took := time.Since(start)
	if took > limit {
		r.t.Errorf("Caddy took %v to exit, want %v at most", took, limit)
	}
	if r.exitErr != nil {
		r.t.Errorf("Caddy exited with %v", r.exitErr)
	}
	return took
}

// checkEnded checks that every invocation has ended, and how.
func (r *router) checkEnded(results ...string) {
	r.t.Helper()
	started, closed := r.logs.lines("instance starting"), r.logs.lines("instance closed")
	if len(started) != len(closed) {
		r.t.Errorf("%d instances were started, %d closed", len(started), len(closed))
	}
	for _, e := range closed {
		if letGo(e) {
			continue
		}
		if !strings.Contains(strings.Join(results, " "), fmt.Sprint(e["result"])) {
			r.t.Errorf("an invocation ended with %v, want one of %v", e, results)
		}
	}
}

// letGo reports whether an instance was still starting when it was not needed
// any more: its environment comes too late, and finds that out.
func letGo(e map[string]any) bool {
	return e["requests"] == 0.0 && (e["reason"] == "not needed" || e["reason"] == "pool closed") &&
		(e["result"] == "router_refused" || e["result"] == "router_unreachable")
}

// SIGTERM under load: what was accepted is served, be it running, waiting or
// streaming; every invocation ends, and so does the process.
func TestSIGTERMUnderLoad(t *testing.T) {
	eachProxy(t, func(t *testing.T, option string) {
		r := startCaddy(t, withGrace("30s", dispatch("max_concurrent 5", "max_instances 4", option, socketsApp())))
		sockets := []*websocket.Conn{r.mustSocket(), r.mustSocket()}
		processes := descendants(t, r.cmd.Process.Pid)
		c := newCrowd(r, r.unixSite())
		c.each(20, c.get)
		c.each(4, c.stream)
		c.each(4, c.upload)
		r.await("all to run and some to wait", func() bool {
			return r.pool().Queued > 5 && c.served.Load() > 50 && c.uploads.Load() > 0 && c.streams.Load() > 0
		})
		ended := make(chan websocket.StatusCode, len(sockets))
		for _, s := range sockets {
			go func() {
				_, _, err := s.Read(context.Background())
				ended <- websocket.CloseStatus(err)
			}()
		}
		took := r.terminate(20 * time.Second)
		c.stop()
		for range sockets {
			if status := <-ended; status != websocket.StatusGoingAway {
				t.Errorf("a WebSocket ended with %d", status)
			}
		}
		r.checkEnded("drained")
		for _, pid := range processes {
			if syscall.Kill(pid, 0) == nil {
				t.Errorf("process %d is left behind", pid)
			}
		}
		t.Logf("exited after %v, %d invocations", took, len(r.logs.lines("instance closed")))
	})
}

// When the grace period is over, what still runs is cut: visibly for its
// clients. Invocations and the process end all the same.
func TestSIGTERMWithTooShortAGracePeriod(t *testing.T) {
	eachProxy(t, func(t *testing.T, option string) {
		r := startCaddy(t, withGrace("1s", dispatch("max_concurrent 6", "max_instances 1", option, socketsApp())))
		const parts = 1200 // a minute's worth
		var all sync.WaitGroup
		for _, path := range []string{
			"/stream?pause=50&parts=1200", "/stream?pause=50&parts=1200&length", "/delay?delay=60000",
		} {
			for range 2 {
				all.Go(func() {
					client := r.unixSite().client()
					resp, err := client.Get("http://localhost" + path)
					if err != nil {
						return // visibly cut
					}
					body, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err == nil && resp.StatusCode == http.StatusOK {
						t.Errorf("%s: %d bytes of %d looked complete", path, len(body), len(streamed(parts)))
					}
				})
			}
		}
		r.await("all slots to be taken", func() bool { return r.pool().InFlight == 6 })
		for range 5 { // these wait for a slot
			all.Go(func() {
				client := r.unixSite().client()
				resp, err := client.Get("http://localhost/ping")
				if err != nil {
					return
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusServiceUnavailable && string(body) != "pong" {
					t.Errorf("a request that waited got %d: %s", resp.StatusCode, body)
				}
			})
		}
		r.await("some to wait", func() bool { return r.pool().Queued == 5 })
		took := r.terminate(15 * time.Second)
		all.Wait()
		r.checkEnded("drained", "router_gone")
		t.Logf("exited after %v", took)
	})
}

// During shutdown_delay a load balancer still sends requests, and the pool goes
// on growing with them.
func TestPoolsGoOnDuringTheShutdownDelay(t *testing.T) {
	const n = 3
	app := startRawApp(t)
	var together sync.WaitGroup // none is answered before all of them run
	together.Add(n)
	app.on("", func(x *appExchange) {
		x.readBody()
		together.Done()
		together.Wait()
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	site := dispatch("max_concurrent 1", local("command sleep 1000000", fmt.Sprintf("env LAMBDA_DISPATCH_PORT %d", app.port()),
		"env LAMBDA_DISPATCH_READINESS_PROTOCOL tcp"))
	r := startCaddy(t, strings.Replace(withGrace("20s", site), "grace_period", "shutdown_delay 5s\n\tgrace_period", 1))
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.await("the delay to begin", func() bool { return r.logs.count("delay_duration") > 0 })
	checkAll(t, r.burst(n, "/"))
	<-r.exited
	r.checkEnded("drained")
}
