package dispatch

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// steps is what can happen to a Dispatcher, and how often in relation to the
// others. Requests come and go more often than instances, or else there would
// be no queue to speak of.
var steps = []struct {
	name  string
	share int
	run   func(m *machine)
}{
	{"arrive", 40, (*machine).arrive},
	{"complete", 22, (*machine).complete},
	{"retry", 4, (*machine).retry},
	{"cancel", 4, (*machine).cancel},
	{"turn away", 1, (*machine).turnAway},
	{"configure", 1, (*machine).configure},
	{"add", 3, (*machine).add},
	{"set limits", 5, (*machine).setLimits},
	{"drain", 1, func(m *machine) { m.drain(choice(m, m.instances)) }},
	{"remove", 2, func(m *machine) { m.remove(choice(m, m.instances)) }},
}

// The defaults of rapid's flags leave its runs too short for a queue to form.
// Flags given to go test still win, because they are read later.
func init() {
	for name, value := range map[string]string{"rapid.checks": "300", "rapid.steps": "150"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
}

// TestModel looks for a short way to break a rule.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") })
		actions := map[string]func(*rapid.T){"": func(*rapid.T) { m.check() }}
		for _, s := range steps {
			for i := range s.share {
				actions[fmt.Sprint(s.name, " ", i)] = func(*rapid.T) { s.run(m) }
			}
		}
		t.Repeat(actions)
	})
}

// TestModelLong goes where short runs do not get: everything used again and
// again, with a queue that is often full.
func TestModelLong(t *testing.T) {
	const seeds, stepsPerSeed = 10, 4_000
	var deck []func(m *machine)
	for _, s := range steps {
		for range s.share {
			deck = append(deck, s.run)
		}
	}
	var deepest, most int
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			m := newMachine(t, rnd.IntN)
			for range stepsPerSeed {
				deck[rnd.IntN(len(deck))](m)
				m.check()
				deepest, most = max(deepest, m.d.Queued()), max(most, m.d.Ready())
			}
		})
	}
	if deepest < maxQueue-1 || most < 5 {
		t.Errorf("the runs had at most %d waiters and %d instances: they test little", deepest, most)
	}
	t.Logf("at most %d waiters and %d ready instances", deepest, most)
}

// checkStructure checks the invariants of the lists, piles, bitmaps and the heap.
func checkStructure(t fataler, d *Dispatcher) {
	filed := 0
	for i := range d.shelves.by {
		for n := range d.shelves.by[i].piles {
			filed += checkPile(t, &d.shelves.by[i], i, n)
		}
	}
	if filed != d.ready {
		t.Fatalf("%d instances are on the shelves, %d are ready", filed, d.ready)
	}

	q := &d.queue
	count, last := 0, uint64(0)
	for k := q.fresh.first; k != nil; k = k.next {
		if w := k.owner; w.place != inFresh || w.seq <= last {
			t.Fatalf("waiter %d is at place %d behind %d in the list", w.seq, w.place, last)
		}
		last = k.owner.seq
		count++
	}
	if count != q.freshCount {
		t.Fatalf("%d waiters are in the list, %d are counted", count, q.freshCount)
	}
	for i, w := range q.retries {
		if w.place != inRetries || w.index != i || i > 0 && w.seq < q.retries[(i-1)/2].seq {
			t.Fatalf("retry %d is at %d/%d, found at %d", w.seq, w.place, w.index, i)
		}
		if first := q.fresh.front(); first != nil && w.seq > first.seq {
			t.Fatalf("retry %d is younger than first-time waiter %d", w.seq, first.seq)
		}
	}
	for _, w := range q.retries[len(q.retries):cap(q.retries)] {
		if w != nil {
			t.Fatalf("the heap keeps waiter %d, who has left", w.seq)
		}
	}
}

// checkPile checks the pile for the in-flight count n and returns how many
// instances are on it.
func checkPile(t fataler, s *shelf, kind, n int) int {
	p := &s.piles[n]
	if bit := s.filled[n/64]>>(n%64)&1 == 1; bit == p.empty() {
		t.Fatalf("shelf %d, pile %d: bit is %v, empty is %v", kind, n, bit, p.empty())
	}
	count := 0
	var prev *link[Instance]
	for k := p.first; k != nil; prev, k = k, k.next {
		in := k.owner
		if k != &in.link || k.prev != prev || prev != nil && prev.owner.used < in.used {
			t.Fatalf("shelf %d, pile %d: instance is not where it should be", kind, n)
		}
		if in.state != ready || in.inFlight != n || in.shelf != kind || shelfOf(in) != kind {
			t.Fatalf("shelf %d, pile %d: instance belongs elsewhere", kind, n)
		}
		count++
	}
	if p.last != prev {
		t.Fatalf("shelf %d, pile %d: last is wrong", kind, n)
	}
	return count
}
