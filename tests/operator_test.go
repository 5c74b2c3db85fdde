package tests

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestMetricsSurviveAReload(t *testing.T) {
	site := dispatch(local("command " + demoBin))
	r := startCaddy(t, site)
	checkAll(t, r.burst(10, "/ping"))
	before := r.metrics()
	for _, name := range []string{
		`queue_depth{pool="app"}`, `queue_oldest_wait_seconds{pool="app"}`, `queue_wait_seconds_count{pool="app"}`,
		`requests_in_flight{pool="app"}`, `free_slots{pool="app"}`, `desired_instances{pool="app"}`,
		`instances{pool="app",state="starting"}`, `instances{pool="app",state="ready"}`, `instances{pool="app",state="draining"}`,
		`invocations_total{pool="app"}`, `instance_start_seconds_count{pool="app"}`, `retries_total{pool="app"}`,
	} {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if n := before[`queue_wait_seconds_count{pool="app"}`]; n != 10 {
		t.Errorf("%v requests counted, want 10", n)
	}
	if status, body := r.load(site + "\nheader X-New 1"); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	after := r.metrics()
	for name, v := range before {
		if strings.Contains(name, "_total") || strings.Contains(name, "_count") {
			if after[name] < v {
				t.Errorf("%s fell from %v to %v", name, v, after[name])
			}
		}
	}
}

func TestAccessLogAndPlaceholders(t *testing.T) {
	r := startCaddy(t, dispatch(local("command "+demoBin, "cold_start 300ms"))+`
	header >X-Pool {http.lambda_dispatch.pool}
	header >X-Instance {http.lambda_dispatch.instance}
	header >X-Wait {http.lambda_dispatch.queue_wait_ms}
	header >X-Attempts {http.lambda_dispatch.attempts}`)
	resp, _, err := r.do(http.MethodGet, "/ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	instance := r.pool().Instances[0].ID
	if got := resp.Header.Get("X-Pool"); got != "app" {
		t.Errorf("pool placeholder is %q", got)
	}
	if got := resp.Header.Get("X-Instance"); got != instance {
		t.Errorf("instance placeholder is %q, the instance %q", got, instance)
	}
	var wait float64
	if err := json.Unmarshal([]byte(resp.Header.Get("X-Wait")), &wait); err != nil || wait < 300 {
		t.Errorf("wait placeholder is %q for a cold start of 300 ms", resp.Header.Get("X-Wait"))
	}
	if got := resp.Header.Get("X-Attempts"); got != "1" {
		t.Errorf("attempts placeholder is %q", got)
	}
	r.await("the access log", func() bool { return len(r.logs.lines("handled request")) == 1 })
	fields, _ := r.logs.lines("handled request")[0]["lambda_dispatch"].(map[string]any)
	if fields["pool"] != "app" || fields["instance"] != instance || fields["attempts"] != 1.0 || fields["queue_wait"].(float64) < 0.3 {
		t.Errorf("access log has %v", fields)
	}
}

// Requests that are refused are in the access log with how long they waited.
func TestAccessLogOfARefusedRequest(t *testing.T) {
	r := startCaddy(t, dispatch("queue_timeout 300ms", local("command "+demoBin, "cold_start 3s")))
	if status, _ := r.get("/ping"); status != 504 {
		t.Errorf("status %d", status)
	}
	r.await("the access log", func() bool { return len(r.logs.lines("handled request")) == 1 })
	fields, _ := r.logs.lines("handled request")[0]["lambda_dispatch"].(map[string]any)
	if wait, _ := fields["queue_wait"].(float64); fields["pool"] != "app" || fields["attempts"] != 0.0 || wait < 0.3 {
		t.Errorf("access log has %v", fields)
	}
}

// One line for each change of an instance's state.
func TestInstanceLog(t *testing.T) {
	r := startCaddy(t, dispatch("idle_timeout 300ms", local("command "+demoBin)))
	if status, _ := r.get("/ping"); status != 200 {
		t.Fatal(status)
	}
	r.await("the instance to go", func() bool { return len(r.logs.lines("instance closed")) == 1 })
	var id any
	for _, msg := range []string{"instance starting", "instance ready", "instance draining", "instance closed"} {
		lines := r.logs.lines(msg)
		if len(lines) != 1 {
			t.Fatalf("%d lines say %q", len(lines), msg)
		}
		if id == nil {
			id = lines[0]["instance"]
		}
		if lines[0]["instance"] != id || lines[0]["pool"] != "app" {
			t.Errorf("%q is about %v", msg, lines[0])
		}
	}
	closed := r.logs.lines("instance closed")[0]
	if closed["result"] != "drained" || closed["requests"] != 1.0 {
		t.Errorf("closing line is %v", closed)
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	r := startCaddy(t, dispatch(local("command "+demoBin)))
	checkAll(t, r.burst(3, "/ping"))
	r.stop()
	if strings.Contains(r.logs.String(), "secret") {
		t.Errorf("the log speaks of secrets:\n%s", r.logs)
	}
}

func TestAdminAPIRefusesOtherMethods(t *testing.T) {
	r := startCaddy(t, dispatch(local("command "+demoBin)))
	resp, err := r.admin.Post("http://localhost/lambda_dispatch/pools", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("status %d", resp.StatusCode)
	}
}
