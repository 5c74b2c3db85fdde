package scale

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// hostile is a world that does its worst: there is always more demand than the
// pool can serve, instances fail, die, vanish and succeed in any order, the
// caller asks all the time, and the random source that is meant to spread
// things out may be stuck.
type hostile struct {
	cfg      Config
	seed     uint64
	succeeds float64 // the part of starts that become ready
	proves   float64 // the part of those that prove themselves
	dies     float64 // the part of those that became ready that die
	vanishes float64 // the part of the rest that end without a word
	kinds    [6]float64
	outcome  time.Duration // the mean time until a start's outcome
	silence  time.Duration // and what comes before that at least
	lives    time.Duration // the mean life of one that dies
	jitter   float64       // what the random source returns; negative is random
	together bool          // everything happens in bursts
}

// play returns the times of all starts in d.
func (h hostile) play(d time.Duration) []time.Duration {
	rnd := rand.New(rand.NewPCG(h.seed, 1))
	s := New(h.cfg, epoch, func() float64 {
		if h.jitter < 0 {
			return rnd.Float64()
		}
		return h.jitter
	})
	type due struct {
		at    time.Duration
		ready bool // of an instance that is, else of one that is starting
	}
	var starts []time.Duration
	var pending []due
	var f Fleet
	s.Observe(Load{Queued: 1 << 20}, epoch)
	later := func(now, mean time.Duration) time.Duration {
		if h.together {
			return now + mean
		}
		return now + time.Duration(rnd.ExpFloat64()*float64(mean))
	}
	fail := func(at time.Time) {
		x := rnd.Float64() * (h.kinds[0] + h.kinds[1] + h.kinds[2] + h.kinds[3] + h.kinds[4] + h.kinds[5] + 1e-9)
		k := FailureOther
		for x >= h.kinds[k] && k < FailureDied {
			x -= h.kinds[k]
			k++
		}
		s.Failed(k, at)
	}
	for now := time.Duration(0); now < d; {
		at := epoch.Add(now)
		decision := s.Decide(f, at)
		for range decision.Start {
			starts = append(starts, now)
			f.Starting++
			pending = append(pending, due{later(now+h.silence, h.outcome), false})
		}
		next := now + time.Duration(rnd.Int64N(int64(20*time.Second)))
		if !decision.Wake.IsZero() {
			next = min(next, decision.Wake.Sub(epoch))
		}
		for _, p := range pending {
			next = min(next, max(p.at, now+1))
		}
		now = next
		at = epoch.Add(now)
		kept := pending[:0]
		var more []due
		for _, p := range pending {
			switch {
			case p.at > now:
				kept = append(kept, p)
			case p.ready:
				f.Ready--
				fail(at)
			default:
				f.Starting--
				switch {
				case rnd.Float64() < h.succeeds:
					f.Ready++
					s.Started(h.outcome, at)
					if rnd.Float64() < h.proves {
						s.Proved()
					}
					if rnd.Float64() < h.dies {
						more = append(more, due{later(now, h.lives), true})
					} else {
						f.Ready-- // told to go at once, so that there is always a want
					}
				case rnd.Float64() < h.vanishes:
				default:
					fail(at)
				}
			}
		}
		pending = append(kept, more...)
	}
	return starts
}

// excess returns by how many the starts exceed the bound in the worst stretch
// of time, of all that begin and end with a start.
func excess(c Config, starts []time.Duration) int {
	c = c.withDefaults()
	perNS := float64(c.StartsPerMinute) / float64(time.Minute)
	most, least := 0.0, math.Inf(1)
	for i, at := range starts {
		least = min(least, float64(i)-perNS*float64(at))
		most = max(most, float64(i+1)-perNS*float64(at)-least)
	}
	return int(math.Floor(most-1e-3)) - c.StartBurst
}

func hostileWorld(t *rapid.T) hostile {
	part := rapid.SampledFrom([]float64{0, 0.01, 0.1, 0.5, 0.9, 1})
	mean := rapid.SampledFrom([]time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second, 8 * time.Second, 2 * time.Minute})
	return hostile{
		cfg: Config{
			MinInstances:    rapid.SampledFrom([]int{0, 1, 10}).Draw(t, "min"),
			MaxInstances:    rapid.SampledFrom([]int{1, 20, 1000}).Draw(t, "max"),
			StartsPerMinute: rapid.SampledFrom([]int{0, 1, 60}).Draw(t, "rate"),
			StartBurst:      rapid.SampledFrom([]int{0, 1, 20}).Draw(t, "burst"),
		},
		seed:     rapid.Uint64().Draw(t, "seed"),
		succeeds: part.Draw(t, "succeeds"),
		proves:   part.Draw(t, "proves"),
		dies:     part.Draw(t, "dies"),
		vanishes: part.Draw(t, "vanishes"),
		kinds: [6]float64{
			part.Draw(t, "other"), part.Draw(t, "throttled"), part.Draw(t, "permanent"),
			part.Draw(t, "overdue"), part.Draw(t, "lost"), part.Draw(t, "died"),
		},
		outcome:  mean.Draw(t, "outcome"),
		lives:    mean.Draw(t, "lives"),
		jitter:   rapid.SampledFrom([]float64{-1, 0, 0.999}).Draw(t, "jitter"),
		together: rapid.Bool().Draw(t, "together"),
	}
}

// TestStartsAreBounded: no sequence of failures and successes gets more starts
// out of a Scaler than MaxStarts, in any stretch of time.
func TestStartsAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := hostileWorld(t)
		starts := h.play(time.Hour)
		if n := excess(h.cfg, starts); n > 0 {
			t.Fatalf("%d starts, in some stretch of time %d more than the bound", len(starts), n)
		}
		if len(starts) > h.cfg.MaxStarts(time.Hour) {
			t.Fatalf("%d starts in an hour", len(starts))
		}
		if len(starts) == 0 {
			t.Fatal("nothing was ever started")
		}
	})
}

// TestFailingStartsAreFew: while no instance ever becomes ready, attempts soon
// come one at a time, never less than a second apart.
func TestFailingStartsAreFew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := hostileWorld(t)
		h.succeeds, h.vanishes = 0, 0
		h.kinds[FailureDied] = 0 // what never becomes ready has answered nothing
		if h.kinds[FailureOverdue]+h.kinds[FailureLost] > 0 {
			h.silence = overdueLeast // nobody says so of a start any sooner
		}
		starts := h.play(time.Hour)
		// Two rounds of many, which take up to a backoff and an outcome each.
		const few = 3
		c := h.cfg.withDefaults()
		many := min(2*c.MaxInstances, c.MaxStarts(time.Hour))
		if n := len(starts); n > many+few+int(time.Hour/minProbe) {
			t.Fatalf("%d starts in an hour", n)
		}
		for i := many + few; i < len(starts); i++ {
			if d := starts[i] - starts[i-1]; d < minProbe {
				t.Fatalf("attempts %v apart", d)
			}
		}
	})
}

// TestFailureFigures reports how often a pool that wants all its instances is
// started in an hour, in worlds one can imagine.
func TestFailureFigures(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    hostile
		most int
	}{
		{"always crashes after 1 s", hostile{kinds: [6]float64{1}, outcome: time.Second}, 800},
		{"access denied", hostile{kinds: [6]float64{0, 0, 1}, outcome: 50 * ms, together: true}, 900},
		{"always throttled", hostile{kinds: [6]float64{0, 1}, outcome: 50 * ms, together: true}, 1600},
		{"never calls back", hostile{kinds: [6]float64{0, 0, 0, 1}, outcome: 5 * time.Second, together: true}, 800},
		{"dies 1 s after it is ready", hostile{kinds: [6]float64{1}, succeeds: 1, dies: 1, outcome: time.Second, lives: time.Second}, 900},
		{"dies 1 s after it is ready, having answered", hostile{kinds: [6]float64{1}, succeeds: 1, proves: 1, dies: 1, outcome: time.Second, lives: time.Second}, 7000},
		{"dies 1 s after it is ready, having answered, and is said to have", hostile{kinds: [6]float64{5: 1}, succeeds: 1, proves: 1, dies: 1, outcome: time.Second, lives: time.Second}, 7000},
		{"half of the starts fail", hostile{kinds: [6]float64{1}, succeeds: 0.5, proves: 1, outcome: time.Second}, 11000},
		{"one instance that dies 1 s after it is ready", hostile{cfg: Config{MaxInstances: 1}, kinds: [6]float64{1}, succeeds: 1, dies: 1, outcome: time.Second, lives: time.Second}, 600},
		{"healthy", hostile{succeeds: 1, proves: 1, outcome: time.Second}, 36100},
	} {
		tc.h.jitter = -1
		starts := tc.h.play(time.Hour)
		first := 0
		for first < len(starts) && starts[first] < time.Minute {
			first++
		}
		t.Logf("%s: %d starts in the first minute, %d in the hour", tc.name, first, len(starts))
		if len(starts) > tc.most {
			t.Errorf("%s: %d starts in an hour, want at most %d", tc.name, len(starts), tc.most)
		}
	}
}
