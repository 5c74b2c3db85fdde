package scale

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// waiting returns a Scaler for which requests wait, and a clock to set.
func waiting(random float64) *Scaler {
	s := New(Config{MaxConcurrent: 1}, epoch, func() float64 { return random })
	s.Observe(Load{Queued: 10}, epoch)
	return s
}

// failRound starts what may be started, at the earliest time from now on, and
// lets all of it fail. It returns how many that were, and when.
func failRound(t *testing.T, s *Scaler, kind Failure, now time.Time) (int, time.Time) {
	t.Helper()
	for range 100 {
		d := s.Decide(Fleet{}, now)
		if d.Start == 0 {
			now = d.Wake
			continue
		}
		now = now.Add(ms)
		for range d.Start {
			s.Failed(kind, now)
		}
		s.Decide(Fleet{}, now)
		return d.Start, now
	}
	t.Fatal("nothing is started any more")
	return 0, now
}

func TestBreakerOpensAfterRounds(t *testing.T) {
	s, now := waiting(0.5), epoch
	for round, want := range []int{10, 10, 1, 1, 1, 1} {
		n, at := failRound(t, s, FailureOther, now)
		now = at
		if n != want {
			t.Errorf("round %d: %d starts, want %d", round+1, n, want)
		}
		blocked, until := s.Blocked(now)
		if blocked != (round+1 >= breakerRounds) {
			t.Errorf("blocked is %v after round %d", blocked, round+1)
		}
		if blocked && !until.After(now) {
			t.Errorf("blocked until %v, which is not after %v", until, now)
		}
	}
}

func TestPermanentFailureOpensAtOnce(t *testing.T) {
	s := waiting(0.5)
	d := s.Decide(Fleet{}, epoch)
	s.Failed(FailurePermanent, epoch)
	// The others will fail in the same way, so nobody need wait for them.
	s.Decide(Fleet{Starting: d.Start - 1}, epoch)
	if blocked, until := s.Blocked(epoch); !blocked || !until.Equal(epoch.Add(2500*ms)) {
		t.Errorf("blocked %v until %v", blocked, until)
	}
}

func TestPermanentFailureDuringBackoff(t *testing.T) {
	s := waiting(0.5)
	s.Decide(Fleet{}, epoch)
	s.Failed(FailureOther, epoch)
	s.Failed(FailurePermanent, epoch)
	if blocked, _ := s.Blocked(epoch); !blocked {
		t.Error("not blocked")
	}
}

// TestAttempt follows one attempt with an open breaker.
func TestAttempt(t *testing.T) {
	open := func() (*Scaler, time.Time) {
		s := waiting(0.5)
		s.Decide(Fleet{}, epoch)
		s.Failed(FailurePermanent, epoch)
		_, until := s.Blocked(epoch)
		if d := s.Decide(Fleet{}, until.Add(-1)); d.Start != 0 {
			t.Fatal("attempt before its time")
		}
		if blocked, _ := s.Blocked(until); blocked {
			t.Fatal("blocked although an attempt is due: nobody would ever cause it")
		}
		if d := s.Decide(Fleet{}, until); d.Start != 1 {
			t.Fatalf("%d starts for an attempt", d.Start)
		}
		if blocked, _ := s.Blocked(until); !blocked {
			t.Fatal("not blocked during an attempt")
		}
		later := until.Add(time.Minute)
		if d := s.Decide(Fleet{Starting: 1}, later); d.Start != 0 {
			t.Fatal("two attempts at once")
		}
		return s, later
	}
	t.Run("succeeds", func(t *testing.T) {
		s, now := open()
		s.Started(time.Second, now)
		if blocked, _ := s.Blocked(now); blocked {
			t.Error("still blocked")
		}
		if d := s.Decide(Fleet{Ready: 1}, now); d.Start != 0 || !d.Wake.After(now) {
			t.Errorf("before it has proved itself: %+v", d)
		}
		s.Proved()
		if d := s.Decide(Fleet{Ready: 1}, now); d.Start < 5 {
			t.Errorf("only %d starts after a success", d.Start)
		}
	})
	t.Run("fails", func(t *testing.T) {
		s, now := open()
		s.Failed(FailurePermanent, now)
		blocked, until := s.Blocked(now)
		if !blocked || until.Sub(now) != 5*time.Second {
			t.Errorf("blocked %v for %v", blocked, until.Sub(now))
		}
	})
	t.Run("becomes ready and fails", func(t *testing.T) {
		s, now := open()
		s.Started(time.Second, now)
		now = now.Add(time.Second)
		s.Failed(FailureOther, now)
		if blocked, until := s.Blocked(now); !blocked || until.Sub(now) < minProbe {
			t.Errorf("blocked %v for %v", blocked, until.Sub(now))
		}
	})
	t.Run("fails in another way", func(t *testing.T) {
		s, now := open()
		s.Failed(FailureOther, now)
		if blocked, _ := s.Blocked(now); !blocked {
			t.Error("not blocked before the next decision")
		}
	})
	t.Run("vanishes", func(t *testing.T) {
		s, now := open()
		s.Observe(Load{}, now)
		if d := s.Decide(Fleet{}, now); d.Start != 0 {
			t.Errorf("%d starts for nobody", d.Start)
		}
		if blocked, _ := s.Blocked(now); blocked {
			t.Error("blocked for an attempt that is no more")
		}
	})
}

// TestNotBlockedWhileOthersStart: requests wait for what may yet become ready.
func TestNotBlockedWhileOthersStart(t *testing.T) {
	s, now := waiting(0), epoch
	s.Decide(Fleet{}, now)
	for range 6 {
		now = now.Add(10 * time.Second)
		s.Failed(FailureOther, now)
	}
	s.Decide(Fleet{Starting: 4}, now)
	if blocked, _ := s.Blocked(now); blocked {
		t.Error("blocked although four instances may become ready")
	}
	s.Decide(Fleet{}, now)
	if blocked, _ := s.Blocked(now); !blocked {
		t.Error("not blocked although nothing is left")
	}
}

func TestBackoff(t *testing.T) {
	delay := func(s *Scaler, kind Failure, now time.Time) time.Duration {
		s.Failed(kind, now)
		return s.limiter.until.Sub(now)
	}
	const nearly = 0.999999
	round := func(d time.Duration) time.Duration { return d.Round(10 * ms) }

	for kind, want := range map[Failure][]time.Duration{
		FailureOther:     {500 * ms, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second},
		FailureThrottled: {time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second},
		FailurePermanent: {5 * time.Second, 10 * time.Second, 10 * time.Second},
		FailureOverdue:   {500 * ms, time.Second, 2 * time.Second, 2 * time.Second},
		FailureLost:      {minProbe, minProbe, 2 * time.Second, 2 * time.Second},
		FailureDied:      {500 * ms, time.Second, 2 * time.Second, 4 * time.Second, aliveBackoff, aliveBackoff},
		Failure(99):      {500 * ms, time.Second},
	} {
		s, now := waiting(nearly), epoch
		for i, w := range want {
			d := delay(s, kind, now)
			if round(d) != w {
				t.Errorf("kind %d: backoff %d is %v, want %v", kind, i, d, w)
			}
			if again := delay(s, kind, now.Add(d/2)); round(again) != round(d-d/2) {
				t.Errorf("kind %d: a failure during backoff %d changed it", kind, i)
			}
			now = now.Add(d)
		}
	}

	t.Run("never vanishes", func(t *testing.T) {
		s, now := waiting(0), epoch
		for range 10 {
			d := delay(s, FailureOther, now)
			if d < minBackoff {
				t.Errorf("backoff is %v", d)
			}
			now = now.Add(d)
		}
	})
	t.Run("forgets when it is calm", func(t *testing.T) {
		s, now := waiting(nearly), epoch
		for range 10 {
			now = now.Add(delay(s, FailureOther, now))
		}
		s.Started(time.Second, now)
		s.Proved()
		if d := delay(s, FailureOther, now.Add(calm)); round(d) != 500*ms {
			t.Errorf("backoff is %v", d)
		}
	})
	t.Run("is short once it works again", func(t *testing.T) {
		s, now := waiting(nearly), epoch
		for range 12 {
			now = now.Add(delay(s, FailureOther, now))
		}
		s.Started(time.Second, now)
		s.Proved()
		if d := delay(s, FailureOther, now); d > aliveBackoff {
			t.Errorf("backoff is %v", d)
		}
	})
	t.Run("stays short while starts work", func(t *testing.T) {
		s, now := waiting(nearly), epoch
		for range 50 {
			if d := delay(s, FailureOther, now); d > aliveBackoff {
				t.Fatalf("backoff is %v", d)
			}
			now = now.Add(time.Second)
			s.Started(time.Second, now)
			s.Proved()
			if d := s.Decide(Fleet{Ready: 1}, now); d.Start == 0 {
				t.Fatal("success did not end the backoff")
			}
		}
	})
}

// TestThrottledWhileOthersSucceed: that an instance which was invoked before
// becomes ready does not mean that Lambda has room again.
func TestThrottledWhileOthersSucceed(t *testing.T) {
	s := waiting(0.999999)
	s.Decide(Fleet{}, epoch)
	s.Failed(FailureThrottled, epoch)
	s.Started(500*ms, epoch.Add(500*ms))
	if d := s.Decide(Fleet{Ready: 1}, epoch.Add(500*ms)); d.Start != 0 || d.Wake.IsZero() {
		t.Errorf("decision is %+v", d)
	}
	if d := s.Decide(Fleet{Ready: 1}, epoch.Add(time.Second)); d.Start == 0 {
		t.Error("backoff does not end")
	}
}

// TestRecovery: however long the function was broken, once it works again the
// pool soon does too.
func TestRecovery(t *testing.T) {
	for _, kind := range []Failure{FailureOther, FailureThrottled, FailurePermanent} {
		m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5}, 2*time.Second)
		broken := true
		m.fails = func() (Failure, time.Duration, bool) { return kind, 300 * ms, broken }
		m.poisson(time.Hour, steady(100), fixed(100*ms))
		m.runFor(30 * time.Minute)
		if m.served > 0 || m.rejected == 0 {
			t.Fatalf("%d served, %d rejected by a broken function", m.served, m.rejected)
		}
		tries := len(m.startedAt)
		broken = false
		repaired := m.now
		for m.served == 0 && m.now.Sub(repaired) < 5*time.Minute {
			m.runFor(time.Second)
		}
		took := m.now.Sub(repaired)
		rejected := m.rejected
		m.runFor(10 * time.Minute)
		t.Logf("kind %d: %d starts in 30 min; served again %v after the repair", kind, tries, took)
		if took > backoffs[kind].most+5*time.Second || m.rejected != rejected || m.fleet().Ready < 2 {
			t.Errorf("kind %d: served again after %v, %d rejected since, fleet %+v", kind, took, m.rejected-rejected, m.fleet())
		}
	}
}

// TestReadyIsNoSuccess: instances that become ready and then fail open the
// breaker as others do; one that has proved itself closes it.
func TestReadyIsNoSuccess(t *testing.T) {
	s, now := waiting(0.5), epoch
	loop := func(proved bool) (blocked bool) {
		for {
			d := s.Decide(Fleet{}, now)
			if d.Start > 0 {
				break
			}
			now = d.Wake
		}
		now = now.Add(100 * ms)
		s.Started(100*ms, now)
		if proved {
			s.Proved()
		}
		s.Failed(FailureOther, now)
		s.Decide(Fleet{}, now)
		blocked, _ = s.Blocked(now)
		return blocked
	}
	for round := range breakerRounds {
		if got := loop(false); got != (round+1 == breakerRounds) {
			t.Errorf("blocked is %v after round %d", got, round+1)
		}
	}
	for range 10 {
		if loop(true) {
			t.Error("blocked although an instance proved itself")
		}
	}
}

// TestOverdueIsReplacedOneByOne: an overdue start is no capacity, but it may
// only be slow, so that not everything is started once more.
func TestOverdueIsReplacedOneByOne(t *testing.T) {
	s, now := waiting(0.5), epoch
	n := s.Decide(Fleet{}, now).Start
	now = now.Add(s.Overdue())
	for range n {
		s.Failed(FailureOverdue, now)
	}
	f := Fleet{Overdue: n}
	d := s.Decide(f, now)
	if d.Start != 0 || d.Wake.Sub(now) > time.Second {
		t.Fatalf("decision is %+v", d)
	}
	now = d.Wake
	if d = s.Decide(f, now); d.Start != 1 {
		t.Fatalf("%d are started for %d that are overdue", d.Start, n)
	}
	f.Starting = 1
	if d = s.Decide(f, now.Add(time.Second)); d.Start != 0 {
		t.Fatalf("%d more are started at once", d.Start)
	}
	for range 10 {
		now = now.Add(10 * time.Second)
		s.Failed(FailureOverdue, now)
		if blocked, _ := s.Blocked(now); blocked {
			t.Fatal("overdue instances alone opened the breaker")
		}
	}
	s.Failed(FailureLost, now)
	s.Decide(Fleet{Overdue: n}, now)
	if blocked, _ := s.Blocked(now); !blocked {
		t.Error("not blocked although instances are lost")
	}
	s.Started(now.Sub(epoch), now)
	s.Proved()
	if d = s.Decide(Fleet{Ready: 1, Overdue: n - 1}, now); d.Start != n-1 {
		t.Errorf("%d are started once it works, want %d", d.Start, n-1)
	}
}

// TestBackoffIsSpread: routers that fail together do not try again together.
func TestBackoffIsSpread(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var least, most time.Duration = math.MaxInt64, 0
	seen := make(map[time.Duration]bool)
	for range 1000 {
		s := New(Config{}, epoch, rnd.Float64)
		for range 8 {
			s.Failed(FailureOther, s.limiter.until)
		}
		d := s.limiter.until.Sub(s.limiter.failedAt)
		least, most = min(least, d), max(most, d)
		seen[d.Round(time.Second)] = true
	}
	t.Logf("from %v to %v", least, most)
	if len(seen) < 9 || most > 10*time.Second || least < minProbe {
		t.Errorf("backoffs from %v to %v, %d different seconds", least, most, len(seen))
	}
}
