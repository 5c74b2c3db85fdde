package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// perRequest is a lambda_dispatch directive whose function each request chooses.
func perRequest(function, allow string, lines ...string) string {
	return "lambda_dispatch {\nfunction " + function + "\nallow_functions " + allow + "\n" + strings.Join(lines, "\n") + "\n}"
}

// ask sends a GET request with the fields given as pairs; Host is one of them.
func (r *router) ask(path string, fields ...string) (int, string) {
	r.t.Helper()
	status, _, body := r.askAll(path, fields...)
	return status, body
}

func (r *router) askAll(path string, fields ...string) (int, http.Header, string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for pair := range slices.Chunk(fields, 2) {
		if pair[0] == "Host" {
			req.Host = pair[1]
			continue
		}
		req.Header.Add(pair[0], pair[1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Errorf("asking with %q: %v", fields, err)
		return 0, nil, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Error(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// Hosts, and headers, have functions with environments of their own.
func TestFunctionChosenPerRequest(t *testing.T) {
	app := local("command " + demoBin)
	for _, tc := range []struct{ name, site, field string }{
		{"by host", perRequest("preview-{labels.1}", "preview-*", app), "Host"},
		{"by header", perRequest("preview-{header.X-Branch}", "preview-*", app), "X-Branch"},
		{"by a map", "map {host} {target} {\n\ta.localhost preview-a\n\tb.localhost preview-b\n\tdefault other\n}\n" + perRequest("{target}", "preview-*", app), "Host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startSites(t, tc.site+"\nheader >X-Pool {http.lambda_dispatch.pool}")
			value := func(branch string) string {
				if tc.field == "Host" {
					return branch + ".localhost"
				}
				return branch
			}
			for _, branch := range []string{"a", "b", "a"} {
				status, header, body := r.askAll("/env", tc.field, value(branch))
				var env struct{ Function string }
				if err := json.Unmarshal([]byte(body), &env); err != nil {
					t.Fatalf("status %d, %v", status, err)
				}
				want := "preview-" + branch
				if env.Function != want || header.Get("X-Pool") != want {
					t.Errorf("%s: function %q, pool %q; want %s", branch, env.Function, header.Get("X-Pool"), want)
				}
			}
			pools := r.pools()
			a, b := pools["preview-a"], pools["preview-b"]
			if len(pools) != 2 || len(a.Instances) != 1 || len(b.Instances) != 1 || a.Instances[0].Environment == b.Instances[0].Environment {
				t.Errorf("pools are %+v", pools)
			}
			if !a.PerRequest {
				t.Error("the admin API does not say that requests chose it")
			}
			r.await("the access log", func() bool { return len(r.logs.lines("handled request")) == 3 })
			fields, _ := r.logs.lines("handled request")[1]["lambda_dispatch"].(map[string]any)
			if fields["pool"] != "preview-b" {
				t.Errorf("access log has %v", fields)
			}
		})
	}
}

// startSites is startCaddy for a site that answers for every host.
func startSites(t *testing.T, site string) *router {
	t.Helper()
	return startCaddy(t, `{
	admin unix/%DIR%/admin.sock
	auto_https off
	grace_period 20s
	log {
		format json
		level DEBUG
	}
}
http:// {
	bind unix/%DIR%/site.sock
	log
`+site+"\n}\n")
}

// missingFunctions is a Lambda endpoint that says that every function is missing, and
// counts.
type missingFunctions struct {
	*httptest.Server
	calls atomic.Int64
	mu    sync.Mutex
	names map[string]int
}

func newMissingFunctions(t *testing.T) *missingFunctions {
	t.Helper()
	a := &missingFunctions{names: make(map[string]int)}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		a.calls.Add(1)
		a.mu.Lock()
		a.names[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/2015-03-31/functions/"), "/invocations")]++
		a.mu.Unlock()
		w.Header().Set("X-Amzn-Errortype", "ResourceNotFoundException")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"Message":"Function not found"}`)
	}))
	t.Cleanup(a.Close)
	return a
}

// invoker is the body of an "invoker aws" block for the endpoint.
func (a *missingFunctions) invoker(t *testing.T) string {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	return "callback {\nlisten 127.0.0.1:0\n}\ninvoker aws {\nregion eu-central-1\nendpoint " + a.URL + "\n}"
}

// Whatever a client sends, nothing is invoked but what is allowed, and the
// answers do not tell what there is.
func TestFunctionsThatAreNotAllowed(t *testing.T) {
	api := newMissingFunctions(t)
	r := startCaddy(t, perRequest("{header.X-Function}", "preview-* app:pr-*", api.invoker(t)))
	const arn = "arn:aws:lambda:eu-central-1:999999999999:function:preview-a"
	wantStatus, wantHeader, wantBody := r.askAll("/", "X-Function", "preview-missing")
	if wantStatus != 404 || api.calls.Load() != 1 {
		t.Fatalf("a function that does not exist: status %d after %d invocations", wantStatus, api.calls.Load())
	}
	for _, value := range []string{
		"", "other", "other:prod", "preview-a:prod", "preview-a:$LATEST", "preview-", "Preview-a", "app", "app:prod", "app:pr-1:x",
		arn, arn + ":prod", "999999999999:function:preview-a", "function:preview-a", "999999999999:preview-a", "eu-west-1:preview-a",
		"preview-..", "..", "../preview-a", "preview-a/../other", "preview-a%2f..%2fother", "preview-a%0aother", "preview-a?Qualifier=prod", "preview-a#",
		"preview-a,preview-b", "preview-a preview-b", "preview-\u00e4", "{header.X-Other}", "preview-{env.HOME}", "*", "preview-*",
		"preview-" + strings.Repeat("a", 57), "preview-" + strings.Repeat("a", 4_000),
	} {
		status, header, body := r.askAll("/", "X-Function", value, "X-Other", "preview-b")
		if status != wantStatus || body != wantBody || header.Get("Retry-After") != "" || len(header) != len(wantHeader) {
			t.Errorf("%.40q: status %d, %q, header %v; a missing function has %v", value, status, body, header, wantHeader)
		}
	}
	if status, _ := r.ask("/", "X-Function", "preview-a", "X-Function", "other"); status != 404 {
		t.Errorf("two values: status %d", status)
	}
	if status, _ := r.ask("/"); status != 404 {
		t.Errorf("no value: status %d", status)
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	if len(api.names) != 1 || api.names["preview-missing"] != 1 {
		t.Errorf("these were invoked: %v", api.names)
	}
	for _, e := range r.logs.lines("request chose no function") {
		if function, _ := e["function"].(string); e["level"] != "debug" || len(function) > 200 {
			t.Errorf("log line %.300v", e)
		}
	}
	r.await("the access log", func() bool { return len(r.logs.lines("handled request")) >= 2 })
	fields, _ := r.logs.lines("handled request")[1]["lambda_dispatch"].(map[string]any)
	if fields["error"] != "function is not allowed" {
		t.Errorf("access log has %v", fields)
	}
}

// A flood of names costs a bounded number of invocations, of pools, of series
// and of log lines, and a pool beside it serves on.
func TestFloodOfFunctionNames(t *testing.T) {
	const names, clients, most = 20_000, 20, 50
	api := newMissingFunctions(t)
	total := names
	if testing.Short() {
		total = names / 5
	}
	r := startCaddy(t, "handle /app/* {\nuri strip_prefix /app\n"+dispatch("min_instances 1", local("command "+demoBin))+"\n}\nhandle {\n"+
		perRequest("{header.X-Tenant}", "tenant-*", "max_functions 50", api.invoker(t))+"\n}")
	r.await("the instance of the pool beside it", func() bool { return r.pool().in("ready") == 1 })
	series, memory := len(r.metrics()), residentMemory(t, r.cmd.Process.Pid)
	beside := r.send(load{clients: 2, path: "/app/ping"})
	begin := time.Now()
	var next atomic.Int64
	var statuses [600]atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(total); i = next.Add(1) {
				status, _ := r.ask("/", "X-Tenant", fmt.Sprintf("tenant-%d", i))
				statuses[status].Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	served := beside()
	grown := residentMemory(t, r.cmd.Process.Pid) - memory
	calls := api.calls.Load()
	bound := int64(most + most*took.Minutes() + 1)
	t.Logf("%d names in %v: %d answers 404, %d answers 503, %d invocations (bound %d), %d MB more memory, %d requests served beside it",
		total, took.Round(time.Millisecond), statuses[404].Load(), statuses[503].Load(), calls, bound, grown>>20, served)
	if calls > bound {
		t.Errorf("%d invocations, want at most %d", calls, bound)
	}
	if statuses[404].Load()+statuses[503].Load() != int64(total) {
		t.Error("there were other answers than 404 and 503")
	}
	if statuses[404].Load() < most/2 {
		t.Errorf("only %d names were tried", statuses[404].Load())
	}
	if grown > 100<<20 {
		t.Errorf("%d MB more memory", grown>>20)
	}
	if served == 0 {
		t.Error("the pool beside it served nothing")
	}
	r.await("the pools to go", func() bool { return len(r.pools()) == 1 })
	if n := len(r.metrics()); n > series+10 {
		t.Errorf("%d series, there were %d before", n, series)
	}
	log := r.logs.String() // too much to decode
	said := func(msg string) int { return strings.Count(log, `"msg":"`+msg+`"`) }
	if n := said("requests are refused: too many functions"); n == 0 || n > 1+int(took.Minutes()) {
		t.Errorf("%d warnings", n)
	}
	for _, msg := range []string{"instance starting", "instance closed", "closing pool"} {
		if n := said(msg); int64(n) > bound+1 {
			t.Errorf("%d lines say %q", n, msg)
		}
	}
}

// residentMemory returns how many bytes of memory a process has.
func residentMemory(t *testing.T, pid int) int64 {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Skip("needs Linux")
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}

// A pool that requests have made goes with its environments and its series when
// nobody asks for it any more, and comes back when somebody does.
func TestUnusedPoolsDisappear(t *testing.T) {
	r := startCaddy(t, perRequest("{header.X-Tenant}", "tenant-*", "idle_timeout 1s", local("command "+demoBin, "warm_for 1s")))
	for _, tenant := range []string{"tenant-a", "tenant-b"} {
		if status, _ := r.ask("/ping", "X-Tenant", tenant); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	if n := len(r.pools()); n != 2 {
		t.Fatalf("%d pools", n)
	}
	stop := make(chan struct{})
	kept := make(chan struct{})
	go func() { // keeps one of them in use
		defer close(kept)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				if status, _ := r.ask("/ping", "X-Tenant", "tenant-a"); status != 200 {
					t.Errorf("status %d", status)
				}
			}
		}
	}()
	r.await("the unused pool to go", func() bool { return len(r.pools()) == 1 })
	if len(r.pools()["tenant-a"].Instances) != 1 {
		t.Errorf("pools are %+v", r.pools())
	}
	r.await("its series to go", func() bool {
		for name := range r.metrics() {
			if strings.Contains(name, "tenant-b") {
				return false
			}
		}
		return true
	})
	close(stop)
	<-kept
	r.await("both to go", func() bool { return len(r.pools()) == 0 })
	r.await("their processes to go", func() bool { return countApps(t, r) == 0 })
	if status, _ := r.ask("/ping", "X-Tenant", "tenant-b"); status != 200 {
		t.Errorf("when it comes back: status %d", status)
	}
}

// countApps counts the demo apps that descend from the router.
func countApps(t *testing.T, r *router) (n int) {
	t.Helper()
	for _, pid := range descendants(t, r.cmd.Process.Pid) {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.TrimSuffix(exe, " (deleted)") == demoBin {
			n++
		}
	}
	return n
}

// Reloads keep the pools that requests have made, with instances and running
// requests; one that is no longer allowed drains, and its requests finish.
func TestReloadKeepsRequestedPools(t *testing.T) {
	site := func(allow string, maxConcurrent int) string {
		return perRequest("{header.X-Tenant}", allow, fmt.Sprintf("max_concurrent %d", maxConcurrent), local("command "+demoBin))
	}
	r := startCaddy(t, site("tenant-*", 5))
	for _, tenant := range []string{"tenant-a", "tenant-b"} {
		if status, _ := r.ask("/ping", "X-Tenant", tenant); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	before := r.pools()
	running := make(chan int, 2)
	for _, tenant := range []string{"tenant-a", "tenant-b"} {
		go func() {
			status, _ := r.ask("/delay?delay=3000", "X-Tenant", tenant)
			running <- status
		}()
	}
	r.await("the slow requests", func() bool { p := r.pools(); return p["tenant-a"].InFlight == 1 && p["tenant-b"].InFlight == 1 })
	for i := range 3 {
		if status, body := r.load(site("tenant-*", 6+i)); status != 200 {
			t.Fatalf("status %d, %s", status, body)
		}
	}
	for name, p := range r.pools() {
		if len(p.Instances) != 1 || p.Instances[0].ID != before[name].Instances[0].ID {
			t.Errorf("%s had %+v, now %+v", name, before[name].Instances, p.Instances)
		}
	}
	if status, body := r.load(site("tenant-a", 5)); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	if status, _ := r.ask("/ping", "X-Tenant", "tenant-b"); status != 404 {
		t.Errorf("what is not allowed any more: status %d", status)
	}
	if status, _ := r.ask("/ping", "X-Tenant", "tenant-a"); status != 200 {
		t.Errorf("what is still allowed: status %d", status)
	}
	for range 2 {
		if status := <-running; status != 200 {
			t.Errorf("a request that ran during the reloads: status %d", status)
		}
	}
	r.await("the pool that is not allowed to go", func() bool { _, ok := r.pools()["tenant-b"]; return !ok })
	if p := r.pools()["tenant-a"]; len(p.Instances) != 1 || p.Instances[0].ID != before["tenant-a"].Instances[0].ID {
		t.Errorf("tenant-a had %+v, now %+v", before["tenant-a"].Instances, p.Instances)
	}
}

// With one pool in use and no more allowed, another function is refused.
func TestTooManyFunctions(t *testing.T) {
	r := startCaddy(t, perRequest("{header.X-Tenant}", "tenant-*", "max_functions 1", local("command "+demoBin)))
	if status, _ := r.ask("/ping", "X-Tenant", "tenant-a"); status != 200 {
		t.Fatalf("status %d", status)
	}
	status, header, _ := r.askAll("/ping", "X-Tenant", "tenant-b")
	if status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", status, header.Get("Retry-After"))
	}
	if n := r.metrics()[`rejected_requests_total{pool="",reason="too_many_functions"}`]; n != 1 {
		t.Errorf("%v counted", n)
	}
}
