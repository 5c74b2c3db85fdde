package tests

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

const (
	traceRoot  = "1-67891233-abcdef012345678912345678"
	traceXRay  = "Self=1-67891234-12456789abcdef012345678;Root=" + traceRoot + ";Parent=53995c3f42cd8ad8;Sampled=1"
	traceW3C   = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceState = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
	traceUp    = "00-" + traceW3C + "-00f067aa0ba902b7-01"
)

// A trace goes on in the app, and can be found from the access log.
func TestTraceHeaders(t *testing.T) {
	for _, variant := range []string{"", "verbose_logs"} { // the two proxies that there are
		r := startCaddy(t, dispatch(local("command "+demoBin), variant)+"\nheader >X-Trace {http.lambda_dispatch.trace_id}")
		for i, tc := range []struct {
			sent map[string]string
			want string
		}{
			{map[string]string{"x-amzn-trace-id": traceXRay, "traceparent": traceUp, "tracestate": traceState}, traceRoot},
			{map[string]string{"traceparent": traceUp, "tracestate": traceState}, traceW3C},
			{nil, ""},
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/headers", nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range tc.sent {
				req.Header.Set(name, value)
			}
			resp, err := r.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var seen map[string]string
			err = json.NewDecoder(resp.Body).Decode(&seen)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"x-amzn-trace-id", "traceparent", "tracestate"} {
				if seen[name] != tc.sent[name] {
					t.Errorf("the app got %s: %q, want %q", name, seen[name], tc.sent[name])
				}
			}
			if got := resp.Header.Get("X-Trace"); got != tc.want {
				t.Errorf("placeholder is %q, want %q", got, tc.want)
			}
			r.await("the access log", func() bool { return len(r.logs.lines("handled request")) == i+1 })
			fields, _ := r.logs.lines("handled request")[i]["lambda_dispatch"].(map[string]any)
			if got, there := fields["trace_id"]; there != (tc.want != "") || there && got != tc.want {
				t.Errorf("access log has %v, want %q", got, tc.want)
			}
		}
	}
}

// Of a request that fails, all lines about it have the trace, in the router's
// log and in the adapter's, in JSON.
func TestTraceOfFailedRequests(t *testing.T) {
	app := append(appInRole(t, "faulty"), "env LAMBDA_DISPATCH_LOG_FORMAT json", "cold_start 1s")
	site := "handle /full/* {\n" + strings.Replace(dispatch("max_instances 1", "max_concurrent 1", "queue_size 1", local(app...)), "dispatch app", "dispatch full", 1) +
		"\n}\nhandle {\n" + dispatch("max_instances 1", local(app...)) + "\n}"
	r := startCaddy(t, site)
	for _, tc := range []struct {
		name, field, value, want string
	}{
		{"X-Ray", "X-Amzn-Trace-Id", traceXRay, traceRoot},
		{"W3C", "Traceparent", traceUp, traceW3C},
		{"none", "X-Other", "1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before, said := len(r.logs.lines("handled request")), len(r.adapterLines("app did not answer"))
			if status := r.post(t, "/nothing", tc.field, tc.value); status != http.StatusBadGateway {
				t.Fatalf("status %d", status)
			}
			r.await("the access log", func() bool { return len(r.logs.lines("handled request")) > before })
			checkTrace(t, r.logs.lines("handled request")[before]["lambda_dispatch"], tc.want)
			r.await("the adapter's line", func() bool { return len(r.adapterLines("app did not answer")) > said })
			checkTrace(t, any(r.adapterLines("app did not answer")[said]), tc.want)
		})
	}

	// One that finds the queue full has not even met an instance.
	waits := make(chan int, 1)
	go func() { waits <- r.post(t, "/full/", "X-Other", "1") }()
	r.await("a full queue", func() bool { return r.pools()["full"].Queued == 1 })
	before := len(r.logs.lines("handled request"))
	if status := r.post(t, "/full/", "Traceparent", traceUp); status != http.StatusServiceUnavailable {
		t.Fatalf("status %d", status)
	}
	r.await("the access log", func() bool { return len(r.logs.lines("handled request")) > before })
	line := r.logs.lines("handled request")[before]["lambda_dispatch"]
	checkTrace(t, line, traceW3C)
	if fields, _ := line.(map[string]any); fields["error"] == nil || fields["pool"] != "full" {
		t.Errorf("access log has %v", line)
	}
	if status := <-waits; status != http.StatusOK {
		t.Errorf("the one that waited: status %d", status)
	}
}

// post sends a request that is executed once at most, with a field.
func (r *router) post(t *testing.T, path, field, value string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost"+path, strings.NewReader("something to do"))
	if err != nil {
		t.Error(err)
		return 0
	}
	req.Header.Set(field, value)
	resp, err := r.client.Do(req)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// adapterLines returns the adapter's lines with the message, if they are JSON.
func (r *router) adapterLines(message string) []map[string]any {
	var found []map[string]any
	for text := range strings.Lines(r.logs.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["message"] == message {
			found = append(found, line)
		}
	}
	return found
}

func checkTrace(t *testing.T, line any, want string) {
	t.Helper()
	fields, _ := line.(map[string]any)
	if got, there := fields["trace_id"]; there != (want != "") || there && got != want {
		t.Errorf("line has %v, want %q: %v", got, want, fields)
	}
}
