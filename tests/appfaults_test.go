package tests

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// startFaulty runs Caddy before the faulty app.
func startFaulty(t *testing.T, lines ...string) *router {
	t.Helper()
	r := startCaddy(t, dispatch("max_concurrent 10", "min_instances 1", "max_instances 1",
		local(append(appInRole(t, "faulty"), lines...)...)))
	r.await("the instance", func() bool { return r.pool().in("ready") == 1 })
	return r
}

// said counts the adapter's log lines with the text, once none is on its way.
func (r *router) said(text string) (n int) {
	for line := range strings.Lines(r.logs.String()) {
		if strings.HasPrefix(line, "level=") && strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// apps returns the apps' processes, the children of the adapters, by their
// environments.
func (r *router) apps() map[string]int {
	r.t.Helper()
	apps := make(map[string]int)
	for _, pid := range descendants(r.t, r.cmd.Process.Pid) {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		_, rest, found := strings.Cut(string(env), "\x00AWS_LAMBDA_LOG_STREAM_NAME=")
		if err == nil && found && exe != adapterBin && exe != caddyBin {
			environment, _, _ := strings.Cut(rest, "\x00")
			apps[environment] = pid
		}
	}
	return apps
}

func killApps(t *testing.T, r *router) {
	t.Helper()
	for _, pid := range r.apps() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
}

// What an app does wrong has a defined outcome for the client and one line in
// the adapter's log for each time that the app saw the request. The app is
// healthy, so its environment is used again.
func TestAppFaults(t *testing.T) {
	// The answer had begun at the app. The client gets an aborted connection,
	// or 502 if it was over before its head had come to the router.
	const cut = 0
	r := startFaulty(t)
	_, app := r.get("/")
	for _, tc := range []struct {
		path   string
		status int
		says   string
	}{
		{"/nothing", 502, "closed the connection without an answer"},
		{"/reset", 502, "connection reset"},
		{"/half-head", 502, "missing colon"},
		{"/garbage", 502, "malformed HTTP"},
		{"/bad-status", 502, "malformed HTTP status code"},
		{"/two-lengths", 502, "multiple Content-Length"},
		{"/length-coding", 502, "both Content-Length and Transfer-Encoding"},
		{"/nul", 502, "malformed MIME header"},
		{"/bare-lf", 502, "without a carriage return"},
		{"/huge-head", 502, "a head of more than 1 MB"},
		{"/cut-length", cut, "unexpected EOF"},
		{"/cut-chunked", cut, "unexpected EOF"},
		{"/no-last-chunk", cut, "unexpected EOF"},
		{"/negative-chunk", cut, "invalid byte in chunk length"},
		{"/huge-chunk", cut, "chunk length too large"},
		{"/named-field", 200, ""},
		{"/early", 200, ""},
		{"/early-too-large", 413, ""},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(method+" "+tc.path, func(t *testing.T) {
				var body io.Reader
				if method == http.MethodPost {
					body = strings.NewReader(strings.Repeat("x", 100_000))
				}
				line := "method=" + method + " path=" + tc.path + " "
				resp, got, err := r.do(method, tc.path, body)
				if tc.status == cut {
					if err == nil && resp.StatusCode != 502 {
						t.Errorf("a cut answer looked complete: %d %q", resp.StatusCode, got)
					}
				} else if err != nil || resp.StatusCode != tc.status {
					t.Fatalf("got %v, %v, want status %d", resp, err, tc.status)
				}
				if tc.path == "/named-field" && (resp.Header.Get("X-Foo") != "" || resp.Header.Get("X-Bar") != "2") {
					t.Errorf("header %v", resp.Header)
				}
				// A GET may be tried three times, a POST that the app saw only once.
				least, most := 1, 1
				switch {
				case tc.says == "":
					least, most = 0, 0
				case method == http.MethodGet && tc.status == 502:
					least, most = 3, 3
				case method == http.MethodGet:
					most = 3
				}
				r.await("the log", func() bool { return r.said(line) >= least })
				if n := r.said(line); n > most {
					t.Errorf("%d lines, want at most %d", n, most)
				}
				if tc.says != "" && r.said(tc.says) == 0 {
					t.Errorf("no line says %q:\n%s", tc.says, r.logs.tail(20))
				}
			})
		}
	}
	if _, after := r.get("/"); after != app {
		t.Errorf("the app's process was %s and is %s", app, after)
	}
	if n := len(r.results()); n > 0 && r.results()["app_unavailable"] > 0 {
		t.Errorf("results %v", r.results())
	}
}

// A client that is still sending when the app fails is told what happened. It
// has not left.
func TestAppThatFailsDuringAnUpload(t *testing.T) {
	for _, proxy := range []string{"", "flush_interval 100ms"} { // ours, and Caddy's
		t.Run("with "+proxy, func(t *testing.T) {
			r := startCaddy(t, dispatch(proxy, "max_instances 1", local(appInRole(t, "faulty")...)))
			for _, path := range []string{"/early-garbage", "/early-end"} {
				conn := r.dial()
				fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n%s", path, strings.Repeat("x", 100_000))
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				if resp.StatusCode != http.StatusBadGateway {
					t.Errorf("%s: status %d", path, resp.StatusCode)
				}
				_ = resp.Body.Close()
				_ = conn.Close()
			}
		})
	}
}

// What ends the app ends its instance: requests without an answer fail, the
// begun are aborted, and the environment is used again with an app that was
// started anew and is ready.
func TestAppsThatEndAndAreReplaced(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		lines      []string
		fault      func(t *testing.T, r *router)
	}{
		{name: "crash", says: "app exited with status 3", fault: func(_ *testing.T, r *router) { _, _, _ = r.do(http.MethodPost, "/crash", nil) }},
		{name: "kill -9", says: "app was ended by signal: killed", fault: func(t *testing.T, r *router) { killApps(t, r) }},
		{name: "stop", says: "app hangs: its process is stopped", fault: func(t *testing.T, r *router) {
			for _, pid := range r.apps() {
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Error(err)
				}
			}
		}},
		{
			name: "hang", says: "app hangs: requests wait", lines: []string{"env LAMBDA_DISPATCH_APP_HANG_TIMEOUT 1s"},
			fault: func(_ *testing.T, r *router) { _, _, _ = r.do(http.MethodPost, "/hang", nil) },
		},
		{name: "refuse", says: "app stopped answering", fault: func(t *testing.T, r *router) {
			if status, _ := r.get("/refuse"); status != 200 {
				t.Errorf("status %d", status)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startFaulty(t, tc.lines...)
			_, before := r.get("/")
			waiting := make(chan int, 1)
			go func() {
				resp, _, err := r.do(http.MethodPost, "/wait", nil)
				if err != nil {
					t.Error(err)
					waiting <- 0
					return
				}
				waiting <- resp.StatusCode
			}()
			began, err := r.client.Get("http://localhost/began")
			if err != nil {
				t.Fatal(err)
			}
			defer began.Body.Close()
			r.await("both requests", func() bool { return r.pool().InFlight == 2 })

			tc.fault(t, r)
			// A GET at this very moment waits for an app that can answer it.
			status, after := r.get("/")
			if status != 200 || after == before {
				t.Errorf("status %d, the app's process was %s and is %s", status, before, after)
			}
			if status := <-waiting; status != 502 {
				t.Errorf("the POST that waited got status %d", status)
			}
			if body, err := io.ReadAll(began.Body); err == nil {
				t.Errorf("a cut answer looked complete: %q", body)
			}
			r.await("the log", func() bool { return r.said(`msg="app ended" error="`+tc.says) == 1 })
			// The router may have let the instance go before the adapter was sure.
			r.await("the instance's end", func() bool { return r.results()["app_unavailable"]+r.results()["drained"] == 1 })
			if n := r.said("app ended"); n != 1 {
				t.Errorf("%d lines about the app's end", n)
			}
		})
	}
}

// kill -9 of apps under load of GETs fails none of them.
func TestKilledAppsUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 6 s")
	}
	r := startCaddy(t, dispatch("max_concurrent 10", "min_instances 4", "max_instances 6", local("command "+demoBin)))
	r.await("the instances", func() bool { return r.pool().in("ready") >= 4 })
	stop := r.send(load{clients: 16, path: "/delay?delay=20"})
	kills := 0
	for range 8 {
		// The app of an idle environment would be missed by nobody.
		var victim instanceState
		var pid int
		r.await("an app with an instance", func() bool {
			apps := r.apps()
			for _, i := range r.pool().Instances {
				if i.State == "ready" && apps[i.Environment] != 0 {
					victim, pid = i, apps[i.Environment]
				}
			}
			return pid != 0
		})
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			kills++
			r.await("the instance to end", func() bool {
				return !slices.ContainsFunc(r.pool().Instances, func(i instanceState) bool { return i.ID == victim.ID })
			})
		}
		r.await("two instances", func() bool { return r.pool().in("ready") >= 2 })
	}
	if kills < 4 {
		t.Errorf("only %d apps were killed", kills)
	}
	t.Logf("%d GETs, %d kills, results %v", stop(), kills, r.results())
}

// Node closes a connection that was idle for its keepAliveTimeout. A request
// that is on its way then must not fail: where Node says how long it waits,
// the adapter is earlier, and otherwise a GET is sent again.
func TestNodeKeepAliveRace(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	dir := os.Getenv("LAMBDA_DISPATCH_TEST_EXPRESS_DIR")
	if dir == "" {
		t.Skip("NOT TESTED: LAMBDA_DISPATCH_TEST_EXPRESS_DIR is not set, see .ci/run")
	}
	for _, tc := range []struct {
		name      string
		keepAlive int // ms
		hint      bool
		methods   []string
	}{
		{"said", 1000, true, []string{http.MethodGet, http.MethodPost}},
		{"said to be short", 40, true, []string{http.MethodGet, http.MethodPost}},
		{"not said", 40, false, []string{http.MethodGet}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			script := filepath.Join(t.TempDir(), "server.cjs")
			hide := ""
			if !tc.hint {
				hide = `res.set("Connection", "keep-alive");`
			}
			if err := os.WriteFile(script, fmt.Appendf(nil, `
const express = require(%q);
const app = express();
app.all("/", (req, res) => { %s req.resume(); req.on("end", () => res.send("ok")); });
const server = app.listen(Number(process.env.PORT), "127.0.0.1");
server.keepAliveTimeout = %d;
server.keepAliveTimeoutBuffer = 0;
`, filepath.Join(dir, "node_modules", "express"), hide, tc.keepAlive), 0o600); err != nil {
				t.Fatal(err)
			}
			r := startCaddy(t, dispatch("max_concurrent 50", "min_instances 1", "max_instances 1", local("command node "+script)))
			var served atomic.Int64
			var clients sync.WaitGroup
			end := time.Now().Add(3 * time.Second)
			for n := range 20 {
				clients.Go(func() {
					for time.Now().Before(end) {
						method := tc.methods[n%len(tc.methods)]
						var body io.Reader
						if method == http.MethodPost {
							body = strings.NewReader("a body")
						}
						resp, _, err := r.do(method, "/", body)
						if err != nil || resp.StatusCode != 200 {
							t.Errorf("%s: %v, %v", method, resp, err)
							return
						}
						served.Add(1)
						// The load, at the pace that meets the timeout.
						time.Sleep(time.Duration(tc.keepAlive-10+rand.N(20)) * time.Millisecond)
					}
				})
			}
			clients.Wait()
			t.Logf("%d requests at pauses of %s ms", served.Load(), strconv.Itoa(tc.keepAlive))
		})
	}
}
