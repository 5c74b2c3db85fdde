package tests

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// result returns the only outcome of the invocations so far.
func (r *router) results() map[string]int {
	found := make(map[string]int)
	for name, v := range r.metrics() {
		if rest, ok := strings.CutPrefix(name, `invocation_results_total{pool="app",result="`); ok {
			found[strings.TrimSuffix(rest, `"}`)] = int(v)
		}
	}
	return found
}

// An app that cannot be started or does not answer is said in one line, in the
// invocation's result, and its clients are not kept waiting.
func TestAppThatCannotBeUsed(t *testing.T) {
	for _, tc := range []struct{ name, command, says string }{
		{"does not exist", "/no/such/app", "/no/such/app"},
		{"exits at once", "sh -c \"exit 3\"", "app exited with status 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startCaddy(t, dispatch("queue_timeout 50s", local("command "+tc.command)))
			begin := time.Now()
			resp, _, err := r.do(http.MethodGet, "/ping", nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != 502 && resp.StatusCode != 503 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if d := time.Since(begin); d > 40*time.Second {
				t.Errorf("the client waited %v", d)
			}
			r.await("the cause in the log", func() bool {
				for _, e := range r.logs.lines("instance closed") {
					if text, _ := e["error"].(string); strings.Contains(text, tc.says) {
						return true
					}
				}
				return false
			})
		})
	}
}

// Nothing listens on the app's port: the result says so.
func TestAppThatDoesNotListen(t *testing.T) {
	r := startCaddy(t, dispatch("queue_timeout 55s", local("command sleep 1000", "env LAMBDA_DISPATCH_READINESS_TIMEOUT 1s")))
	resp, _, err := r.do(http.MethodGet, "/ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 502 && resp.StatusCode != 503 {
		t.Errorf("status %d", resp.StatusCode)
	}
	r.await("the cause in the log", func() bool {
		for _, e := range r.logs.lines("instance closed") {
			if text, _ := e["error"].(string); strings.Contains(text, "127.0.0.1:") {
				return true
			}
		}
		return false
	})
}

// The advertised address leads nowhere: the result carries address and cause.
func TestRouterThatCannotBeReached(t *testing.T) {
	r := startCaddy(t, dispatch("queue_timeout 55s", "callback {\n advertise 127.0.0.1:1\n}", local("command "+demoBin)))
	resp, _, err := r.do(http.MethodGet, "/ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 {
		t.Errorf("status %d", resp.StatusCode)
	}
	if n := r.results()["router_unreachable"]; n == 0 {
		t.Errorf("results are %v", r.results())
	}
	closed := r.logs.lines("instance closed")
	if text, _ := closed[0]["error"].(string); !strings.Contains(text, "127.0.0.1:1") {
		t.Errorf("error is %q", text)
	}
}

func TestFullQueueIsAnsweredWithRetryAfter(t *testing.T) {
	r := startCaddy(t, dispatch("queue_size 1", "max_instances 1", "max_concurrent 1", local("command "+demoBin, "cold_start 2s")))
	first := make(chan []answer, 1)
	go func() { first <- r.burst(1, "/ping") }()
	r.await("the first request to wait", func() bool { return r.pool().Queued == 1 })
	resp, _, err := r.do(http.MethodGet, "/ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	checkAll(t, <-first)
}

// Without a queue a refused request is the only sign of demand.
func TestWithoutAQueueTheFunctionIsStartedAllTheSame(t *testing.T) {
	r := startCaddy(t, dispatch("queue_size off", local("command "+demoBin)))
	if status, _ := r.get("/ping"); status != 503 {
		t.Errorf("status %d without an instance and without a queue", status)
	}
	r.await("an instance", func() bool { return r.pool().in("ready") == 1 })
	if status, _ := r.get("/ping"); status != 200 {
		t.Errorf("status %d", status)
	}
}

// Replacements are throttled while the instances that they replace hold the
// concurrency. That delays requests for a moment and fails none.
func TestReplacementAtTheConcurrencyLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two lifetimes of 10 s")
	}
	r := startCaddy(t, dispatch("max_instances 2", "max_concurrent 5", "min_instances 2",
		local("command "+demoBin, "timeout 10s", "max_environments 2")))
	r.await("two instances", func() bool { return r.pool().in("ready") == 2 })
	stop := r.send(load{clients: 5, path: "/delay?delay=50"})
	posts := r.send(load{clients: 5, method: http.MethodPost, path: "/echo", content: "a small body"})
	r.await("four replacements", func() bool { return r.results()["drained"] >= 4 })
	t.Logf("%d GETs, %d POSTs, results %v", stop(), posts(), r.results())
	if n := r.results()["deadline"]; n > 0 {
		t.Errorf("%d instances were drained by the adapter and not by the router", n)
	}
}

func TestQueueTimeout(t *testing.T) {
	r := startCaddy(t, dispatch("queue_timeout 300ms", local("command "+demoBin, "cold_start 5s")))
	if status, _ := r.get("/ping"); status != 504 {
		t.Errorf("status %d", status)
	}
}
