package pool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

func over(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// A request that goes on until the deadline hears of it in time, after the
// instance has stopped taking new ones.
func TestRequestsHearOfTheDeadlineBeforeIt(t *testing.T) {
	for _, timeout := range []time.Duration{10 * time.Second, time.Minute, 15 * time.Minute} {
		t.Run(timeout.String(), func(t *testing.T) {
			f := newFakeLambda()
			f.timeout = timeout
			play(t, Settings{QueueSize: 1}, f, func(s *scene) {
				start := time.Now()
				l := s.lease()
				if over(l.Ending()) {
					t.Error("the instance is ending from the start")
				}
				<-l.Ending()
				left := time.Until(l.Deadline())
				if least := min(endingMost, timeout/20); left < least || left > endingMost {
					t.Errorf("heard %v before the deadline, want from %v to %v", left, least, endingMost)
				}
				if lived := time.Since(start); lived < timeout/2 {
					t.Errorf("heard after %v of %v", lived, timeout)
				}
				if n := s.instances(StateDraining); n != 1 {
					t.Errorf("%d instances drain, want 1", n)
				}
				l.Release()
			})
		})
	}
}

// An adapter that takes no more requests will not be there for long, whatever
// its deadline.
func TestRequestsHearOfAnAdapterThatDrains(t *testing.T) {
	f := newFakeLambda()
	play(t, Settings{QueueSize: 1}, f, func(s *scene) {
		l := s.lease()
		f.tunnel(0).announce()
		synctest.Wait()
		if !over(l.Ending()) {
			t.Error("not heard")
		}
		if over(s.pool.Ending()) {
			t.Error("the pool is ending too")
		}
		l.Release()
	})
}

// Nobody says anything in the name of an instance that is gone.
func TestRequestsHearNothingWhenTheTunnelIsLost(t *testing.T) {
	f := newFakeLambda()
	play(t, Settings{QueueSize: 1}, f, func(s *scene) {
		l := s.lease()
		_ = f.tunnel(0).Close()
		synctest.Wait()
		if over(l.Ending()) {
			t.Error("heard that the instance is ending, but it has ended")
		}
		l.Release()
	})
}

func TestThePoolSaysThatItIsEnding(t *testing.T) {
	play(t, Settings{QueueSize: 1}, newFakeLambda(), func(s *scene) {
		l := s.lease()
		if over(s.pool.Ending()) {
			t.Error("before it is")
		}
		s.pool.Quiesce()
		s.pool.Quiesce()
		if !over(s.pool.Ending()) || over(l.Ending()) {
			t.Errorf("pool is ending: %v, instance: %v; want true and false", over(s.pool.Ending()), over(l.Ending()))
		}
		l.Release()
	})
}

// Requests that do not end are cut in time for the results of their invocations.
func TestCloseReadsTheResultsOfInstancesThatItCuts(t *testing.T) {
	f := newFakeLambda()
	play(t, Settings{QueueSize: 1}, f, func(s *scene) {
		l := s.lease()
		ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := s.pool.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closed with %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("closed after %v", took)
		}
		closed := s.logs.FilterMessage("instance closed").All()
		if len(closed) != 1 || closed[0].ContextMap()["result"] != string(invoke.ReasonDrained) {
			t.Errorf("instances ended with %v", closed)
		}
		l.Release()
	})
}

// An instance is expected where it was told to call back, however soon another
// configuration comes.
func TestAnInstanceIsExpectedWhereItWasTold(t *testing.T) {
	f := newFakeLambda()
	play(t, Settings{QueueSize: 1}, f, func(s *scene) {
		s.pool.mu.Lock()
		s.pool.start(time.Now())
		expected := len(f.accept)
		s.pool.mu.Unlock()
		if expected != 1 {
			t.Errorf("%d instances are expected when the lock is given up, want 1", expected)
		}
	})
}
