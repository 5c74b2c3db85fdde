package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
)

// cloudWatchLog is the one of the process: configurations come and go, and what
// one has reported must not be reported again by the next.
var cloudWatchLog = newEMFLog(os.Stdout, gatherMetrics)

// gatherMetrics reads what the lines are made of, like one more Prometheus.
func gatherMetrics() ([]*dto.MetricFamily, error) {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{queueWait, rejectedRequests, retries, invocations, invocationResults, gauges{}} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return reg.Gather()
}

// emfLog writes the metrics of all pools in the Embedded Metric Format.
type emfLog struct {
	out    io.Writer
	gather func() ([]*dto.MetricFamily, error)

	mu sync.Mutex // guards the following
	// last is what was reported, by pool.
	last map[string]poolSample
	// current is the newest reporter. It stays when it has been stopped, for the
	// last lines of pools that are still closing.
	current *emfReporter
}

func newEMFLog(out io.Writer, gather func() ([]*dto.MetricFamily, error)) *emfLog {
	return &emfLog{out: out, gather: gather, last: make(map[string]poolSample)}
}

// emfReporter writes lines as one configuration wants them.
type emfReporter struct {
	conf CloudWatchMetrics
	log  *zap.Logger
	quit chan struct{}
	done chan struct{}
}

// start makes the configuration the one that is reported for, in place of the
// one before; a nil one ends the reports. The reporter must be stopped.
func (l *emfLog) start(conf *CloudWatchMetrics, log *zap.Logger) *emfReporter {
	l.mu.Lock()
	before := l.current
	l.mu.Unlock()
	if before != nil && before.running() {
		l.report(before, time.Now(), nil) // its interval ends here
	}
	var r *emfReporter
	if conf != nil {
		r = &emfReporter{conf: *conf, log: log, quit: make(chan struct{}), done: make(chan struct{})}
	}
	l.mu.Lock()
	if r != nil && l.current == nil {
		l.baseline(log)
	}
	l.current = r
	l.mu.Unlock()
	if r != nil {
		go l.run(r)
	}
	return r
}

// baseline notes what there was before there were reports. Callers hold l.mu.
func (l *emfLog) baseline(log *zap.Logger) {
	families, err := l.gather()
	if err != nil {
		log.Error("metrics for CloudWatch are not read", zap.Error(err))
		return
	}
	l.last = samplesOf(families)
}

// run reports each interval until the reporter is stopped.
func (l *emfLog) run(r *emfReporter) {
	defer close(r.done)
	tick := time.NewTicker(time.Duration(r.conf.Interval))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			l.report(r, now, nil)
		case <-r.quit:
			return
		}
	}
}

func (r *emfReporter) running() bool {
	select {
	case <-r.quit:
		return false
	default:
		return true
	}
}

// stop ends the reports and waits for the one that is being written. What is
// not reported yet is for the next configuration, or for [emfLog.closePool].
func (r *emfReporter) stop() {
	close(r.quit)
	<-r.done
}

// closePool reports a pool whose life ends, and what it counted itself begins at
// 0 again. It must still be in what gather returns.
func (l *emfLog) closePool(name string) {
	if _, again := pools.References(name); again {
		return // the lines are of the next pool of that name already
	}
	l.mu.Lock()
	r := l.current
	l.mu.Unlock()
	if r != nil {
		l.report(r, time.Now(), &name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.last[name].values, func(s series, _ float64) bool {
		return slices.Contains([]string{billedFamily, coldStartsFamily, bytesFamily}, s.family)
	})
}

// forget drops what is known of a pool whose series are gone.
func (l *emfLog) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.last, name)
}

// report writes a line for each pool, or for one, unless another reporter has
// taken over.
func (l *emfLog) report(r *emfReporter, at time.Time, only *string) {
	lines, err := l.lines(r, at, only)
	if len(lines) > 0 {
		_, writeErr := l.out.Write(lines)
		err = errors.Join(err, writeErr)
	}
	if err != nil {
		r.log.Error("metrics for CloudWatch are not written", zap.Error(err))
	}
}

func (l *emfLog) lines(r *emfReporter, at time.Time, only *string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != r {
		return nil, nil
	}
	families, err := l.gather()
	if err != nil {
		return nil, err
	}
	var lines bytes.Buffer
	var errs []error
	samples := samplesOf(families)
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		if only != nil && *only != name {
			continue
		}
		now, last := samples[name], l.last[name]
		l.last[name] = now
		if _, open := now.values[series{"instances", "ready"}]; !open && maps.Equal(now.values, last.values) {
			continue // only its series are left
		}
		line, err := r.conf.emfLine(name, at, now, last)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lines.Write(line)
	}
	return lines.Bytes(), errors.Join(errs...)
}
