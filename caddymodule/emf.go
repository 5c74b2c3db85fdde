package caddymodule

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

// emfValues is how many values a metric may have in one line.
// Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
const emfValues = 100

// emfMetric is a metric of CloudWatch, made of series of Prometheus.
type emfMetric struct {
	name, unit string
	of         []series // their sum
	gauge      bool     // else what has come since the last line
	// rare metrics are left out while they are 0, because CloudWatch bills each
	// by the hours in which it is heard of.
	rare bool
}

// series names a time series of a pool: its family, without what all begin
// with, and the value of its other label.
type series struct{ family, label string }

const (
	queueWaitMetric  = "QueueWait"
	queueWaitFamily  = "queue_wait_seconds"
	rejectedFamily   = "rejected_requests_total"
	resultFamily     = "invocation_results_total"
	bytesFamily      = "tunnel_bytes_total"
	billedFamily     = "billed_seconds_total"
	coldStartsFamily = "cold_starts_total"
)

// emfMetrics are all that a line can have. QueueWait alone is a distribution.
var emfMetrics = []emfMetric{
	{name: queueWaitMetric, unit: "Seconds"},
	{name: "Requests", unit: "Count", of: one(queueWaitFamily)},
	{name: "RequestsInFlight", unit: "Count", of: one("requests_in_flight"), gauge: true},
	{name: "RequestsQueued", unit: "Count", of: one("queue_depth"), gauge: true},
	{name: "InstancesStarting", unit: "Count", of: []series{{"instances", pool.StateStarting.String()}}, gauge: true},
	{name: "InstancesReady", unit: "Count", of: []series{{"instances", pool.StateReady.String()}}, gauge: true},
	{name: "InstancesDraining", unit: "Count", of: []series{{"instances", pool.StateDraining.String()}}, gauge: true},
	{name: "Starts", unit: "Count", of: one("invocations_total")},
	{name: "ColdStarts", unit: "Count", of: one(coldStartsFamily)},
	{name: "BilledSeconds", unit: "Seconds", of: one(billedFamily)},
	{name: "Retries", unit: "Count", of: one("retries_total")},
	{name: "TunnelBytesSameZone", unit: "Bytes", of: labels(bytesFamily, pool.ZoneSame), rare: true},
	{name: "TunnelBytesCrossZone", unit: "Bytes", of: labels(bytesFamily, pool.ZoneCross), rare: true},
	{name: "TunnelBytesUnknownZone", unit: "Bytes", of: labels(bytesFamily, pool.ZoneUnknown), rare: true},
	{name: "Errors", unit: "Count", of: slices.Concat(queueErrors, startErrors, functionErrors)},
	{name: "ErrorsQueueFull", unit: "Count", of: labels(rejectedFamily, pool.RejectedFull), rare: true},
	{name: "ErrorsQueueTimeout", unit: "Count", of: labels(rejectedFamily, pool.RejectedTimeout), rare: true},
	{name: "ErrorsUnavailable", unit: "Count", of: labels(rejectedFamily, pool.RejectedUnavailable, pool.RejectedClosed), rare: true},
	{name: "ErrorsThrottled", unit: "Count", of: labels(resultFamily, invoke.KindThrottled), rare: true},
	{name: "ErrorsInvoke", unit: "Count", of: startErrors[1:], rare: true},
	{name: "ErrorsFunction", unit: "Count", of: functionErrors, rare: true},
}

var (
	// Requests that the router refused. Clients that left are no error of it.
	queueErrors = labels(rejectedFamily, pool.RejectedFull, pool.RejectedTimeout, pool.RejectedUnavailable, pool.RejectedClosed)
	// Invocations that Lambda did not run; the first is told apart.
	startErrors = labels(resultFamily, invoke.KindThrottled, invoke.KindDenied, invoke.KindMissing,
		invoke.KindRejected, invoke.KindService, invoke.KindUnreachable)
	// Invocations that ran and failed. An instance that was refused can have been
	// one that was not needed any more.
	functionErrors = slices.Concat(labels(resultFamily, invoke.KindFunction, invoke.KindAlien),
		labels(resultFamily, invoke.ReasonRouterUnreachable, invoke.ReasonAppUnavailable, invoke.ReasonBadEvent),
		labels(resultFamily, pool.OutcomeNoResult))
)

func one(family string) []series { return []series{{family, ""}} }

func labels[S ~string](family string, values ...S) []series {
	all := make([]series, 0, len(values))
	for _, v := range values {
		all = append(all, series{family, string(v)})
	}
	return all
}

// poolSample is what the series of one pool were at one moment.
type poolSample struct {
	values map[series]float64
	// waits are the cumulated buckets of the queue wait.
	waits []*dto.Bucket
}

// samplesOf sorts what Prometheus would be told by pool.
func samplesOf(families []*dto.MetricFamily) map[string]poolSample {
	const prefix = metricsNamespace + "_" + metricsSubsystem + "_"
	all := make(map[string]poolSample)
	for _, f := range families {
		family := f.GetName()[min(len(prefix), len(f.GetName())):]
		for _, m := range f.GetMetric() {
			var name, label string
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "pool":
					name = l.GetValue()
				case "direction": // both are billed
				default:
					label = l.GetValue()
				}
			}
			if name == "" {
				continue // of requests that chose no function
			}
			s, ok := all[name]
			if !ok {
				s.values = make(map[series]float64)
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				value = float64(h.GetSampleCount())
				s.waits = h.GetBucket()
			}
			s.values[series{family, label}] += value
			all[name] = s
		}
	}
	return all
}

// since returns what has been added to a counter. One that is smaller than
// before has begun again.
func since(now, last float64) float64 {
	if now < last {
		return now
	}
	return now - last
}

// value returns what a line says of the metric, and whether it says anything.
func (m emfMetric) value(now, last poolSample) (value any, known bool) {
	if m.name == queueWaitMetric {
		waits := waitsSince(now, last)
		return waits, len(waits) > 0
	}
	var sum float64
	for _, s := range m.of {
		if v := now.values[s]; m.gauge {
			sum += v
		} else {
			sum += since(v, last.values[s])
		}
	}
	return rounded(sum), !m.rare || sum != 0
}

// emfLine returns the line for one pool: what it is now, and what has happened
// since the last line, which is empty if there was none.
func (c *CloudWatchMetrics) emfLine(name string, at time.Time, now, last poolSample) ([]byte, error) {
	type definition struct {
		Name string
		Unit string
	}
	type directive struct {
		Namespace  string
		Dimensions [][]string
		Metrics    []definition
	}
	type metadata struct {
		Timestamp         int64
		CloudWatchMetrics []directive
	}
	root := map[string]any{poolDimension: name}
	for dimension, value := range c.Dimensions {
		root[dimension] = value
	}
	d := directive{
		Namespace:  c.Namespace,
		Dimensions: [][]string{append([]string{poolDimension}, slices.Sorted(maps.Keys(c.Dimensions))...)},
	}
	for _, m := range emfMetrics {
		if value, known := m.value(now, last); known {
			root[m.name] = value
			d.Metrics = append(d.Metrics, definition{m.name, m.unit})
		}
	}
	root["_aws"] = metadata{Timestamp: at.UnixMilli(), CloudWatchMetrics: []directive{d}}
	line, err := json.Marshal(root)
	return append(line, '\n'), err
}

// waitsSince returns up to emfValues values that are distributed like the queue
// waits since the last sample, in seconds, as exactly as the buckets are. The
// format has no way to say how often a value was seen.
func waitsSince(now, last poolSample) []float64 {
	bounds := make([]float64, 0, len(now.waits))
	counts := make([]float64, 0, len(now.waits)) // cumulated
	restarted := len(last.waits) != len(now.waits)
	for i := range now.waits {
		restarted = restarted || now.waits[i].GetCumulativeCount() < last.waits[i].GetCumulativeCount()
	}
	for i, b := range now.waits {
		n := b.GetCumulativeCount()
		if !restarted {
			n -= last.waits[i].GetCumulativeCount()
		}
		bounds, counts = append(bounds, b.GetUpperBound()), append(counts, float64(n))
	}
	waits := series{queueWaitFamily, ""}
	total := since(now.values[waits], last.values[waits])
	values := make([]float64, 0, emfValues)
	n := min(total, emfValues)
	for i := range int(n) {
		rank := (float64(i) + .5) / n * total
		values = append(values, rounded(quantile(bounds, counts, rank)))
	}
	return values
}

// quantile returns the value of a rank, with the values of a bucket spread
// evenly. What is above all buckets is as much as the last bound.
func quantile(bounds, counts []float64, rank float64) float64 {
	var low, before float64
	for i, bound := range bounds {
		if rank <= counts[i] {
			return low + (bound-low)*(rank-before)/(counts[i]-before)
		}
		low, before = bound, counts[i]
	}
	return low
}

// rounded leaves microseconds.
func rounded(v float64) float64 { return math.Round(v*1e6) / 1e6 }
