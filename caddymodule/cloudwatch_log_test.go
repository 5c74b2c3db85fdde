package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// lineBuffer is a buffer that a test reads while reporters write.
type lineBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lineBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lineBuffer) Len() int { return len(b.String()) }

func (b *lineBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// emfLines decodes what has been written, and empties the buffer.
func emfLines(t *testing.T, out *lineBuffer) []map[string]any {
	t.Helper()
	lines := make([]map[string]any, 0, 2)
	out.mu.Lock()
	defer out.mu.Unlock()
	for dec := json.NewDecoder(&out.buf); dec.More(); {
		var line map[string]any
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	out.buf.Reset()
	return lines
}

func everyMinute(namespace string) *CloudWatchMetrics {
	return &CloudWatchMetrics{Namespace: namespace, Interval: caddy.Duration(time.Minute)}
}

// inEMFTime runs a test with metrics, and a log of them, in a time of its own.
func inEMFTime(t *testing.T, test func(t *testing.T, f *emfFamilies, l *emfLog, out *lineBuffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, out := newEMFFamilies(), new(lineBuffer)
		test(t, f, newEMFLog(out, f.gather), out)
	})
}

// pass lets time pass, and whoever it wakes do what he does.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble: no time at all
	synctest.Wait()
}

func namespaceOf(line map[string]any) any {
	meta := line["_aws"].(map[string]any)
	return meta["CloudWatchMetrics"].([]any)[0].(map[string]any)["Namespace"]
}

func TestEMFLinesComeEveryInterval(t *testing.T) {
	inEMFTime(t, func(t *testing.T, f *emfFamilies, l *emfLog, out *lineBuffer) {
		f.busy("a") // before there were any reports
		r := l.start(everyMinute("N"), nopLog)
		f.starts.WithLabelValues("a").Add(4)
		f.busy("b")
		pass(time.Minute - time.Nanosecond)
		if out.Len() != 0 {
			t.Errorf("after less than a minute: %s", out)
		}
		for i, want := range []float64{4, 0} {
			if i == 0 {
				pass(time.Nanosecond)
			} else {
				pass(time.Minute)
			}
			got := emfLines(t, out)
			if len(got) != 2 || got[0]["pool"] != "a" || got[1]["pool"] != "b" {
				t.Fatalf("minute %d: got %v", i, got)
			}
			if got[0]["Starts"] != want || got[0]["InstancesReady"] != 1.0 {
				t.Errorf("minute %d: got %v, want %v starts", i, got[0], want)
			}
		}
		r.stop()
		pass(time.Hour)
		if out.Len() != 0 {
			t.Errorf("after the end: %s", out)
		}
	})
}

// Whatever happens is reported once, by the configuration under which it
// happened.
func TestEMFLinesAcrossReloads(t *testing.T) {
	inEMFTime(t, func(t *testing.T, f *emfFamilies, l *emfLog, out *lineBuffer) {
		first := l.start(everyMinute("First"), nopLog)
		f.ready.WithLabelValues("a", "ready").Set(1)
		f.starts.WithLabelValues("a").Add(4)
		pass(30 * time.Second)

		second := l.start(everyMinute("Second"), nopLog)
		got := emfLines(t, out)
		if len(got) != 1 || got[0]["Starts"] != 4.0 || namespaceOf(got[0]) != "First" {
			t.Fatalf("at the reload: %v", got)
		}
		f.starts.WithLabelValues("a").Add(2)
		pass(45 * time.Second) // the first would report
		first.stop()
		if out.Len() != 0 {
			t.Errorf("the configuration before reports: %s", out)
		}
		pass(15 * time.Second)
		got = emfLines(t, out)
		if len(got) != 1 || got[0]["Starts"] != 2.0 || namespaceOf(got[0]) != "Second" {
			t.Fatalf("after the reload: %v", got)
		}

		f.starts.WithLabelValues("a").Add(1)
		if l.start(nil, nopLog) != nil {
			t.Error("there is a reporter without a configuration")
		}
		second.stop()
		if got := emfLines(t, out); len(got) != 1 || got[0]["Starts"] != 1.0 {
			t.Errorf("at the end of the reports: %v", got)
		}
		l.closePool("a")
		if out.Len() != 0 {
			t.Errorf("without reports: %s", out)
		}
	})
}

// What has happened since the last interval is reported when a pool closes, also
// after its configuration has gone. Its next life begins with nothing.
func TestEMFLineOfAPoolThatCloses(t *testing.T) {
	inEMFTime(t, func(t *testing.T, f *emfFamilies, l *emfLog, out *lineBuffer) {
		r := l.start(everyMinute("N"), nopLog)
		f.busy("a")
		f.busy("b")
		r.stop()
		l.closePool("a")
		if got := emfLines(t, out); len(got) != 1 || got[0]["pool"] != "a" || got[0]["BilledSeconds"] != 12.5 {
			t.Errorf("at the end of the pool: %v", got)
		}
		f.billed.Reset()
		f.billed.WithLabelValues("a").Add(20)
		l.closePool("a")
		if got := emfLines(t, out); len(got) != 1 || got[0]["BilledSeconds"] != 20.0 || got[0]["Starts"] != 0.0 {
			t.Errorf("at the end of the next pool: %v", got)
		}
	})
}

// What is left of a pool that has gone is no reason for a line.
func TestNoEMFLineForAPoolThatIsGone(t *testing.T) {
	inEMFTime(t, func(t *testing.T, f *emfFamilies, l *emfLog, out *lineBuffer) {
		r := l.start(everyMinute("N"), nopLog)
		defer r.stop()
		f.starts.WithLabelValues("a").Add(1)
		pass(time.Minute)
		if got := emfLines(t, out); len(got) != 1 {
			t.Errorf("got %v", got)
		}
		pass(10 * time.Minute)
		if out.Len() != 0 {
			t.Errorf("got %s", out)
		}
	})
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestEMFLinesThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newEMFFamilies()
		core, logs := observer.New(zap.ErrorLevel)
		r := newEMFLog(brokenPipe{}, f.gather).start(everyMinute("N"), zap.New(core))
		defer r.stop()
		f.busy("a")
		pass(time.Minute)
		if n := logs.FilterMessage("metrics for CloudWatch are not written").Len(); n != 1 {
			t.Errorf("%d lines say so", n)
		}
	})
}
