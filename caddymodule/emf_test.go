package caddymodule

import (
	"bytes"
	"flag"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

var update = flag.Bool("update", false, "write the golden files")

// emfFamilies are the families that lines are made of, for a test to fill.
type emfFamilies struct {
	reg      *prometheus.Registry
	waits    *prometheus.HistogramVec
	rejected *prometheus.CounterVec
	results  *prometheus.CounterVec
	starts   *prometheus.CounterVec
	ready    *prometheus.GaugeVec
	bytes    *prometheus.CounterVec
	billed   *prometheus.CounterVec
}

func newEMFFamilies() *emfFamilies {
	counter := func(name string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name},
			append([]string{"pool"}, labels...))
	}
	f := &emfFamilies{
		reg: prometheus.NewRegistry(),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem,
			Name: "queue_wait_seconds", Buckets: []float64{.001, 1, 2}}, []string{"pool"}),
		rejected: counter("rejected_requests_total", "reason"),
		results:  counter("invocation_results_total", "result"),
		starts:   counter("invocations_total"),
		ready: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem,
			Name: "instances"}, []string{"pool", "state"}),
		bytes:  counter("tunnel_bytes_total", "direction", "zone"),
		billed: counter("billed_seconds_total"),
	}
	f.reg.MustRegister(f.waits, f.rejected, f.results, f.starts, f.ready, f.bytes, f.billed)
	return f
}

func (f *emfFamilies) gather() ([]*dto.MetricFamily, error) { return f.reg.Gather() }

func (f *emfFamilies) sample(t *testing.T, name string) poolSample {
	t.Helper()
	families, err := f.gather()
	if err != nil {
		t.Fatal(err)
	}
	return samplesOf(families)[name]
}

// busy makes the pool have done something.
func (f *emfFamilies) busy(name string) {
	f.waits.WithLabelValues(name).Observe(0)
	f.waits.WithLabelValues(name).Observe(0)
	f.waits.WithLabelValues(name).Observe(1.5)
	f.starts.WithLabelValues(name).Add(2)
	f.ready.WithLabelValues(name, "ready").Set(1)
	f.ready.WithLabelValues(name, "starting").Set(1)
	f.rejected.WithLabelValues(name, "queue_full").Add(3)
	f.rejected.WithLabelValues(name, "client_gone").Add(5)
	f.results.WithLabelValues(name, "drained").Add(7)
	f.results.WithLabelValues(name, "throttled").Add(1)
	f.results.WithLabelValues(name, "app_unavailable").Add(1)
	f.bytes.WithLabelValues(name, "in", "cross").Add(100)
	f.bytes.WithLabelValues(name, "out", "cross").Add(11)
	f.billed.WithLabelValues(name).Add(12.5)
}

// The line is as the specification wants it.
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
func TestEMFLine(t *testing.T) {
	f := newEMFFamilies()
	f.busy("shop:live")
	before := f.sample(t, "shop:live")
	f.busy("shop:live")
	conf := &CloudWatchMetrics{Namespace: "Shop", Dimensions: map[string]string{"stage": "prod", "cell": "a"}}
	got, err := conf.emfLine("shop:live", time.UnixMilli(1785000000123), f.sample(t, "shop:live"), before)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "emf.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// However many requests there were, a line has at most 100 values, and they are
// distributed as the waits were.
func TestEMFQueueWaits(t *testing.T) {
	f := newEMFFamilies()
	w := f.waits.WithLabelValues("a")
	for range 9000 {
		w.Observe(0)
	}
	before := f.sample(t, "a")
	for range 9000 {
		w.Observe(0)
	}
	for range 900 {
		w.Observe(1.5)
	}
	for range 100 {
		w.Observe(7)
	}
	got := waitsSince(f.sample(t, "a"), before)
	if len(got) != 100 {
		t.Fatalf("%d values", len(got))
	}
	for i, v := range got {
		switch {
		case i < 90 && v > .001, i >= 90 && i < 99 && (v < 1 || v > 2), i == 99 && v != 2:
			t.Errorf("value %d is %v", i, v)
		}
	}
	if got := waitsSince(before, before); len(got) != 0 {
		t.Errorf("%v without a request", got)
	}
	if got := waitsSince(before, f.sample(t, "a")); len(got) != 100 {
		t.Errorf("%d values of a histogram that has begun again", len(got))
	}
}

func TestACounterThatBeginsAgain(t *testing.T) {
	if got := since(3, 10); got != 3 {
		t.Errorf("got %v", got)
	}
	if got := since(10, 3); math.Abs(got-7) > 0 {
		t.Errorf("got %v", got)
	}
}

// Every metric is made of a family that there is.
func TestEMFMetricsAreMadeOfWhatThereIs(t *testing.T) {
	s := testSharedPool(t)
	for _, reason := range []string{"x"} {
		s.metrics.count(rejectedRequests, reason)
		s.metrics.count(invocationResults, reason)
	}
	families, err := gatherMetrics()
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	for _, f := range families {
		there[f.GetName()] = true
	}
	for _, m := range emfMetrics {
		for _, of := range m.of {
			if name := metricsNamespace + "_" + metricsSubsystem + "_" + of.family; !there[name] {
				t.Errorf("%s is made of %s, which is not there", m.name, name)
			}
		}
	}
}
