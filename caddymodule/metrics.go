package caddymodule

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "lambda_dispatch"
)

// The counters and histograms live as long as the process: Caddy makes a new
// registry for every configuration, and they are registered with each.
var (
	queueWait = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name:    "queue_wait_seconds",
		Help:    "How long requests that got a slot waited for it.",
		Buckets: []float64{.0005, .001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"pool"})
	instanceStart = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name:    "instance_start_seconds",
		Help:    "How long instances took from their invocation to being ready.",
		Buckets: []float64{.05, .1, .25, .5, 1, 2, 3, 5, 8, 10, 15, 20, 30, 60},
	}, []string{"pool"})
	rejectedRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "rejected_requests_total",
		Help: "Requests that got no slot, by reason.",
	}, []string{"pool", "reason"})
	retries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "retries_total",
		Help: "Times that a request was tried on another instance.",
	}, []string{"pool"})
	invocations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "invocations_total",
		Help: "Invocations started.",
	}, []string{"pool"})
	invocationResults = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "invocation_results_total",
		Help: "Invocations ended, by the reason that the adapter gave or the kind of failure.",
	}, []string{"pool", "result"})
	rejectedCallbacks = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem,
		Name: "rejected_callbacks_total",
		Help: "Connections to callback listeners that did not become a tunnel, by reason.",
	}, []string{"reason"})
)

// registerMetrics adds the metrics to the registry of a configuration.
func registerMetrics(reg *prometheus.Registry) error {
	for _, c := range []prometheus.Collector{
		queueWait, instanceStart, rejectedRequests, retries,
		invocations, invocationResults, rejectedCallbacks, gauges{},
	} {
		err := reg.Register(c)
		if _, dup := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !dup {
			return err
		}
	}
	return nil
}

// poolSeries are the time series of the pools of one name: of one that closes
// and of the one that has come after it.
type poolSeries struct {
	mu    sync.RWMutex // guards the following
	pools int
	// kept series outlive their pools. Only requests can make so many names
	// that they must not be kept.
	kept bool
}

var (
	allSeriesMu sync.Mutex // guards allSeries
	allSeries   = make(map[string]*poolSeries)
)

// poolMetrics counts what happens in one pool. It implements pool.Metrics.
type poolMetrics struct {
	pool    string
	series  *poolSeries
	waits   prometheus.Observer
	starts  prometheus.Observer
	retries prometheus.Counter
	invoked prometheus.Counter
}

// metricsOf returns the metrics for one more pool of the function. They must be
// forgotten when the pool has closed.
func metricsOf(function string) poolMetrics {
	allSeriesMu.Lock()
	defer allSeriesMu.Unlock()
	s := allSeries[function]
	if s == nil {
		s = new(poolSeries)
		allSeries[function] = s
	}
	s.mu.Lock()
	s.pools++
	s.mu.Unlock()
	return poolMetrics{
		pool:    function,
		series:  s,
		waits:   queueWait.WithLabelValues(function),
		starts:  instanceStart.WithLabelValues(function),
		retries: retries.WithLabelValues(function),
		invoked: invocations.WithLabelValues(function),
	}
}

// keepMetrics keeps the series of a function that a configuration names.
func keepMetrics(function string) {
	allSeriesMu.Lock()
	defer allSeriesMu.Unlock()
	if s := allSeries[function]; s != nil {
		s.mu.Lock()
		s.kept = true
		s.mu.Unlock()
	}
}

// forget deletes the series with the last pool of its name, unless they are
// kept.
func (m poolMetrics) forget() {
	allSeriesMu.Lock()
	defer allSeriesMu.Unlock()
	m.series.mu.Lock()
	defer m.series.mu.Unlock()
	m.series.pools--
	if m.series.pools > 0 || m.series.kept {
		return
	}
	delete(allSeries, m.pool)
	cloudWatchLog.forget(m.pool)
	label := prometheus.Labels{"pool": m.pool}
	for _, vec := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{queueWait, instanceStart, rejectedRequests, retries, invocations, invocationResults} {
		vec.DeletePartialMatch(label)
	}
}

func (m poolMetrics) Waited(d time.Duration)    { m.waits.Observe(d.Seconds()) }
func (m poolMetrics) StartedIn(d time.Duration) { m.starts.Observe(d.Seconds()) }
func (m poolMetrics) Retried()                  { m.retries.Inc() }
func (m poolMetrics) Invoked()                  { m.invoked.Inc() }

func (m poolMetrics) Rejected(why pool.Rejection) {
	m.count(rejectedRequests, string(why))
}

func (m poolMetrics) Ended(outcome string) {
	m.count(invocationResults, outcome)
}

// count adds one, unless the series are gone: a request that comes after the
// end of its pool must not bring them back.
func (m poolMetrics) count(vec *prometheus.CounterVec, label string) {
	m.series.mu.RLock()
	defer m.series.mu.RUnlock()
	if m.series.pools > 0 || m.series.kept {
		vec.WithLabelValues(m.pool, label).Inc()
	}
}

// Why a request chose no function, of the requests that have no pool.
const (
	rejectedNotAllowed = "function_not_allowed"
	rejectedRefused    = "function_refused"
	rejectedTooMany    = "too_many_functions"
)

// gauges reads the pools when it is scraped, so that nothing has to be kept
// up to date in between.
type gauges struct{}

var (
	queueDepth       = gaugeDesc("queue_depth", "Requests that wait for a slot.", "pool")
	oldestWait       = gaugeDesc("queue_oldest_wait_seconds", "How long the first request in the queue has waited.", "pool")
	inFlight         = gaugeDesc("requests_in_flight", "Requests that hold a slot.", "pool")
	freeSlots        = gaugeDesc("free_slots", "Slots of ready instances that are free.", "pool")
	instances        = gaugeDesc("instances", "Instances, by state.", "pool", "state")
	desiredInstances = gaugeDesc("desired_instances", "Instances that the scaler wants.", "pool")

	// The pool counts these, because only it knows both ends. They begin at 0
	// again with the next pool of the function.
	tunnelBytes = gaugeDesc("tunnel_bytes_total", "Bytes that crossed tunnels, without TLS and TCP: in from instances, "+
		"out to them; in the same availability zone or from one to another.", "pool", "direction", "zone")
	billedSeconds = gaugeDesc("billed_seconds_total", "How long invocations were open, each rounded up to a millisecond.", "pool")
	coldStarts    = gaugeDesc("cold_starts_total", "Instances that became ready while a request waited.", "pool")
)

func gaugeDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, labels, nil)
}

func (gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queueDepth, oldestWait, inFlight, freeSlots, instances, desiredInstances, tunnelBytes, billedSeconds, coldStarts} {
		ch <- d
	}
}

func (gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for _, s := range snapshots() {
		gauge(queueDepth, float64(s.Queued), s.Name)
		gauge(oldestWait, s.OldestWait.Seconds(), s.Name)
		gauge(inFlight, float64(s.InFlight), s.Name)
		gauge(freeSlots, float64(s.FreeSlots), s.Name)
		gauge(desiredInstances, float64(s.Desired), s.Name)
		counter(billedSeconds, s.Billed.Seconds(), s.Name)
		counter(coldStarts, float64(s.ColdStarts), s.Name)
		for _, t := range s.Traffic {
			counter(tunnelBytes, float64(t.In), s.Name, "in", string(t.Zone))
			counter(tunnelBytes, float64(t.Out), s.Name, "out", string(t.Zone))
		}
		states := make(map[string]int)
		for _, in := range s.Instances {
			states[in.State]++
		}
		for _, st := range pool.States {
			if st != pool.StateClosed {
				gauge(instances, float64(states[st.String()]), s.Name, st.String())
			}
		}
	}
}

// poolSnapshot is a pool as the admin API shows it.
type poolSnapshot struct {
	pool.Snapshot
	// Requested is whether requests have chosen the function.
	Requested bool `json:"chosen_per_request,omitempty"`
}

// snapshots returns what every pool looks like now, those that are closing
// included unless a new one has their name already: a metric has one value.
func snapshots() []poolSnapshot {
	all := []poolSnapshot{}
	names := make(map[string]struct{})
	add := func(v any) {
		s, ok := v.(*sharedPool)
		if !ok {
			return
		}
		if _, dup := names[s.name]; dup {
			return
		}
		names[s.name] = struct{}{}
		all = append(all, poolSnapshot{s.pool.Snapshot(), s.isRequested()})
	}
	pools.Range(func(_, v any) bool { add(v); return true })
	closing.Range(func(k, _ any) bool { add(k); return true })
	return all
}

// Interface guards
var (
	_ pool.Metrics         = poolMetrics{}
	_ prometheus.Collector = gauges{}
)
