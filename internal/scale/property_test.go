package scale

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPoolsStaySane plays random pools with random load, failures, deaths and
// short lives. The simulator checks every decision; in the end every request
// has been answered and the pool is back at its minimum.
func TestPoolsStaySane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.SampledFrom([]int{1, 2, 10, 100}).Draw(t, "max")
		cfg := Config{
			MaxConcurrent: rapid.IntRange(1, 20).Draw(t, "max concurrent"),
			MaxInstances:  most,
			MinInstances:  rapid.IntRange(0, min(most, 5)).Draw(t, "min"),
			IdleTimeout:   rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second, time.Minute}).Draw(t, "idle timeout"),
		}
		cfg.TargetConcurrent = rapid.IntRange(1, cfg.MaxConcurrent).Draw(t, "target")
		seed := rapid.Uint64().Draw(t, "seed")
		mean := rapid.SampledFrom([]time.Duration{0, 20 * ms, time.Second, 8 * time.Second}).Draw(t, "start")
		m := newSim(t, cfg, mean)
		m.rnd = rand.New(rand.NewPCG(seed, 3))
		m.s.rand = m.rnd.Float64
		m.startTime = func() time.Duration { return time.Duration((0.5 + m.rnd.Float64()) * float64(mean)) }
		m.life = rapid.SampledFrom([]time.Duration{0, 20 * time.Second, time.Minute}).Draw(t, "life")

		part := rapid.SampledFrom([]float64{0, 0, 0.1, 0.5})
		failing, dying := part.Draw(t, "failing"), part.Draw(t, "dying")
		quiet := false
		m.fails = func() (Failure, time.Duration, bool) {
			return Failure(m.rnd.IntN(3)), time.Duration(m.rnd.ExpFloat64() * float64(time.Second)), !quiet && m.rnd.Float64() < failing
		}
		m.dies = func() (time.Duration, bool) {
			return time.Duration(m.rnd.ExpFloat64() * float64(10*time.Second)), !quiet && m.rnd.Float64() < dying
		}
		for range rapid.IntRange(1, 4).Draw(t, "phases") {
			rate := rapid.SampledFrom([]float64{0.2, 5, 50}).Draw(t, "rate")
			service := m.exponential(rapid.SampledFrom([]time.Duration{ms, 50 * ms, time.Second}).Draw(t, "service"))
			m.poisson(20*time.Second, steady(rate), service)
			m.burst(rapid.SampledFrom([]int{0, 1, 200}).Draw(t, "burst"), 50*ms)
			m.runFor(rapid.SampledFrom([]time.Duration{20 * time.Second, 2 * time.Minute}).Draw(t, "then"))
			if rapid.Bool().Draw(t, "reconfigure") {
				m.cfg.MinInstances = rapid.IntRange(0, min(most, 5)).Draw(t, "new min")
				m.s.Configure(m.cfg, m.now)
				m.after(0, m.decide)
			}
		}
		quiet = true
		for n := 0; n < 3*60 && len(m.queue)+m.inFlight > 0; n++ { // one slot may take hours
			m.runFor(time.Minute)
		}
		m.runFor(5 * time.Minute)
		if len(m.queue) > 0 || m.inFlight > 0 || m.served+m.rejected+m.cut != m.arrived {
			t.Fatalf("%d arrived, %d served, %d rejected, %d cut, %d queued, %d in flight",
				m.arrived, m.served, m.rejected, m.cut, len(m.queue), m.inFlight)
		}
		if n := m.fleet().live(); n < m.cfg.MinInstances || n > m.cfg.MinInstances && m.life == 0 {
			t.Fatalf("%+v in the end, want %d", m.fleet(), m.cfg.MinInstances)
		}
		if n := excess(cfg, since(m.startedAt)); n > 0 {
			t.Fatalf("%d starts above the bound", n)
		}
	})
}

func since(times []time.Time) []time.Duration {
	var ds []time.Duration
	for _, at := range times {
		ds = append(ds, at.Sub(epoch))
	}
	return ds
}

// TestDecideAlwaysInRange feeds fleets and loads that need not make sense.
func TestDecideAlwaysInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			MaxConcurrent:    rapid.IntRange(-1, 50).Draw(t, "max concurrent"),
			TargetConcurrent: rapid.IntRange(-1, 60).Draw(t, "target"),
			MinInstances:     rapid.IntRange(-1, 20).Draw(t, "min"),
			MaxInstances:     rapid.IntRange(-1, 50).Draw(t, "max"),
		}
		now := epoch
		s := New(cfg, now, func() float64 { return 0.5 })
		c := cfg.withDefaults()
		count := rapid.SampledFrom([]int{0, 0, 1, 2, 7, 40, 1000})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{-time.Second, 0, 1, ms, time.Second, time.Hour}).Draw(t, "dt"))
			l := Load{InFlight: count.Draw(t, "in flight"), Queued: count.Draw(t, "queued")}
			s.Observe(l, now)
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0:
				s.Started(time.Duration(rapid.Int64().Draw(t, "took")), now)
			case 1:
				s.Failed(Failure(rapid.IntRange(0, 2).Draw(t, "kind")), now)
			case 2:
				s.Served(time.Duration(rapid.Int64().Draw(t, "service")))
			}
			f := Fleet{Starting: count.Draw(t, "starting"), Ready: count.Draw(t, "ready"), Draining: count.Draw(t, "draining")}
			f.Expiring = rapid.IntRange(0, f.Ready).Draw(t, "expiring")
			d := s.Decide(f, now)
			switch {
			case d.Start < 0 || d.Release < 0 || d.Release > f.Ready || d.Start > 0 && d.Release > 0,
				d.Start > 0 && f.live()+d.Start > c.MaxInstances,
				d.Start > 0 && f.total()+d.Start > 2*c.MaxInstances+overlap,
				d.Release > 0 && (l.Queued > 0 || f.Ready-d.Release < c.MinInstances),
				!d.Wake.IsZero() && !d.Wake.After(now):
				t.Fatalf("%+v for %+v, %+v", d, f, l)
			}
			f.Starting += d.Start
			f.Ready -= d.Release
			f.Expiring = max(0, f.Expiring-d.Release)
			if d.Release == 0 { // which ones the caller lets go is its choice
				if again := s.Decide(f, now); again.Start != 0 {
					t.Fatalf("asked again for %+v: %+v", f, again)
				}
			}
		}
	})
}

// TestAverageIsTimeWeighted compares the averages with the integral that they
// stand for.
func TestAverageIsTimeWeighted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d demand
		d.reset(epoch)
		d.setWindow(time.Duration(rapid.IntRange(0, 20).Draw(t, "start")) * time.Second)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 5))
		tau := d.window.Seconds() / 2
		var want float64
		now, n := epoch, 0
		for range 2000 {
			dt := time.Duration(rnd.ExpFloat64() * float64(5*ms))
			k := math.Exp(-dt.Seconds() / tau)
			want = want*k + float64(n)*(1-k)
			now = now.Add(dt)
			n = rnd.IntN(100)
			d.observe(Load{InFlight: n}, now)
		}
		d.fold(now)
		if math.Abs(d.short-want) > 2 {
			t.Fatalf("average is %v, want %v", d.short, want)
		}
	})
}

func TestPeaks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const window = 9 * time.Second
		var p peaks
		p.setWindow(window)
		type noted struct {
			at time.Time
			n  int
		}
		var all []noted
		now := epoch
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * ms)
			n := rapid.IntRange(0, 100).Draw(t, "n")
			p.note(n, now)
			all = append(all, noted{now, n})
			// Something is remembered for the window at least, and for a tenth longer at most.
			least, most := 0, 0
			for _, x := range all {
				if now.Sub(x.at) < window {
					least = max(least, x.n)
				}
				if now.Sub(x.at) <= window+window/9 {
					most = max(most, x.n)
				}
			}
			if got := p.max(); got < least || got > most {
				t.Fatalf("peak is %d, want %d..%d", got, least, most)
			}
		}
	})
}
