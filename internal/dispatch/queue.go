package dispatch

import (
	"container/heap"
	"time"
)

// Waiter is a request in the eyes of the [Dispatcher]: its place in the order
// of arrival. The zero value is ready for [Dispatcher.Acquire].
//
// The life of a Waiter begins when Acquire admits it, with a slot at once or
// queued. It ends when [Dispatcher.Cancel] returns true, when
// [Dispatcher.PopWaiter] returns it, or, while it is not queued, when the
// caller decides that it will not [Dispatcher.Requeue] it. From then on it may
// be acquired with again, or dropped. The Dispatcher refers to a Waiter only
// while it is queued, and not any more when the grant function is called.
//
// A Waiter must not be copied while it is queued.
type Waiter struct {
	// Owner is for the caller, to find its request in the grant function.
	Owner any

	seq     uint64    // order of arrival, from 1; 0 outside its life
	arrived time.Time // when it was admitted, unchanged by Requeue
	place   place
	index   int          // in queue.retries, while place is inRetries
	link    link[Waiter] // in queue.fresh, while place is inFresh
}

// Arrived returns when the request arrived: the time of its Acquire, which a
// Requeue does not change.
func (w *Waiter) Arrived() time.Time { return w.arrived }

// place says which part of the queue a waiter is in.
type place uint8

const (
	notQueued place = iota
	inFresh
	inRetries
)

// queue holds the waiters in order of arrival.
//
// It has two parts because there are two ways in. A first-time waiter is the
// youngest of all, so that a list keeps the order for nothing. A retry comes
// back to somewhere in the order; when many instances die at once thousands do,
// in any order, and a list would be searched for each. So retries are a heap.
//
// Every retry is older than every first-time waiter. It left the queue as the
// oldest, or found it empty, so all first-timers of today came after it.
type queue struct {
	fresh      list[Waiter]
	freshCount int
	retries    retries
}

func (q *queue) len() int { return q.freshCount + len(q.retries) }

// oldest returns the waiter that arrived first, nil if nobody waits.
func (q *queue) oldest() *Waiter {
	if len(q.retries) > 0 {
		return q.retries[0]
	}
	return q.fresh.front()
}

// join queues a waiter that has just arrived.
func (q *queue) join(w *Waiter) {
	w.place = inFresh
	q.fresh.pushBack(&w.link, w)
	q.freshCount++
}

// rejoin queues a waiter that had left with a slot, in its old order.
func (q *queue) rejoin(w *Waiter) {
	w.place = inRetries
	heap.Push(&q.retries, w)
}

// leave takes w out, wherever it is. It reports whether w was queued.
func (q *queue) leave(w *Waiter) bool {
	switch w.place {
	case inFresh:
		q.fresh.remove(&w.link)
		q.freshCount--
	case inRetries:
		heap.Remove(&q.retries, w.index)
	default:
		return false
	}
	w.place = notQueued
	return true
}

// retries is a heap with the oldest waiter on top. It implements
// [heap.Interface]; each waiter knows its index, so that it can leave early.
type retries []*Waiter

func (r retries) Len() int           { return len(r) }
func (r retries) Less(i, j int) bool { return r[i].seq < r[j].seq }

func (r retries) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].index, r[j].index = i, j
}

func (r *retries) Push(x any) {
	w := x.(*Waiter)
	w.index = len(*r)
	*r = append(*r, w)
}

func (r *retries) Pop() any {
	old := *r
	last := len(old) - 1
	w := old[last]
	old[last] = nil // the heap keeps its memory, but must not keep the waiter
	*r = old[:last]
	return w
}
