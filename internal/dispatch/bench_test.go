package dispatch

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var (
	instanceCounts = []int{1, 100, 10_000}
	waiterCounts   = []int{0, 1_000, 100_000}
	benchNow       = time.Unix(1e9, 0)
)

// load is a Dispatcher at work: every waiter holds a slot or is queued. Who
// holds a slot is kept in an arbitrary order, so that the instances are met as
// by real requests and not in the order in which they lie in memory.
type load struct {
	d       *Dispatcher
	holders []holder
	waiters []Waiter // all of them
	rnd     *rand.Rand
}

type holder struct {
	w  *Waiter
	in *Instance
}

// newLoad returns n instances with some limits, as many requests as fill the
// given share of their slots, and the given number of waiters.
func newLoad(n int, limits func(rnd *rand.Rand) Limits, share float64, waiters int) *load {
	l := &load{rnd: rand.New(rand.NewPCG(1, 2))}
	l.d = New(Config{QueueSize: waiters + 1}, func(w *Waiter, in *Instance) {
		l.holders = append(l.holders, holder{w, in})
	})
	for range n {
		l.d.Add(&Instance{}, limits(l.rnd), benchNow)
	}
	inFlight := int(share * float64(l.d.Free()))
	l.waiters = make([]Waiter, inFlight+waiters)
	for i := range l.waiters {
		l.arrive(&l.waiters[i])
	}
	l.rnd.Shuffle(len(l.holders), func(i, j int) {
		l.holders[i], l.holders[j] = l.holders[j], l.holders[i]
	})
	return l
}

func (l *load) arrive(w *Waiter) {
	in, err := l.d.Acquire(w, benchNow)
	if err != nil {
		panic(err)
	}
	if in != nil {
		l.holders = append(l.holders, holder{w, in})
	}
}

// finish ends some request that holds a slot and returns its waiter.
func (l *load) finish() *Waiter {
	i, last := l.rnd.IntN(len(l.holders)), len(l.holders)-1
	h := l.holders[i]
	l.holders[i] = l.holders[last]
	l.holders = l.holders[:last]
	l.d.Release(h.in, benchNow)
	return h.w
}

func tenEach(*rand.Rand) Limits { return Limits{Target: 5, Max: 10} }

func anyLimits(rnd *rand.Rand) Limits {
	most := 1 + rnd.IntN(200)
	return Limits{Target: 1 + rnd.IntN(most), Max: most}
}

// An acquire and its release, with slots to spare: the path of every request
// of a pool that is not short of instances.
func BenchmarkAcquireRelease(b *testing.B) {
	for _, n := range instanceCounts {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			l := newLoad(n, tenEach, 0, 0)
			var w Waiter
			b.ReportAllocs()
			for b.Loop() {
				in, _ := l.d.Acquire(&w, benchNow)
				l.d.Release(in, benchNow)
			}
		})
	}
}

// The same while other requests hold half of all slots and end in any order, so
// that each step meets other instances, of which no two have the same limits.
func BenchmarkAcquireReleaseAmongOthers(b *testing.B) {
	for _, n := range instanceCounts {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			l := newLoad(n, anyLimits, 0.5, 0)
			b.ReportAllocs()
			for b.Loop() {
				l.arrive(l.finish())
			}
		})
	}
}

// A release that goes to the oldest waiter, and a new request that queues. With
// 0 waiters the new request gets the slot itself.
func BenchmarkHandOver(b *testing.B) {
	for _, n := range instanceCounts {
		for _, waiters := range waiterCounts {
			b.Run(fmt.Sprintf("instances=%d/waiters=%d", n, waiters), func(b *testing.B) {
				l := newLoad(n, tenEach, 1, waiters)
				b.ReportAllocs()
				for b.Loop() {
					l.arrive(l.finish())
				}
				if l.d.Queued() != waiters || l.d.Free() != 0 {
					b.Fatalf("%d wait, %d slots are free", l.d.Queued(), l.d.Free())
				}
			})
		}
	}
}

// A client that leaves from anywhere in the queue, and a new one that joins it.
func BenchmarkCancel(b *testing.B) {
	for _, waiters := range waiterCounts[1:] {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			l := newLoad(0, tenEach, 0, waiters)
			b.ReportAllocs()
			for b.Loop() {
				w := &l.waiters[l.rnd.IntN(len(l.waiters))]
				l.d.Cancel(w)
				l.arrive(w)
			}
		})
	}
}

// A retry among many, as after the death of many instances at once: the oldest
// gets a slot, loses it and is queued again before all others, the worst case
// of the heap on both ways.
func BenchmarkRequeue(b *testing.B) {
	for _, waiters := range waiterCounts[1:] {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			l := newLoad(waiters, func(*rand.Rand) Limits { return Limits{Target: 1, Max: 1} }, 1, 0)
			for _, h := range l.holders {
				l.d.Remove(h.in)
				l.d.Release(h.in, benchNow)
				l.d.Requeue(h.w)
			}
			l.holders = l.holders[:0]
			l.d.Add(&Instance{}, Limits{Target: 1, Max: 1}, benchNow)
			b.ReportAllocs()
			for b.Loop() {
				h := l.holders[0]
				l.holders = l.holders[:0]
				l.d.Release(h.in, benchNow)
				l.d.Requeue(h.w)
			}
		})
	}
}

// A reload that moves an instance past its target and back.
func BenchmarkSetLimits(b *testing.B) {
	for _, n := range instanceCounts {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			l := newLoad(n, tenEach, 0.5, 0)
			b.ReportAllocs()
			for b.Loop() {
				in := l.holders[l.rnd.IntN(len(l.holders))].in
				l.d.SetLimits(in, Limits{Target: 9, Max: 10})
				l.d.SetLimits(in, Limits{Target: 5, Max: 10})
			}
		})
	}
}

// What the scaler asks for.
func BenchmarkStats(b *testing.B) {
	for _, n := range instanceCounts {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			l := newLoad(n, anyLimits, 0.5, 0)
			b.ReportAllocs()
			for b.Loop() {
				_ = l.d.Queued() + l.d.InFlight() + l.d.Free() + l.d.Ready() + l.d.Draining()
				_ = l.d.OldestWait(benchNow)
				_ = l.d.Idlest()
			}
		})
	}
}

func TestNoAllocations(t *testing.T) {
	free := newLoad(100, anyLimits, 0.5, 0)
	busy := newLoad(100, anyLimits, 1, 1_000)
	for _, tt := range []struct {
		name string
		run  func()
	}{
		{"a slot at once", func() { free.arrive(free.finish()) }},
		{"a slot handed over", func() { busy.arrive(busy.finish()) }},
		{"a client gone", func() {
			w := busy.d.PopWaiter()
			busy.arrive(w)
		}},
		{"a retry", func() { busy.d.Requeue(busy.finish()) }},
	} {
		if n := testing.AllocsPerRun(1_000, tt.run); n != 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}
