// Package scale decides how many instances a pool has: load goes in, the number
// of instances to start or to let go comes out.
//
// It only counts and estimates: it must not do I/O, start a goroutine, read a
// clock or take a lock, so that the live router and a simulator run the very
// same code. Times are passed in, and so is the source of random numbers.
// Nothing in it is safe for concurrent use; the caller's mutex guards a
// [Scaler].
package scale

import (
	"math"
	"time"
)

const (
	// busyTick is how often the load is looked at while there is any: requests
	// that find a free slot wake nobody, and yet they may be too many.
	busyTick = 250 * time.Millisecond
	// idleTick is the same while instances wait for load.
	idleTick = time.Second

	// scaleDownDelay is for how long demand must have been lower before an
	// instance is let go: shorter dips are not worth another cold start.
	scaleDownDelay = 30 * time.Second
	// releaseEvery is the time between two steps down.
	releaseEvery = time.Second
	// releasePart is the part of the ready instances that go in one step. A
	// wrong step is noticed before it has done much harm.
	releasePart = 0.1

	// roundingSlack, in instances, is how much demand may lie above a whole
	// number of instances before it takes one more: averages are never exact.
	roundingSlack = 0.05
	// hysteresis is the part of demand that an instance must be unneeded by
	// before it is let go, so that load on the edge does not make it come and go.
	hysteresis = 0.02
	// overlap is how many more instances than twice the maximum may exist,
	// those included that are on their way out: some room for a small maximum.
	overlap = 8
)

// Defaults of a [Config].
const (
	DefaultMaxConcurrent   = 10
	DefaultMaxInstances    = 100
	DefaultIdleTimeout     = time.Minute
	DefaultStartsPerMinute = 600 // 10 a second; Lambda itself allows 100 a second for one function
	DefaultStartBurst      = 100 // as many as there are instances by default, so that a cold pool fills at once
)

// Config holds the limits and targets of a [Scaler]. A zero or negative field
// has its default.
type Config struct {
	// MaxConcurrent is the most requests at once on one instance. Default 10.
	MaxConcurrent int
	// TargetConcurrent is how many requests an instance should have at once,
	// at most MaxConcurrent. Default is half of that, rounded up.
	TargetConcurrent int
	// MinInstances are kept even without load. Default 0, at most MaxInstances.
	MinInstances int
	// MaxInstances is the most instances that take requests at once. Instances
	// that are due for replacement or draining come on top: their replacements
	// start before they have gone. There are never more than twice
	// MaxInstances and a few. Default 100.
	MaxInstances int
	// IdleTimeout is for how long instances above MinInstances are kept without
	// any load. Default 1 min.
	IdleTimeout time.Duration
	// StartsPerMinute is how many instances may be started per minute, over and
	// above a burst. Default 600.
	StartsPerMinute int
	// StartBurst is how many instances may be started at once after a quiet
	// time. Default 100.
	StartBurst int
}

// withDefaults returns the configuration that is really in force.
func (c Config) withDefaults() Config {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.MaxConcurrent, DefaultMaxConcurrent)
	set(&c.TargetConcurrent, (c.MaxConcurrent+1)/2)
	set(&c.MaxInstances, DefaultMaxInstances)
	set(&c.StartsPerMinute, DefaultStartsPerMinute)
	set(&c.StartBurst, DefaultStartBurst)
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	c.TargetConcurrent = min(c.TargetConcurrent, c.MaxConcurrent)
	c.MinInstances = min(max(c.MinInstances, 0), c.MaxInstances)
	return c
}

// Load is what the requests of a pool are doing.
type Load struct {
	InFlight int // have a slot
	Queued   int // wait for one
}

// Fleet counts the instances of a pool by what they are good for.
type Fleet struct {
	Starting int // invoked, not ready yet; they count as capacity
	Overdue  int // the same, but for longer than [Scaler.Overdue]; not capacity
	Ready    int // take requests
	Expiring int // of Ready, those whose replacement is due; not capacity
	Draining int // take no requests any more; not capacity
}

// live is how many instances will take requests for a while yet.
func (f Fleet) live() int { return f.Starting + f.lasting() }

// lasting is how many of the ready instances need no replacement.
func (f Fleet) lasting() int { return max(f.Ready-f.Expiring, 0) }

func (f Fleet) total() int { return f.Starting + f.Overdue + f.Ready + f.Draining }

// Decision is what to do now. The caller does it before it asks again.
type Decision struct {
	Start   int // instances to start
	Release int // ready instances to let go; never both this and Start
	// Wake is the latest time at which to ask again; zero means that only an
	// event can change anything.
	Wake time.Time
}

// Scaler decides how many instances a pool has. Use [New].
type Scaler struct {
	cfg      Config
	demand   demand
	starts   startTimes
	services serviceTimes
	limiter  limiter
	hold     peaks
	rand     func() float64

	released time.Time // when the last step down was
	desired  int
}

// New returns a Scaler for a pool without instances or load. rand returns
// random numbers in [0,1), for jitter.
func New(cfg Config, now time.Time, rand func() float64) *Scaler {
	s := &Scaler{rand: rand}
	s.cfg = cfg.withDefaults()
	s.demand.reset(now)
	s.limiter.reset(s.cfg, now)
	s.configure()
	s.desired = s.cfg.MinInstances
	return s
}

// Configure replaces the configuration. What has been learnt stays, and so do
// backoff and breaker.
func (s *Scaler) Configure(cfg Config, now time.Time) {
	s.cfg = cfg.withDefaults()
	s.limiter.configure(s.cfg, now)
	s.configure()
}

func (s *Scaler) configure() {
	s.hold.setWindow(min(scaleDownDelay, s.cfg.IdleTimeout))
	s.services.setClock(&s.demand.last)
}

// Observe tells the load whenever it changes. Rises and falls of the sum are
// taken for arrivals and departures.
func (s *Scaler) Observe(l Load, now time.Time) { s.demand.observe(l, now) }

// Served tells that a request took d on its instance.
func (s *Scaler) Served(d time.Duration) { s.services.add(d) }

// Started tells that an instance became ready, took after it was started. It
// ends the backoff, unless that is for throttling. Only [Scaler.Proved] closes
// the breaker.
func (s *Scaler) Started(took time.Duration, now time.Time) {
	s.starts.add(took, now)
	s.demand.setWindow(s.starts.typical())
	s.limiter.ready(now)
}

// Proved tells that an instance does what it was started for: it has answered a
// request, or has been ready for [ProvingTime]. It is told once for each instance.
func (s *Scaler) Proved() { s.limiter.proved() }

// Overdue is how long after its invocation an instance that is not ready yet
// is no capacity to count on any more. It may still become ready.
func (s *Scaler) Overdue() time.Duration { return s.starts.overdue() }

// Lost is how long after its invocation an instance that is not ready is not
// even counted any more, for nothing is known of it. It may still become ready.
func (s *Scaler) Lost() time.Duration { return s.starts.lost() }

// Died tells that an instance has ended, by nobody's wish, that had answered
// requests, whether that is a failure or not: for a while after it, Blocked
// reports true only if Lambda itself refuses to start instances.
func (s *Scaler) Died(now time.Time) { s.limiter.died(now) }

// Failed tells that an invocation failed, whether its instance had become ready
// or not, or that one has not called back in time.
func (s *Scaler) Failed(kind Failure, now time.Time) { s.limiter.failed(kind, now, s.rand()) }

// Starting tells how many instances are starting and not overdue. Decide is
// told anyway; this is for what is asked of Blocked before that.
func (s *Scaler) Starting(n int) { s.limiter.fleet(n) }

// Desired returns how many instances the last decision aimed at.
func (s *Scaler) Desired() int { return s.desired }

// Blocked reports whether starting instances has failed so often, or so
// finally, that requests without a ready instance should fail at once. until is
// when the next attempt is due.
//
// It reports false for a while after an instance has died that had answered
// requests, unless the last failure was permanent: then the function has just
// been seen to work, and what waits gets the outcome of the next attempts.
//
// It reports false again once an instance has become ready; if that one fails
// before it has proved itself, true. It also reports false from the time until
// on, as long as no attempt is being made: nothing but a request that waits
// causes one. Right after the decision to make it, requests fail at once again,
// until its outcome is known.
func (s *Scaler) Blocked(now time.Time) (blocked bool, until time.Time) {
	return s.limiter.blocked(now)
}

// Decide returns what to do, given the instances that there are.
//
// It aims at ceil(demand ÷ TargetConcurrent) instances, within the limits.
// Demand is the requests in flight, averaged, and of the queue what will still
// wait when an instance that is started now becomes ready; short requests in
// the queue count less than one each, for they can share a slot one after
// another, and have all slots for it, not only those up to the target. More instances are started at once, fewer are kept only after
// demand has been lower for half a minute, and then step by step; never while
// requests wait. A pool that was used within the idle timeout keeps one.
func (s *Scaler) Decide(f Fleet, now time.Time) Decision {
	s.demand.fold(now)
	load := s.demand.load
	idle := s.demand.idleFor(now)
	want, keep := s.cfg.MinInstances, s.cfg.MinInstances
	if idle < s.cfg.IdleTimeout {
		need := s.demand.inFlight() + s.queueDemand(f)
		want = s.instances(need, f)
		s.hold.note(s.instances(need*(1+hysteresis), f), now)
		keep = min(max(want, s.hold.max()), s.cfg.MaxInstances)
	}

	var d Decision
	s.limiter.fleet(f.Starting)
	if missing := min(want-f.live(), 2*s.cfg.MaxInstances+overlap-f.total()); missing > 0 {
		d.Start, d.Wake = s.limiter.take(missing, f.Starting, now)
	} else if load.Queued == 0 {
		d.Release = s.surplus(f, keep, idle, now)
	}
	s.desired = max(want, min(keep, f.live()))

	switch {
	case load.InFlight+load.Queued > 0:
		d.Wake = sooner(d.Wake, now.Add(busyTick))
	case f.Ready > d.Release:
		d.Wake = sooner(d.Wake, now.Add(idleTick))
		if left := s.cfg.IdleTimeout - idle; left > 0 {
			d.Wake = sooner(d.Wake, now.Add(left))
		}
	}
	return d
}

// instances is how many of them that many requests at once need.
func (s *Scaler) instances(need float64, f Fleet) int {
	n := need/float64(s.cfg.TargetConcurrent) - roundingSlack
	most := s.cfg.MaxInstances
	k := int(math.Ceil(min(n, float64(most))))
	// Averages fade and short requests round down, but a request that is there
	// needs an instance, and a pool that was used lately keeps its last one.
	if s.demand.load.InFlight+s.demand.load.Queued > 0 || f.Starting+f.Ready > 0 {
		k = max(k, 1)
	}
	return min(max(k, s.cfg.MinInstances), most)
}

// surplus is how many ready instances to let go now.
func (s *Scaler) surplus(f Fleet, keep int, idle time.Duration, now time.Time) int {
	if idle >= s.cfg.IdleTimeout {
		if f.Starting > 0 && keep > 0 {
			return 0 // it is not known yet which ones can be spared
		}
		return max(f.Ready-keep, 0)
	}
	if f.Starting == 0 && s.demand.load.InFlight == 0 {
		// These have been replaced and have nothing to do.
		if n := min(f.Expiring, f.Ready-keep); n > 0 {
			s.released = now
			return n
		}
	}
	n := f.lasting() - keep
	if n <= 0 || now.Sub(s.released) < releaseEvery {
		return 0
	}
	s.released = now
	return min(n, int(math.Ceil(releasePart*float64(f.lasting()))))
}

// sooner returns the earlier of two times, where zero means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
