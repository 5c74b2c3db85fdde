// Package dispatch decides who runs a request. It knows the instances of one
// pool and their slots, and the requests that wait for one.
//
// It only keeps account: it must not do I/O, start a goroutine, read a clock or
// take a lock, so that the live router and a simulator run the very same code.
// Nothing in it is safe for concurrent use; the caller's mutex guards a
// [Dispatcher] together with its waiters and instances, their accessors
// included.
//
// A use against its rules panics where it can be noticed, before anything has
// changed: to go on would mean giving one slot to two requests, or losing it
// for good.
package dispatch

import (
	"errors"
	"time"
)

// ErrQueueFull is returned by [Dispatcher.Acquire] when no slot is free and as
// many requests wait as may.
var ErrQueueFull = errors.New("queue is full")

// Config configures a [Dispatcher].
type Config struct {
	// QueueSize is the most requests that may wait at once. With 0, the
	// default, or less nobody may wait: a request without a slot is refused.
	QueueSize int
}

// Dispatcher hands the slots of instances to requests, strictly in the order
// in which the requests arrived.
//
// A request gets a slot of the busiest instance below its target; if all are at
// their targets, of the least busy one below its maximum. Among equals the most
// recently used instance comes first. An instance is used when one of its slots
// is given or released, when it is added, and when new limits move a busy one
// past its target or maximum.
//
// Three things hold whenever no method is running:
//
//   - While anybody waits, no slot is free. Every method that can free a slot
//     ends by handing slots out, so a request that finds a free one knows that
//     nobody waits for it, and a slot never waits for a request to notice it.
//   - The ready instances, and they only, are on the shelves, each where its
//     in-flight count and its limits say.
//   - inFlight and free are the sums over the instances.
//
// A step, such as handing out one slot, takes the same time however many
// instances there are and however many requests wait. Only requests that are
// being retried cost O(log n) of their number.
type Dispatcher struct {
	cfg     Config
	grant   func(w *Waiter, in *Instance)
	shelves shelves
	queue   queue
	seq     uint64 // of the last waiter admitted

	ready, draining int // instances
	inFlight        int // slots taken on ready and draining instances
	free            int // slots below Max on ready instances
}

// New returns a Dispatcher without instances.
//
// It calls grant, synchronously, whenever a waiter that was queued gets a slot
// of an instance; by then the waiter has left the queue and its slot is
// counted. grant must not block, and must not call the Dispatcher.
func New(cfg Config, grant func(w *Waiter, in *Instance)) *Dispatcher {
	return &Dispatcher{cfg: cfg, grant: grant}
}

// Configure replaces the configuration. A smaller queue turns away who comes
// next, not who waits already.
func (d *Dispatcher) Configure(cfg Config) { d.cfg = cfg }

// Acquire takes a slot for a new request. It returns the instance if a slot is
// free. Otherwise it queues the request and returns nil: the grant function
// will get it, unless it is cancelled before. If the queue is full the error is
// [ErrQueueFull], and w is as before its life.
//
// The slot must be given back with [Dispatcher.Release], exactly once.
func (d *Dispatcher) Acquire(w *Waiter, now time.Time) (*Instance, error) {
	if w.place != notQueued {
		panic("dispatch: acquiring with a waiter that is queued")
	}
	in := d.shelves.choose()
	if in == nil && d.queue.len() >= d.cfg.QueueSize {
		w.seq = 0
		return nil, ErrQueueFull
	}

	d.seq++
	w.seq = d.seq
	w.arrived = now
	if in == nil {
		d.queue.join(w)
		return nil, nil
	}
	d.occupy(in)
	return in, nil
}

// Requeue takes another slot for a request that had one already and gave it
// back. The request keeps its place in the order of arrival, and is queued even
// if the queue is full, for it was admitted before. It returns the instance, or
// nil if the request is queued.
//
// The choice does not avoid the instance that the request had before: drain or
// remove that one first if it is at fault.
func (d *Dispatcher) Requeue(w *Waiter) *Instance {
	if w.seq == 0 || w.place != notQueued {
		panic("dispatch: requeueing a waiter that has not had a slot")
	}
	in := d.shelves.choose()
	if in == nil {
		d.queue.rejoin(w)
		return nil
	}
	d.occupy(in)
	return in
}

// Cancel takes a request out of the queue and reports whether it was there. If
// not, the request holds a slot already, which is still to be released, or it
// was never queued.
func (d *Dispatcher) Cancel(w *Waiter) bool {
	if !d.queue.leave(w) {
		return false
	}
	w.seq = 0
	return true
}

// PopWaiter cancels the request that has waited longest and returns it, nil if
// nobody waits. It serves to turn all of them away, oldest first.
func (d *Dispatcher) PopWaiter() *Waiter {
	w := d.queue.oldest()
	if w != nil {
		d.Cancel(w)
	}
	return w
}

// Release gives one slot of the instance back. It goes straight to the oldest
// waiter, provided that the instance is ready and below its maximum. Of an
// instance that has been removed it only lowers the instance's own count.
func (d *Dispatcher) Release(in *Instance, now time.Time) {
	if in.inFlight == 0 {
		panic("dispatch: releasing a slot that is not taken")
	}
	if in.state == ready {
		d.unfile(in)
	}
	in.inFlight--
	if in.inFlight == 0 {
		in.idleSince = now
	}
	if in.state == outside {
		return
	}
	d.inFlight--
	if in.state == ready {
		d.file(in)
		d.handOut()
	}
}

// Add makes an instance ready to get requests, beginning with those that wait.
func (d *Dispatcher) Add(in *Instance, limits Limits, now time.Time) {
	if in.state != outside || in.inFlight > 0 {
		panic("dispatch: adding an instance whose life has not ended")
	}
	in.limits = limits.effective()
	in.idleSince = now
	in.state = ready
	d.ready++
	d.file(in)
	d.handOut()
}

// SetLimits gives an instance new limits, and its new slots to those who wait.
// If it has more in flight than its new maximum, they go on, and it gets no
// more until enough of them have ended.
func (d *Dispatcher) SetLimits(in *Instance, limits Limits) {
	if in.state != ready {
		in.limits = limits.effective()
		return
	}
	d.free -= in.free()
	in.limits = limits.effective()
	d.free += in.free()
	// Refiling counts as a use, so it is not done without need: a reload must
	// not shuffle the idle instances, of which the longest idle goes first.
	if shelfOf(in) != in.shelf {
		d.shelves.remove(in)
		d.shelves.put(in)
	}
	d.handOut()
}

// Drain gives an instance no more requests; those in flight go on. It does
// nothing if the instance is not ready.
func (d *Dispatcher) Drain(in *Instance) {
	if in.state != ready {
		return
	}
	d.unfile(in)
	in.state = draining
	d.ready--
	d.draining++
}

// Remove forgets an instance and all its slots. To release those later is
// harmless: it frees nothing, and only lowers the instance's own count. Remove
// does nothing if the instance has been removed before.
func (d *Dispatcher) Remove(in *Instance) {
	switch in.state {
	case ready:
		d.unfile(in)
		d.ready--
	case draining:
		d.draining--
	default:
		return
	}
	in.state = outside
	d.inFlight -= in.inFlight
}

// Idlest returns the ready instance that can best be let go: the one with the
// least in flight, and among equals the one whose last use is longest ago, so
// that of the idle ones it is the longest idle. It returns nil if no instance
// is ready.
func (d *Dispatcher) Idlest() *Instance { return d.shelves.idlest() }

// Queued returns how many requests wait.
func (d *Dispatcher) Queued() int { return d.queue.len() }

// InFlight returns how many slots are taken, on ready and draining instances.
func (d *Dispatcher) InFlight() int { return d.inFlight }

// Free returns how many slots can be taken at once: those below the maximum of
// the ready instances.
func (d *Dispatcher) Free() int { return d.free }

// Ready returns how many instances get requests.
func (d *Dispatcher) Ready() int { return d.ready }

// Draining returns how many instances have been drained but not removed.
func (d *Dispatcher) Draining() int { return d.draining }

// OldestWait returns how long ago the oldest of the waiting requests arrived, 0
// if nobody waits. For a request that is being retried that includes the
// attempts so far: it is what its client has waited.
func (d *Dispatcher) OldestWait(now time.Time) time.Duration {
	w := d.queue.oldest()
	if w == nil {
		return 0
	}
	return now.Sub(w.arrived)
}

// handOut gives free slots to waiters, oldest first, until there are no more of
// the one or of the other.
func (d *Dispatcher) handOut() {
	for w := d.queue.oldest(); w != nil; w = d.queue.oldest() {
		in := d.shelves.choose()
		if in == nil {
			return
		}
		d.queue.leave(w)
		d.occupy(in)
		d.grant(w, in)
	}
}

// occupy takes a slot of an instance that choose returned.
func (d *Dispatcher) occupy(in *Instance) {
	d.unfile(in)
	in.inFlight++
	in.idleSince = time.Time{}
	d.inFlight++
	d.file(in)
}

// file puts a ready instance on the shelves and counts its free slots.
func (d *Dispatcher) file(in *Instance) {
	d.free += in.free()
	d.shelves.put(in)
}

// unfile undoes file, before anything about the instance changes.
func (d *Dispatcher) unfile(in *Instance) {
	d.free -= in.free()
	d.shelves.remove(in)
}
