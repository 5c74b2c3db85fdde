package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// answer is what became of one request.
type answer struct {
	status int
	body   string
	took   time.Duration
	err    error
}

// burst sends n requests at once and returns all answers.
func (r *router) burst(n int, path string) []answer {
	answers := make([]answer, n)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			begin := time.Now()
			resp, body, err := r.do(http.MethodGet, path, nil)
			answers[i] = answer{body: body, took: time.Since(begin), err: err}
			if err == nil {
				answers[i].status = resp.StatusCode
			}
		})
	}
	wg.Wait()
	return answers
}

// checkAll fails the test unless every answer has status 200.
func checkAll(t *testing.T, answers []answer) (slowest time.Duration) {
	t.Helper()
	for i, a := range answers {
		if a.err != nil || a.status != http.StatusOK {
			t.Fatalf("request %d of %d: status %d, error %v, body %q", i, len(answers), a.status, a.err, a.body)
		}
		slowest = max(slowest, a.took)
	}
	return slowest
}

func TestRequestIsServedByAnEnvironment(t *testing.T) {
	for _, tls := range []string{"auto", "off"} {
		t.Run("tls "+tls, func(t *testing.T) {
			r := startCaddy(t, dispatch("callback {\n tls "+tls+"\n}", local("command "+demoBin)))
			if status, body := r.get("/ping"); status != 200 || body != "pong" {
				t.Fatalf("status %d, body %q", status, body)
			}
			_, body := r.get("/env")
			var env struct {
				Environment string `json:"environment"`
			}
			if err := json.Unmarshal([]byte(body), &env); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			p := r.pool()
			if len(p.Instances) != 1 || p.Instances[0].Environment != env.Environment {
				t.Errorf("the app runs in %q, the router sees %+v", env.Environment, p.Instances)
			}
		})
	}
}

// A burst on a cold pool is served by the first environments that come up, and
// no request waits for an environment of its own.
func TestColdPoolDrainsOntoTheFirstEnvironments(t *testing.T) {
	const requests = 200
	r := startCaddy(t, dispatch("max_concurrent 10", local("command "+demoBin, "cold_start 2s")))
	answers := r.burst(requests, "/delay?delay=100")
	slowest := checkAll(t, answers)
	started, _ := r.invocations()
	t.Logf("slowest %v, %d environments", slowest, started)
	// What the scaler wants at most: all requests at the target of 5 each.
	if started > requests/5 {
		t.Errorf("%d environments were started, the scaler wants at most %d", started, requests/5)
	}
}

// With one warm instance, requests wait for its slots and not for cold starts.
func TestWarmInstanceHidesColdStarts(t *testing.T) {
	const coldStart = 8 * time.Second
	r := startCaddy(t, dispatch("max_concurrent 10", "min_instances 1",
		local("command "+demoBin, fmt.Sprintf("cold_start %v", coldStart))))
	r.await("the warm instance", func() bool { return r.pool().in("ready") == 1 })
	slowest := checkAll(t, r.burst(100, "/delay?delay=100"))
	t.Logf("slowest of 100 requests of 100 ms on 10 slots: %v", slowest)
	if slowest > coldStart/2 {
		t.Errorf("slowest request took %v, near the cold start of %v", slowest, coldStart)
	}
}

// When traffic stops, what is running goes back to min_instances, and every
// invocation has ended with a result.
func TestScalesBackAndEveryInvocationEnds(t *testing.T) {
	for _, least := range []int{0, 1} {
		t.Run(fmt.Sprintf("min_instances %d", least), func(t *testing.T) {
			r := startCaddy(t, dispatch(
				fmt.Sprintf("min_instances %d", least), "max_concurrent 2", "idle_timeout 1s",
				local("command "+demoBin)))
			checkAll(t, r.burst(20, "/delay?delay=200"))
			if started, _ := r.invocations(); started < 2 {
				t.Fatalf("only %d environments were started", started)
			}
			r.await("the instances to go", func() bool { return len(r.pool().Instances) == least })
			started, ended := r.invocations()
			if started-ended != least {
				t.Errorf("%d invocations started, %d ended", started, ended)
			}
			for name, v := range r.metrics() {
				if strings.HasPrefix(name, "invocation_results_total") && !strings.Contains(name, `result="drained"`) && v > 0 {
					t.Errorf("unexpected result: %s %v", name, v)
				}
			}
		})
	}
}
