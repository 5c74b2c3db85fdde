package pool

import (
	"context"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/dispatch"
)

// Lease is one request's claim on a slot: first its place in the queue, then
// the slot itself, on one instance after another if it has to be tried again.
// A lease is used by one goroutine. Every lease that [Pool.Enter] returned
// must be released.
type Lease struct {
	pool    *Pool
	waiter  dispatch.Waiter
	granted chan struct{} // receives once for each time the waiter was queued
	// queuedAt is when it began to wait for the slot that it has or waits for.
	queuedAt time.Time

	// in and err are written under pool.mu before granted receives, and by the
	// lease's own goroutine.
	in  *instance
	err error

	since    time.Time // when the slot was got
	waited   time.Duration
	attempts int
	seen     int    // attempts that the app may have seen
	failures int    // those of them whose instances went on
	sentTo   string // the instance of the last attempt
	queued   bool
	body     []byte // what KeepBody was given
	kept     bool
}

// Enter asks for a slot and returns at once. If [Lease.Queued] is true the
// caller must [Lease.Wait] before it may use the lease. The error is one of
// this package's: [ErrQueueFull], [ErrClosed] or an [*UnavailableError].
func (p *Pool) Enter() (*Lease, error) {
	l := &Lease{pool: p, queuedAt: time.Now()}
	l.waiter.Owner = l
	l.since = l.queuedAt

	p.mu.Lock()
	if p.set == nil || p.phase == phaseClosed {
		p.mu.Unlock()
		p.metrics.Rejected(RejectedClosed)
		return nil, ErrClosed
	}
	if err := p.unavailable(l.queuedAt); err != nil {
		p.mu.Unlock()
		p.metrics.Rejected(RejectedUnavailable)
		return nil, err
	}
	slot, err := p.disp.Acquire(&l.waiter, l.queuedAt)
	if err != nil {
		p.refused(l.queuedAt)
		p.mu.Unlock()
		p.wake()
		p.metrics.Rejected(RejectedFull)
		return nil, ErrQueueFull
	}
	if slot == nil {
		l.queued = true
		l.granted = make(chan struct{}, 1)
	} else {
		l.in = slot.Owner.(*instance)
	}
	p.observe(l.queuedAt)
	p.mu.Unlock()

	if l.queued {
		p.wake() // nobody may be there to serve it yet
		return l, nil
	}
	p.metrics.Waited(0)
	return l, nil
}

// grant hands a slot to a queued lease. It is called by the dispatcher, under
// the pool's mutex.
func grant(w *dispatch.Waiter, slot *dispatch.Instance) {
	l := w.Owner.(*Lease)
	l.in = slot.Owner.(*instance)
	l.granted <- struct{}{}
}

// Queued reports whether the lease waits for a slot.
func (l *Lease) Queued() bool { return l.queued }

// Wait blocks until the lease has a slot. On an error it has none and needs no
// release: ctx's error if the client went away, [ErrQueueTimeout],
// [ErrClosed], or an [*UnavailableError] if the function turned out not to
// start.
func (l *Lease) Wait(ctx context.Context) error {
	if !l.queued {
		return nil
	}
	p := l.pool
	p.mu.Lock()
	timeout := p.set.QueueTimeout
	p.mu.Unlock()
	var expired <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout - l.waited - time.Since(l.queuedAt))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-l.granted:
		// Both can be true at once, and a client that left needs no slot.
		if ctx.Err() != nil && l.err == nil {
			return l.abandon(RejectedClientGone, ctx.Err())
		}
	case <-ctx.Done():
		return l.abandon(RejectedClientGone, ctx.Err())
	case <-expired:
		select {
		case <-l.granted: // both were true, and a slot is what was waited for
		default:
			return l.abandon(RejectedTimeout, ErrQueueTimeout)
		}
	}
	l.queued = false
	now := time.Now()
	l.since = now
	l.waited += now.Sub(l.queuedAt)
	if l.err != nil {
		if l.err == ErrClosed { //nolint:errorlint // set by this package, never wrapped
			p.metrics.Rejected(RejectedClosed)
		} else {
			p.metrics.Rejected(RejectedUnavailable)
		}
		return l.err
	}
	if l.attempts == 0 {
		p.metrics.Waited(l.waited)
	}
	return nil
}

// abandon takes the lease out of the queue. If a slot came at the same moment
// it is given back, so that it serves the next in line.
func (l *Lease) abandon(why Rejection, err error) error {
	p := l.pool
	now := time.Now()
	l.waited += now.Sub(l.queuedAt)
	p.mu.Lock()
	l.queued = false
	if !p.disp.Cancel(&l.waiter) && l.in != nil {
		p.free(l.in, now)
		l.in = nil
	}
	p.observe(now)
	p.settle()
	p.mu.Unlock()
	p.metrics.Rejected(why)
	return err
}

// Release gives the slot back; a lease that still waits leaves the queue. It
// may be called more than once.
func (l *Lease) Release() {
	if l.queued {
		_ = l.abandon(RejectedClientGone, nil)
		return
	}
	if l.in == nil {
		return
	}
	p := l.pool
	now := time.Now()
	p.mu.Lock()
	l.in.requests++
	p.free(l.in, now)
	l.in = nil
	p.scaler.Served(now.Sub(l.since))
	p.observe(now)
	p.settle()
	p.mu.Unlock()
}

// free gives back one slot of the instance. Callers hold p.mu.
func (p *Pool) free(in *instance, now time.Time) {
	p.disp.Release(&in.slots, now)
	if in.state == StateDraining && in.slots.InFlight() == 0 {
		in.becameIdle()
	}
}

// failWaiters ends every wait with the error. Callers hold p.mu.
func (p *Pool) failWaiters(err error) {
	for w := p.disp.PopWaiter(); w != nil; w = p.disp.PopWaiter() {
		l := w.Owner.(*Lease)
		l.in, l.err = nil, err
		l.granted <- struct{}{}
	}
}

// Pool returns the pool that the lease belongs to.
func (l *Lease) Pool() *Pool { return l.pool }

// Instance returns the ID of the instance that the request was last sent to, or
// "" if it was sent to none.
func (l *Lease) Instance() string { return l.sentTo }

// Waited returns how long the request was in the queue.
func (l *Lease) Waited() time.Duration { return l.waited }

// Attempts returns how many instances the request was sent to.
func (l *Lease) Attempts() int { return l.attempts }
