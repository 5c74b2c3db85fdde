package pool

import "time"

// replans is how often in its life the end of an instance is planned anew: the
// requests that it must wait for may have been met since it became ready.
const replans = 20

// ending takes an instance to the end of its life: first its replacement is
// started, then it gets no more requests, then those that would go on for ever
// are told. It belongs to the instance's goroutine.
type ending struct {
	in      *instance
	spread  float64   // see scale.Scaler.Retire
	drainAt time.Time // zero until the replacement is due
	endAt   time.Time // zero until it drains
}

// step does what is due, and returns how long until the next step; 0 if there is
// none.
func (e *ending) step(now time.Time) time.Duration {
	if e.drainAt.IsZero() {
		return e.plan(now)
	}
	if wait := e.drainAt.Sub(now); wait > 0 {
		return wait
	}
	if e.endAt.IsZero() {
		e.in.retire(drainDeadline)
		e.in.pool.mu.Lock()
		e.endAt = endsAt(e.drainAt, e.in.until())
		e.in.pool.mu.Unlock()
	}
	if wait := e.endAt.Sub(now); wait > 0 { // for upgraded connections
		return wait
	}
	e.in.end()
	return 0
}

// plan waits for the time when the replacement is due.
func (e *ending) plan(now time.Time) time.Duration {
	in := e.in
	in.pool.mu.Lock()
	replaceAt, drainAt := in.pool.scaler.Retire(in.startedAt, in.deadline, e.spread)
	until := in.until()
	in.pool.mu.Unlock()
	if wait := replaceAt.Sub(now); wait > 0 {
		return min(wait, max(until.Sub(in.startedAt)/replans, time.Millisecond))
	}
	// It may be later than it should be, if long requests have just been met.
	// The replacement gets its time all the same, as far as there is any.
	drainAt = later(drainAt, sooner(now.Add(drainAt.Sub(replaceAt)), until.Add(-until.Sub(drainAt)/4)))
	e.drainAt = later(drainAt, now.Add(1))
	in.expire()
	return e.drainAt.Sub(now)
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
