package pool

import (
	"context"
	"time"
)

// endingMost is how long before the deadline of its invocation an instance is
// said to be ending, unless there are less than twice as much between its last
// new request and then. It is what is left for the last words of connections
// that would go on for ever.
const endingMost = 5 * time.Second

// resultsMost is how long before the end of [Pool.Close] requests are cut, or
// resultsPart of the time that there is if that is less.
const (
	resultsMost = 4 * time.Second
	resultsPart = 0.8
)

// beforeEnd returns a context that ends before ctx does if that has a deadline.
func beforeEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := time.Duration(float64(time.Until(deadline)) * resultsPart)
	return context.WithDeadline(ctx, deadline.Add(-min(resultsMost, left)))
}

// Ending is closed when the instance that the request was sent to will soon be
// gone: its deadline is near, or its adapter has said so. Who speaks a protocol
// with last words should say them, and be done before [Lease.Deadline]. It is
// for after a successful [Lease.RoundTrip].
func (l *Lease) Ending() <-chan struct{} { return l.in.ending }

// Deadline is when what runs on the instance that the request was sent to is
// cut. It is for after a successful [Lease.RoundTrip].
func (l *Lease) Deadline() time.Time {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	return l.in.until()
}

// Ending is closed when the pool begins to end, because of [Pool.Quiesce] or
// [Pool.Close]: what would go on for ever should come to its end. Requests are
// still served.
func (p *Pool) Ending() <-chan struct{} { return p.ending }

// end closes Ending, once. Callers hold p.mu.
func (p *Pool) end() {
	select {
	case <-p.ending:
	default:
		close(p.ending)
	}
}

// until returns the deadline of the instance, or the latest that it can have if
// its adapter has not said. Callers hold p.mu.
func (in *instance) until() time.Time {
	if in.deadline.IsZero() {
		return in.startedAt.Add(maxInvocation)
	}
	return in.deadline
}

// endsAt returns when to tell the requests on an instance that it is ending.
func endsAt(drainAt, deadline time.Time) time.Time {
	return deadline.Add(-min(endingMost, deadline.Sub(drainAt)/2))
}

// end tells the requests on the instance that it is ending. It is for the
// instance's own goroutine.
func (in *instance) end() {
	select {
	case <-in.ending:
	default:
		close(in.ending)
	}
}
