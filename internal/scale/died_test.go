package scale

import (
	"testing"
	"time"
)

// openBreaker lets starts fail until the breaker is open, and returns when.
func openBreaker(t *testing.T, s *Scaler, kind Failure, now time.Time) time.Time {
	t.Helper()
	for range breakerRounds {
		_, now = failRound(t, s, kind, now)
	}
	if !s.limiter.open() {
		t.Fatal("the breaker is not open")
	}
	return now
}

// However many instances die that have answered, that is no reason to make
// single attempts or to fail requests: all of them could be started.
func TestDeathsOpenNoBreaker(t *testing.T) {
	s, now := waiting(0.5), epoch
	for i := range 20 {
		n := s.Decide(Fleet{}, now).Start
		for ; n == 0; n = s.Decide(Fleet{}, now).Start {
			now = now.Add(100 * ms)
		}
		if n < 2 && i < 5 { // later there are no tokens for more
			t.Errorf("%d starts after %d deaths", n, i)
		}
		s.Died(now)
		s.Failed(FailureDied, now)
		s.Decide(Fleet{}, now)
		if s.limiter.rounds > 0 {
			t.Fatalf("%d rounds after %d deaths", s.limiter.rounds, i+1)
		}
		now = now.Add(time.Minute)
	}
}

// Starts that fail count, though an instance has died just before.
func TestFailuresAfterADeathCount(t *testing.T) {
	s, now := waiting(0.5), epoch
	s.Decide(Fleet{}, now)
	for round := 1; round <= breakerRounds; round++ {
		s.Failed(FailureDied, now)
		s.Failed(FailureOther, now) // in the backoff of the death
		s.Failed(FailureDied, now)
		s.Failed(FailureOther, now) // of the same round
		if got := s.limiter.rounds; got != round {
			t.Fatalf("%d rounds, want %d", got, round)
		}
		now = s.limiter.until
	}
}

// What dies after it has answered is restarted as slowly as the failures of a
// working pool, though other starts have failed.
func TestDeathsUseUpStarts(t *testing.T) {
	s, now := waiting(0.5), epoch
	s.Failed(FailureOther, now)
	before := s.limiter.tokens
	s.Failed(FailureDied, now)
	s.Failed(FailureDied, now)
	if used := before - s.limiter.tokens; used != 2*failureCost {
		t.Errorf("two deaths used up %v starts", used)
	}
}

// A death says nothing about what Lambda refuses.
func TestDeathDoesNotHideRefusal(t *testing.T) {
	s := waiting(0.5)
	now := openBreaker(t, s, FailurePermanent, epoch)
	s.Died(now)
	s.Failed(FailureDied, s.limiter.until)
	if blocked, _ := s.Blocked(now); !blocked {
		t.Error("not blocked although Lambda refuses to start instances")
	}
}

// While an instance that had answered has just died, requests wait for the next
// attempts, whatever became of those before. Not for long, and not if only the
// router has let it go.
func TestDeathMakesRequestsWait(t *testing.T) {
	s := waiting(0.5)
	now := openBreaker(t, s, FailureOther, epoch)
	if blocked, _ := s.Blocked(now); !blocked {
		t.Fatal("not blocked although no instance has answered anything")
	}
	death := now
	s.Died(death)
	attempts := 0
	for now.Before(death.Add(mourning)) {
		if blocked, _ := s.Blocked(now); blocked {
			t.Fatalf("blocked %v after the death", now.Sub(death))
		}
		n, at := failRound(t, s, FailureOther, now)
		if n != 1 {
			t.Errorf("%d attempts at once", n)
		}
		attempts++
		now = at
	}
	if attempts == 0 {
		t.Error("no attempt was waited for")
	}
	if blocked, _ := s.Blocked(now); !blocked {
		t.Errorf("not blocked %v after the death", now.Sub(death))
	}
}

// The longest backoff begins at the death itself: even then an attempt has its
// outcome while requests wait.
func TestDeathOutlastsTheLongestBackoff(t *testing.T) {
	for kind, b := range backoffs {
		if b.most+5*time.Second > mourning {
			t.Errorf("kind %d: backoff of %v, and requests wait for %v", kind, b.most, mourning)
		}
	}
}
