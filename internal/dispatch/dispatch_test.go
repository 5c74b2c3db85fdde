package dispatch

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestChoice(t *testing.T) {
	// Instances are written as in-flight/target/max, in the order of their last
	// use, and are called a, b, c and so on.
	for _, tt := range []struct{ rule, instances, want, idlest string }{
		{"without instances a request waits", "", queued, "none"},
		{"a free instance takes it", "0/1/1", "a", "a"},
		{"a full instance does not", "1/1/1", queued, "a"},
		{"the busiest below its target comes first", "1/5/9 3/5/9 2/5/9", "b", "a"},
		{"one at its target waits for those below", "5/5/9 0/5/9", "b", "b"},
		{"one above its target as well", "8/5/9 4/5/9", "b", "b"},
		{"if all are at their targets, the least busy", "7/5/9 5/5/9 6/5/9", "b", "b"},
		{"below its maximum", "8/5/9 5/5/5 9/5/9", "a", "b"},
		{"all full: a request waits", "9/5/9 5/5/5 2/1/2", queued, "c"},
		{"more in flight than allowed is full too", "7/2/3", queued, "a"},
		{"equals below the target: the last used", "2/5/9 2/5/9 2/5/9", "c", "a"},
		{"equals above the target: the last used", "5/5/9 5/5/9 5/5/9", "c", "a"},
		{"the number in flight counts, not the share", "4/5/9 8/100/200", "b", "a"},
		{"equals in flight, one at its target", "3/3/9 3/4/9", "b", "a"},
		{"equals in flight, one is full", "3/2/9 3/1/3", "a", "a"},
		{"many in flight below the target", "64/999/999 129/999/999 63/999/999", "b", "c"},
		{"many in flight above the target", "192/2/999 128/2/999 700/2/999", "b", "b"},
		{"the idlest may be full", "6/5/9 1/1/1 8/5/9", "a", "b"},
		{"the idlest among equals is the least recently used", "1/1/1 1/5/9 1/1/9", "b", "a"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			s := newScene(t, 1)
			for i, in := range strings.Fields(tt.instances) {
				var inFlight, target, most int
				if _, err := fmt.Sscanf(in, "%d/%d/%d", &inFlight, &target, &most); err != nil {
					t.Fatal(err)
				}
				s.add(string(rune('a'+i)), inFlight, target, most)
			}
			checkStructure(t, s.d)
			s.expectIdlest(tt.idlest)
			s.acquire("request", tt.want)
			checkStructure(t, s.d)
		})
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct{ given, want Limits }{
		{Limits{}, Limits{0, 0}},
		{Limits{-3, -7}, Limits{0, 0}},
		{Limits{0, 10}, Limits{1, 10}},
		{Limits{5, 10}, Limits{5, 10}},
		{Limits{10, 5}, Limits{5, 5}},
		{Limits{1 << 40, 1 << 50}, Limits{1 << 16, 1 << 16}},
	} {
		s := newScene(t, 0)
		s.add("a", 0, 3, 3)
		s.setLimits("a", tt.given.Target, tt.given.Max)
		s.add("b", 0, tt.given.Target, tt.given.Max)
		for _, in := range s.instances {
			if got := in.Limits(); got != tt.want {
				t.Errorf("%+v of %s: %+v, want %+v", tt.given, in.Owner, got, tt.want)
			}
		}
		s.expect(0, 0, 2*tt.want.Max, 2, 0)
	}
}

func TestRules(t *testing.T) {
	for _, tt := range []struct {
		rule      string
		queueSize int
		story     func(s *scene)
	}{
		{"a freed slot goes to the oldest waiter", 9, func(s *scene) {
			s.add("a", 1, 1, 1)
			s.acquire("1", queued)
			s.acquire("2", queued)
			s.expect(2, 1, 0, 1, 0)
			s.release("a")
			s.expectGrants("1→a")
			s.release("a")
			s.expectGrants("2→a")
			s.release("a")
			s.expectGrants()
			s.expect(0, 0, 1, 1, 0)
		}},
		{"a request never overtakes a queued one", 9, func(s *scene) {
			s.add("a", 1, 1, 1)
			s.acquire("1", queued)
			s.release("a")
			s.acquire("2", queued)
			s.expectGrants("1→a")
		}},
		{"a queue of 0 lets nobody wait", 0, func(s *scene) {
			s.acquire("1", refused)
			s.add("a", 0, 1, 1)
			s.acquire("1", "a")
			s.acquire("2", refused)
			s.expect(0, 1, 0, 1, 0)
		}},
		{"the queue takes as many as its size", 2, func(s *scene) {
			s.acquire("1", queued)
			s.acquire("2", queued)
			s.acquire("3", refused)
			s.cancel("1", true)
			s.acquire("3", queued)
			s.acquire("4", refused)
		}},
		{"a smaller queue turns away who comes next, not who waits", 2, func(s *scene) {
			s.acquire("1", queued)
			s.acquire("2", queued)
			s.d.Configure(Config{QueueSize: 1})
			s.acquire("3", refused)
			s.add("a", 0, 1, 1)
			s.acquire("3", refused)
			s.expectGrants("1→a")
			s.expect(1, 1, 0, 1, 0)
			s.d.Configure(Config{QueueSize: 2})
			s.acquire("3", queued)
		}},
		{"who has left gets nothing", 9, func(s *scene) {
			s.acquire("1", queued)
			s.acquire("2", queued)
			s.acquire("3", queued)
			s.cancel("2", true)
			s.cancel("2", false)
			s.cancel("1", true)
			s.expect(1, 0, 0, 0, 0)
			s.add("a", 0, 9, 9)
			s.expectGrants("3→a")
			s.cancel("3", false)
			s.expect(0, 1, 8, 1, 0)
		}},
		{"who comes back after leaving is the youngest", 9, func(s *scene) {
			s.acquire("1", queued)
			s.acquire("2", queued)
			s.cancel("1", true)
			s.acquire("1", queued)
			s.add("a", 0, 9, 9)
			s.expectGrants("2→a", "1→a")
		}},
		{"a new instance takes waiters up to its maximum", 9, func(s *scene) {
			for _, r := range []string{"1", "2", "3", "4"} {
				s.acquire(r, queued)
			}
			s.add("a", 0, 1, 3)
			s.expectGrants("1→a", "2→a", "3→a")
			s.expect(1, 3, 0, 1, 0)
		}},
		{"waiters are turned away oldest first", 9, func(s *scene) {
			s.acquire("1", queued)
			s.acquire("2", queued)
			for _, want := range []string{"1", "2"} {
				if w := s.d.PopWaiter(); w != s.request(want) {
					s.t.Fatalf("popped %v, want %s", w, want)
				}
			}
			if w := s.d.PopWaiter(); w != nil {
				s.t.Fatalf("popped %v from an empty queue", w.Owner)
			}
		}},
		{"a retry keeps its place before younger requests", 9, func(s *scene) {
			s.add("a", 0, 9, 3)
			s.acquire("1", "a")
			s.acquire("2", "a")
			s.acquire("3", "a")
			s.acquire("4", queued)
			s.remove("a")
			s.requeue("3", queued)
			s.requeue("1", queued)
			s.requeue("2", queued)
			s.acquire("5", queued)
			s.cancel("2", true)
			s.add("b", 0, 9, 9)
			s.expectGrants("1→b", "3→b", "4→b", "5→b")
		}},
		{"a retry gets a free slot at once", 0, func(s *scene) {
			s.add("a", 0, 1, 1)
			s.acquire("1", "a")
			s.drain("a")
			s.add("b", 0, 1, 1)
			s.release("a")
			s.requeue("1", "b")
		}},
		{"a retry waits even if the queue is full", 1, func(s *scene) {
			s.add("a", 0, 1, 1)
			s.acquire("1", "a")
			s.acquire("2", queued)
			s.remove("a")
			s.requeue("1", queued)
			s.expect(2, 0, 0, 0, 0)
			s.acquire("3", refused)
		}},
		{"a drained instance gets no more, but what it has goes on", 9, func(s *scene) {
			s.add("a", 0, 9, 9)
			s.acquire("1", "a")
			s.acquire("2", "a")
			s.drain("a")
			s.drain("a")
			s.expect(0, 2, 0, 0, 1)
			s.expectIdlest("none")
			s.acquire("3", queued)
			s.release("a")
			s.expectGrants()
			s.expect(1, 1, 0, 0, 1)
			s.setLimits("a", 99, 99)
			s.expect(1, 1, 0, 0, 1)
			s.release("a")
			s.remove("a")
			s.expect(1, 0, 0, 0, 0)
		}},
		{"the slots of a removed instance are nobody's", 9, func(s *scene) {
			s.add("a", 3, 9, 9)
			s.add("b", 1, 1, 1)
			s.drain("b")
			s.expect(0, 4, 6, 1, 1)
			s.remove("a")
			s.remove("a")
			s.expect(0, 1, 0, 0, 1)
			s.acquire("1", queued)
			s.release("a")
			s.expectGrants()
			s.drain("a")
			s.setLimits("a", 99, 99)
			s.expect(1, 1, 0, 0, 1)
			if n := s.instances["a"].InFlight(); n != 2 {
				s.t.Fatalf("%d in flight, want 2", n)
			}
		}},
		{"an instance can come back when all its slots have", 9, func(s *scene) {
			s.add("a", 1, 1, 1)
			s.remove("a")
			s.release("a")
			s.acquire("1", queued)
			s.d.Add(s.instances["a"], Limits{1, 1}, s.now)
			s.expectGrants("1→a")
		}},
		{"higher limits serve those who wait", 9, func(s *scene) {
			s.add("a", 1, 1, 1)
			s.acquire("1", queued)
			s.acquire("2", queued)
			s.acquire("3", queued)
			s.setLimits("a", 2, 3)
			s.expectGrants("1→a", "2→a")
			s.expect(1, 3, 0, 1, 0)
		}},
		{"lower limits take nothing away, and give nothing until they are met", 9, func(s *scene) {
			s.add("a", 4, 4, 4)
			s.acquire("1", queued)
			s.setLimits("a", 2, 2)
			s.expect(1, 4, 0, 1, 0)
			s.release("a")
			s.release("a")
			s.expectGrants()
			s.expect(1, 2, 0, 1, 0)
			s.release("a")
			s.expectGrants("1→a")
			s.expect(0, 2, 0, 1, 0)
		}},
		{"the choice follows new limits", 9, func(s *scene) {
			s.add("a", 3, 5, 9)
			s.add("b", 2, 5, 9)
			s.setLimits("a", 3, 9)
			s.acquire("1", "b")
			s.setLimits("a", 4, 9)
			s.setLimits("b", 2, 9)
			s.acquire("2", "a")
		}},
		{"new limits do not make an idle instance look used", 9, func(s *scene) {
			s.add("a", 0, 1, 1)
			s.add("b", 0, 1, 1)
			s.setLimits("a", 5, 9)
			s.expectIdlest("a")
			s.acquire("1", "b")
		}},
		{"the instance used last is used next, the other becomes idle", 9, func(s *scene) {
			s.add("a", 0, 9, 9)
			s.add("b", 0, 9, 9)
			s.acquire("1", "b")
			s.acquire("2", "b")
			s.release("b")
			s.release("b")
			s.expectIdlest("a")
			s.acquire("3", "b")
		}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			s := newScene(t, tt.queueSize)
			tt.story(s)
			checkStructure(t, s.d)
		})
	}
}

func TestTimes(t *testing.T) {
	s := newScene(t, 9)
	start := s.now
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	expectIdleSince := func(want time.Time) {
		t.Helper()
		if got := s.instances["a"].IdleSince(); got != want {
			t.Fatalf("idle since %v, want %v", got, want)
		}
	}
	expectWait := func(want time.Duration) {
		t.Helper()
		if got := s.d.OldestWait(s.now); got != want {
			t.Fatalf("oldest wait is %v, want %v", got, want)
		}
	}

	s.add("a", 0, 1, 1)
	expectIdleSince(start)
	s.now = at(1)
	s.acquire("1", "a")
	expectIdleSince(time.Time{})
	expectWait(0)
	s.now = at(2)
	s.acquire("2", queued)
	s.now = at(3)
	s.acquire("3", queued)
	s.now = at(10)
	expectWait(8 * time.Second)
	s.cancel("2", true)
	expectWait(7 * time.Second)

	s.remove("a")
	s.release("a")
	expectIdleSince(at(10))
	s.requeue("1", queued)
	expectWait(9 * time.Second) // since it arrived, not since it is back
	if got := s.request("1").Arrived(); got != at(1) {
		t.Fatalf("arrived at %v, want %v", got, at(1))
	}

	s.add("b", 0, 2, 2)
	s.expectGrants("1→b", "3→b")
	expectWait(0)
}

func TestMisusePanics(t *testing.T) {
	for _, tt := range []struct {
		misuse string
		commit func(s *scene)
	}{
		{"releasing a slot that was never taken", func(s *scene) {
			s.add("a", 0, 1, 1)
			s.release("a")
		}},
		{"releasing a slot twice", func(s *scene) {
			s.add("a", 1, 1, 1)
			s.release("a")
			s.release("a")
		}},
		{"releasing a slot of a removed instance twice", func(s *scene) {
			s.add("a", 1, 1, 1)
			s.remove("a")
			s.release("a")
			s.release("a")
		}},
		{"acquiring with a waiter that is queued", func(s *scene) {
			s.acquire("1", queued)
			s.acquire("1", queued)
		}},
		{"requeueing a waiter that is queued", func(s *scene) {
			s.acquire("1", queued)
			s.requeue("1", queued)
		}},
		{"requeueing a waiter that never arrived", func(s *scene) { s.requeue("1", queued) }},
		{"requeueing a waiter that was cancelled", func(s *scene) {
			s.acquire("1", queued)
			s.cancel("1", true)
			s.requeue("1", queued)
		}},
		{"requeueing a waiter that was turned away", func(s *scene) {
			s.acquire("1", queued)
			s.d.PopWaiter()
			s.requeue("1", queued)
		}},
		{"requeueing a waiter that was refused the second time", func(s *scene) {
			s.add("a", 0, 1, 1)
			s.acquire("1", "a")
			s.d.Configure(Config{})
			s.acquire("1", refused)
			s.requeue("1", queued)
		}},
		{"adding an instance twice", func(s *scene) {
			s.add("a", 0, 1, 1)
			s.d.Add(s.instances["a"], Limits{}, s.now)
		}},
		{"adding an instance that is draining", func(s *scene) {
			s.add("a", 0, 1, 1)
			s.drain("a")
			s.d.Add(s.instances["a"], Limits{}, s.now)
		}},
		{"adding a removed instance before its slots are back", func(s *scene) {
			s.add("a", 1, 1, 1)
			s.remove("a")
			s.d.Add(s.instances["a"], Limits{}, s.now)
		}},
	} {
		t.Run(tt.misuse, func(t *testing.T) {
			s := newScene(t, 9)
			defer func() {
				if recover() == nil {
					t.Error("does not panic")
				}
				checkStructure(t, s.d) // whoever recovers has lost nothing
			}()
			tt.commit(s)
		})
	}
}
