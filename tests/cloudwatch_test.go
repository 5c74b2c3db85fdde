package tests

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// withGlobal is the Caddyfile of a test with more global options.
func withGlobal(options, site string) string {
	return `{
	admin unix//%DIR%/admin.sock
	auto_https off
	grace_period 20s
	log {
		format json
		level DEBUG
	}
` + options + `
}
http://localhost {
	bind unix//%DIR%/site.sock
	log
` + site + `
}
`
}

// stdoutLines returns the complete lines on the standard output of a Caddy that
// keepStdout has started.
func (r *router) stdoutLines() []string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "stdout"))
	if err != nil {
		r.t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	return lines[:len(lines)-1]
}

// keepStdout is a command in front of Caddy: its standard output is not mixed
// with its log.
var keepStdout = []string{"/bin/sh", "-c", `exec "$@" >stdout`, "sh"}

// emfUnits are the units that are used here, of those that CloudWatch knows.
var emfUnits = []string{"Count", "Seconds", "Bytes"}

// checkEMF checks a line against the rules of the Embedded Metric Format and
// returns its members.
// Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
func checkEMF(t *testing.T, line string) map[string]any {
	t.Helper()
	var root map[string]any
	var meta struct {
		AWS struct {
			Timestamp         int64
			CloudWatchMetrics []struct {
				Namespace  string
				Dimensions [][]string
				Metrics    []struct{ Name, Unit string }
			}
		} `json:"_aws"`
	}
	if err := json.Unmarshal([]byte(line), &root); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	if err := json.Unmarshal([]byte(line), &meta); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	if at := time.UnixMilli(meta.AWS.Timestamp); time.Since(at).Abs() > time.Hour {
		t.Errorf("timestamp %d is %v", meta.AWS.Timestamp, at)
	}
	if len(meta.AWS.CloudWatchMetrics) != 1 {
		t.Fatalf("no directive in %s", line)
	}
	d := meta.AWS.CloudWatchMetrics[0]
	if d.Namespace == "" || len(d.Dimensions) == 0 {
		t.Errorf("no namespace or dimensions in %s", line)
	}
	for _, set := range d.Dimensions {
		if len(set) > 30 {
			t.Errorf("%d dimensions", len(set))
		}
		for _, name := range set {
			if v, ok := root[name].(string); !ok || v == "" || len(v) > 1024 {
				t.Errorf("dimension %s is %v", name, root[name])
			}
		}
	}
	if n := len(d.Metrics); n == 0 || n > 100 {
		t.Errorf("%d metrics", n)
	}
	for _, m := range d.Metrics {
		values, isArray := root[m.Name].([]any)
		if !isArray {
			values = []any{root[m.Name]}
		}
		if len(values) == 0 || len(values) > 100 {
			t.Errorf("%s has %d values", m.Name, len(values))
		}
		for _, v := range values {
			if _, ok := v.(float64); !ok {
				t.Errorf("%s is %v", m.Name, v)
			}
		}
		if !slices.Contains(emfUnits, m.Unit) {
			t.Errorf("%s has the unit %q", m.Name, m.Unit)
		}
	}
	return root
}

// sums adds up a metric over all lines, which must be as the format wants them.
func (r *router) emfSum(metric string) (sum float64) {
	r.t.Helper()
	for _, line := range r.stdoutLines() {
		if v, ok := checkEMF(r.t, line)[metric].(float64); ok {
			sum += v
		}
	}
	return sum
}

// What happens is on standard output in CloudWatch's format, once, whatever is
// loaded meanwhile and until the end.
func TestCloudWatchMetrics(t *testing.T) {
	t.Setenv("TEST_STAGE", "prod")
	const options = `
	lambda_dispatch {
		cloudwatch_metrics {
			namespace Shop
			dimensions stage {env.TEST_STAGE}
			interval 1s
		}
	}`
	site := dispatch(local("command "+demoBin, "cold_start 100ms"))
	r := startCaddyWith(t, keepStdout, withGlobal(options, site))
	checkAll(t, r.burst(10, "/ping"))
	r.await("the requests to be reported", func() bool { return r.emfSum("Requests") >= 10 })
	first := checkEMF(t, r.stdoutLines()[0])
	if first["pool"] != "app" || first["stage"] != "prod" {
		t.Errorf("dimensions are %v", first)
	}
	if got := first["QueueWait"]; got == nil {
		t.Errorf("no queue wait in %v", first)
	}
	if status, body := r.load(withGlobal(options, site+"\nheader X-New 1")); status != http.StatusOK {
		t.Fatalf("status %d, %s", status, body)
	}
	checkAll(t, r.burst(5, "/ping"))
	started, _ := r.invocations()
	r.stop()
	for metric, want := range map[string]float64{"Requests": 15, "Starts": float64(started), "Errors": 0} {
		if got := r.emfSum(metric); got != want {
			t.Errorf("%s: %v in all, want %v", metric, got, want)
		}
	}
	if got := r.emfSum("ColdStarts"); got < 1 || got > float64(started) {
		t.Errorf("%v cold starts of %d starts", got, started)
	}
	if got := r.emfSum("BilledSeconds"); got < .1*float64(started) {
		t.Errorf("%v seconds are billed", got)
	}
	if got := r.emfSum("TunnelBytesUnknownZone"); got == 0 {
		t.Error("no bytes crossed tunnels")
	}
}

// Without the option standard output is Caddy's own.
func TestNoCloudWatchMetricsUnlessAskedFor(t *testing.T) {
	r := startCaddyWith(t, keepStdout, dispatch(local("command "+demoBin)))
	checkAll(t, r.burst(3, "/ping"))
	r.stop()
	if lines := r.stdoutLines(); len(lines) > 0 {
		t.Errorf("standard output has %q", lines)
	}
}
