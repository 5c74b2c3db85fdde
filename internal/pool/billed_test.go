package pool

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// Invocations are billed from their start, while they are open, and to the
// millisecond that they have begun once they are over.
func TestBilledTime(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = time.Second
	play(t, Settings{QueueSize: 1}, f, func(s *scene) {
		l := s.lease()
		defer l.Release()
		if got := s.pool.Snapshot(); got.Billed != time.Second || got.ColdStarts != 1 {
			t.Errorf("%v are billed after a cold start of 1s, for %d cold starts", got.Billed, got.ColdStarts)
		}
		time.Sleep(10*time.Second + 100*time.Microsecond)
		if got := s.pool.Snapshot().Billed; got != 11*time.Second+100*time.Microsecond {
			t.Errorf("%v are billed for an open invocation", got)
		}
		_ = f.tunnel(0).Close()
		synctest.Wait()
		if got := s.pool.Snapshot().Billed; got != 11*time.Second+time.Millisecond {
			t.Errorf("%v are billed for one that has ended", got)
		}
	})
}

// What Lambda refuses to run costs nothing, what crashes does.
func TestBilledTimeOfFailures(t *testing.T) {
	for _, tc := range []struct {
		name string
		out  *outcome
		want bool
	}{
		{"no result", nil, false},
		{"a result", &outcome{}, true},
		{"crashed", &outcome{err: &invoke.Error{Kind: invoke.KindFunction}}, true},
		{"not an adapter", &outcome{err: &invoke.Error{Kind: invoke.KindAlien}}, true},
		{"throttled", &outcome{err: &invoke.Error{Kind: invoke.KindThrottled}}, false},
		{"denied", &outcome{err: &invoke.Error{Kind: invoke.KindDenied}}, false},
		{"unknown", &outcome{err: errors.New("odd")}, false},
	} {
		if got := tc.out.ran(); got != tc.want {
			t.Errorf("%s: ran is %t", tc.name, got)
		}
	}
}

// An instance that nobody waits for is no cold start.
func TestStartsThatNobodyWaitsForAreNotCold(t *testing.T) {
	f := newFakeLambda()
	set := Settings{QueueSize: 1}
	set.Scale.MaxConcurrent, set.Scale.TargetConcurrent, set.Scale.MinInstances, set.Scale.MaxInstances = 1, 1, 2, 2
	play(t, set, f, func(s *scene) {
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.instances(StateReady); n != 2 {
			t.Fatalf("%d instances are ready", n)
		}
		if got := s.pool.Snapshot().ColdStarts; got != 0 {
			t.Errorf("%d cold starts", got)
		}
	})
}
