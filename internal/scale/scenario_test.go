package scale

import (
	"testing"
	"time"
)

const ms = time.Millisecond

// TestColdBurst: many requests at once on an empty pool are served by the first
// instances that come up, not each by its own.
func TestColdBurst(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5}, 2*time.Second)
	m.burst(200, 100*ms)
	m.runFor(10 * time.Second)
	t.Logf("starts %d, done after %v", len(m.startedAt), m.lastDone.Sub(epoch))
	if len(m.startedAt) > 20 || m.served != 200 || m.lastDone.Sub(epoch) > 2200*ms {
		t.Errorf("%d starts, %d served after %v", len(m.startedAt), m.served, m.lastDone.Sub(epoch))
	}
}

// TestColdBurstLearnt: once it is known how short requests are, far fewer do.
func TestColdBurstLearnt(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5}, 2*time.Second)
	m.burst(20, 100*ms)
	m.runFor(10 * time.Minute)
	if n := m.fleet().total(); n != 0 {
		t.Fatalf("%d instances left", n)
	}
	before, begun := len(m.startedAt), m.now
	m.burst(200, 100*ms)
	m.runFor(10 * time.Second)
	starts, took := len(m.startedAt)-before, m.lastDone.Sub(begun)
	t.Logf("starts %d, done after %v", starts, took)
	if starts > 4 || took > 3*time.Second {
		t.Errorf("%d starts, done after %v", starts, took)
	}
}

// TestBurstOnWarm: a queue that one warm instance empties long before another
// could be ready is left to it.
func TestBurstOnWarm(t *testing.T) {
	for _, tc := range []struct {
		name   string
		served int // requests before the burst
	}{{"nothing served yet", 0}, {"service time learnt", 50}} {
		t.Run(tc.name, func(t *testing.T) {
			m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, MinInstances: 1}, 8*time.Second)
			m.runFor(20 * time.Second)
			for range tc.served {
				m.burst(1, 100*ms)
				m.runFor(time.Second)
			}
			if f := m.fleet(); f != (Fleet{Ready: 1}) {
				t.Fatalf("not one warm instance: %+v", f)
			}
			begun := m.now
			m.burst(100, 100*ms)
			m.runFor(30 * time.Second)
			if took := m.lastDone.Sub(begun); took > 1100*ms || len(m.startedAt) != 1 {
				t.Errorf("done after %v with %d starts", took, len(m.startedAt)-1)
			}
		})
	}
}

// TestBurstOfLongRequests: what has not ended for long is not taken to be short.
func TestBurstOfLongRequests(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, MinInstances: 1}, 8*time.Second)
	m.runFor(20 * time.Second)
	m.burst(10, 100*ms) // teaches the wrong thing
	m.runFor(20 * time.Second)
	begun := m.now
	m.burst(100, 20*time.Second)
	m.runFor(5 * time.Minute)
	if took := m.lastDone.Sub(begun); took > 45*time.Second {
		t.Errorf("done after %v", took)
	}
}

// TestFirstRequest: nothing delays the start for the first request after zero.
func TestFirstRequest(t *testing.T) {
	m := newSim(t, Config{}, 2*time.Second)
	for range 3 {
		m.runFor(10 * time.Minute)
		if f := m.fleet(); f.total() != 0 {
			t.Fatalf("not at zero: %+v", f)
		}
		m.burst(1, 100*ms)
		m.runFor(0)
		if f := m.fleet(); f != (Fleet{Starting: 1}) {
			t.Fatalf("fleet is %+v", f)
		}
	}
}

// TestIdle: without load the pool shrinks to its minimum after the idle timeout
// and then sleeps.
func TestIdle(t *testing.T) {
	for _, least := range []int{0, 3} {
		m := newSim(t, Config{MinInstances: least, IdleTimeout: 45 * time.Second}, 2*time.Second)
		m.poisson(time.Minute, steady(500), fixed(100*ms))
		m.runFor(time.Minute)
		if n := m.fleet().Ready; n < 10 {
			t.Fatalf("%d instances for 50 in flight", n)
		}
		m.runFor(time.Second)
		last := m.lastDone
		m.runFor(last.Add(44 * time.Second).Sub(m.now))
		if n := m.fleet().Ready; n < max(1, least) {
			t.Errorf("min %d: %d instances before the idle timeout", least, n)
		}
		m.runFor(1100 * ms)
		if n := m.fleet().total(); n != least {
			t.Errorf("min %d: %d instances after the idle timeout", least, n)
		}
		if d := m.s.Decide(m.fleet(), m.now); least == 0 && d != (Decision{}) {
			t.Errorf("an empty pool without load has something to do: %+v", d)
		}
	}
}

// TestSteady: constant load ends at the formula's number of instances and stays.
func TestSteady(t *testing.T) {
	for _, tc := range []struct {
		name     string
		start    time.Duration
		load     func(m *sim)
		from, to int
	}{
		{"exact", 2 * time.Second, func(m *sim) { m.clients(50, 9*time.Minute, fixed(100*ms)) }, 10, 10},
		{"exact, slow start", 8 * time.Second, func(m *sim) { m.clients(50, 9*time.Minute, fixed(100*ms)) }, 10, 10},
		{"random lengths", 2 * time.Second, func(m *sim) { m.clients(50, 9*time.Minute, m.exponential(100*ms)) }, 10, 10},
		{"random arrivals", 2 * time.Second, func(m *sim) {
			m.poisson(9*time.Minute, steady(500), fixed(100*ms))
		}, 10, 13},
		{"all random", 2 * time.Second, func(m *sim) {
			m.poisson(9*time.Minute, steady(500), m.exponential(100*ms))
		}, 10, 13},
		{"long requests", 2 * time.Second, func(m *sim) {
			m.poisson(9*time.Minute, steady(25), m.exponential(2*time.Second))
		}, 9, 16},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5}, tc.start)
			tc.load(m)
			m.runFor(2 * time.Minute)
			starts, releases := len(m.startedAt), m.releases
			m.trace = nil
			m.runFor(7 * time.Minute)
			least, most := m.trace[0], 0
			for _, n := range m.trace {
				least, most = min(least, n), max(most, n)
			}
			starts, releases = len(m.startedAt)-starts, m.releases-releases
			t.Logf("%d..%d instances, %d starts and %d releases in 7 min", least, most, starts, releases)
			if least < tc.from || most > tc.to || starts > 5 {
				t.Errorf("%d..%d instances, want %d..%d; %d starts and %d releases in 7 min",
					least, most, tc.from, tc.to, starts, releases)
			}
		})
	}
}

// TestRamp: growing load is followed without long waits or wild excess.
func TestRamp(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5}, 2*time.Second)
	m.poisson(3*time.Minute, func(t time.Duration) float64 { return min(1000, 1+999*t.Minutes()) }, fixed(100*ms))
	most := 0
	for range 180 {
		m.runFor(time.Second)
		most = max(most, m.fleet().live())
	}
	m.runFor(time.Second)
	t.Logf("most %d, at the end %d; waits p50 %v p99 %v p99.9 %v", most, m.fleet().live(), m.wait(.5), m.wait(.99), m.wait(.999))
	if m.served != m.arrived || most > 40 || m.fleet().live() < 20 || m.wait(.99) > 100*ms {
		t.Errorf("%d of %d served, most %d, now %d; waits p99 %v", m.served, m.arrived, most, m.fleet().live(), m.wait(.99))
	}
}

// TestDown: when load falls, instances go after a while, and not all at once.
func TestDown(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, IdleTimeout: time.Minute}, 2*time.Second)
	m.clients(250, time.Minute, fixed(100*ms))
	m.clients(10, 10*time.Minute, fixed(100*ms))
	m.runFor(time.Minute)
	full := m.fleet().Ready
	if full < 52 {
		t.Fatalf("%d instances for 260 in flight", full)
	}
	m.runFor(25 * time.Second)
	if n := m.fleet().Ready; n != full {
		t.Errorf("%d of %d instances left soon after load fell", n, full)
	}
	fell := m.now
	for n := full; n > 2; n = m.fleet().Ready {
		m.runFor(time.Second)
		if gone := n - m.fleet().Ready; gone > n/10+1 {
			t.Fatalf("%d of %d instances went in a second", gone, n)
		}
		if m.now.Sub(fell) > 150*time.Second {
			t.Fatalf("%d instances left", n)
		}
	}
	t.Logf("%d instances fewer took %v", full-2, m.now.Sub(fell))
	m.runFor(5 * time.Minute)
	if n := m.fleet().total(); n != 2 {
		t.Errorf("%d instances in the end", n)
	}
}

// TestStuckSlots: an instance most of whose slots are taken for long does not
// empty the queue as quickly as the few short requests that end suggest.
func TestStuckSlots(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, MinInstances: 1}, 20*time.Second)
	m.runFor(time.Minute)
	m.burst(100, 100*ms)
	m.runFor(30 * time.Second)
	m.burst(9, 20*time.Minute)
	m.runFor(100 * ms)
	m.burst(400, 100*ms)
	m.runFor(4 * time.Second)
	if f := m.fleet(); f.Starting == 0 {
		t.Errorf("fleet is %+v with %d queued", f, len(m.queue))
	}
}

// TestMispredictedQueue: a queue that is still there when it was to be empty is
// not waited for any longer.
func TestMispredictedQueue(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, MinInstances: 1}, 20*time.Second)
	m.runFor(time.Minute)
	m.burst(20, time.Second)
	m.runFor(30 * time.Second)
	m.burst(9, 20*time.Minute)
	m.runFor(ms)
	m.burst(80, time.Second) // would take the whole instance 8 s, but takes 80 s
	m.runFor(25 * time.Second)
	if f := m.fleet(); f.Starting < 5 {
		t.Errorf("fleet is %+v with %d queued", f, len(m.queue))
	}
}

// TestReplacedInstanceGoes: an instance whose replacement is ready is not kept
// until its deadline if it has nothing to do.
func TestReplacedInstanceGoes(t *testing.T) {
	s := New(Config{}, epoch, func() float64 { return 0.5 })
	s.Observe(Load{InFlight: 1}, epoch)
	s.Observe(Load{}, epoch.Add(time.Second))
	now := epoch.Add(10 * time.Second)
	if d := s.Decide(Fleet{Ready: 1, Expiring: 1}, now); d.Start != 1 || d.Release != 0 {
		t.Errorf("decision is %+v", d)
	}
	if d := s.Decide(Fleet{Ready: 1, Expiring: 1, Starting: 1}, now); d.Release != 0 {
		t.Errorf("goes before its replacement is ready: %+v", d)
	}
	if d := s.Decide(Fleet{Ready: 2, Expiring: 1}, now); d.Release != 1 || d.Start != 0 {
		t.Errorf("decision is %+v", d)
	}
}

// TestBurstIsNotSustained: only arrivals all the time are taken for a rate.
func TestBurstIsNotSustained(t *testing.T) {
	var d demand
	d.reset(epoch)
	now := epoch
	step := func(n int) {
		for range 10 {
			now = now.Add(flowBucket / 10)
			d.observe(Load{Queued: d.load.Queued + n}, now)
		}
	}
	for i := range 2 * flowBuckets {
		step(map[bool]int{true: 100, false: 0}[i%flowBuckets == 0])
		if r := d.arrivals(); r > 1 {
			t.Errorf("bucket %d: a burst looks like %v a second", i, r)
		}
	}
	for range flowBuckets + 1 {
		step(4)
	}
	if r := d.arrivals(); r < 80 || r > 120 {
		t.Errorf("100 a second look like %v", r)
	}
}

// TestRare: a request now and then keeps one instance.
func TestRare(t *testing.T) {
	m := newSim(t, Config{IdleTimeout: time.Minute}, 2*time.Second)
	for range 200 {
		m.burst(1, 100*ms)
		m.runFor(5 * time.Second)
		if n := m.fleet().total(); n != 1 {
			t.Fatalf("%d instances", n)
		}
	}
	if len(m.startedAt) != 1 {
		t.Errorf("%d starts", len(m.startedAt))
	}
}

// TestOverload: arrivals above capacity scale up soon, however long a start
// takes and however short the queue is compared with it.
func TestOverload(t *testing.T) {
	for _, tc := range []struct {
		name  string
		start time.Duration
		load  func(m *sim)
		need  int // instances
	}{
		{"half as much again", 8 * time.Second, func(m *sim) { m.poisson(5*time.Minute, steady(150), fixed(100*ms)) }, 3},
		{"ten times as much", 8 * time.Second, func(m *sim) { m.poisson(5*time.Minute, steady(1000), fixed(100*ms)) }, 20},
		{"queue of constant length", 8 * time.Second, func(m *sim) { m.clients(40, 5*time.Minute, fixed(100*ms)) }, 8},
		{"long requests", 8 * time.Second, func(m *sim) { m.poisson(5*time.Minute, steady(2), fixed(10*time.Second)) }, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, MinInstances: 1}, tc.start)
			m.burst(20, 100*ms)
			m.runFor(time.Minute)
			before := len(m.startedAt)
			begun := m.now
			tc.load(m)
			for len(m.startedAt) == before && m.now.Sub(begun) < time.Minute {
				m.runFor(50 * ms)
			}
			reacted := m.now.Sub(begun)
			most := 0
			for m.now.Sub(begun) < 4*time.Minute {
				m.runFor(time.Second)
				most = max(most, m.fleet().live())
			}
			t.Logf("first start after %v, most %d, after 4 min %d, queued %d", reacted, most, m.fleet().live(), len(m.queue))
			if n := m.fleet().live(); n < tc.need || n > 2*tc.need || len(m.queue) > 0 {
				t.Errorf("%d instances after 4 min, want %d; %d queued", n, tc.need, len(m.queue))
			}
			if reacted > 6*time.Second {
				t.Errorf("first start after %v", reacted)
			}
		})
	}
}

// TestAboveTarget: in-flight that stays above target without any queue scales
// up too.
func TestAboveTarget(t *testing.T) {
	m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, MinInstances: 1}, 2*time.Second)
	m.runFor(10 * time.Second)
	m.clients(9, time.Minute, fixed(100*ms))
	m.runFor(5 * time.Second)
	if f := m.fleet(); f.live() != 2 {
		t.Errorf("fleet is %+v", f)
	}
}

// TestRotation: replacements are ready before instances stop taking requests,
// and instances that started together are not replaced together.
func TestRotation(t *testing.T) {
	for _, tc := range []struct {
		life, start, service time.Duration
	}{
		{10 * time.Second, 500 * ms, 100 * ms},
		{10 * time.Second, 2 * time.Second, 300 * ms},
		{60 * time.Second, 2 * time.Second, time.Second},
		{60 * time.Second, 8 * time.Second, 5 * time.Second},
		{900 * time.Second, 8 * time.Second, 2 * time.Second},
		{900 * time.Second, 8 * time.Second, 20 * time.Second},
	} {
		m := newSim(t, Config{MaxConcurrent: 10, TargetConcurrent: 5, MinInstances: 8}, tc.start)
		m.life = tc.life
		m.clients(40, 6*tc.life, fixed(tc.service))
		m.runFor(tc.life / 3)
		m.fewest = 1 << 30
		m.waits = nil
		before := len(m.startedAt)
		m.runFor(4 * tc.life)
		starts := len(m.startedAt) - before
		t.Logf("life %v, start %v, service %v: %d starts for 8 instances in 4 lives, longest wait %v",
			tc.life, tc.start, tc.service, starts, m.wait(1))
		if m.cut > 0 || m.wait(1) > 0 || starts > 8*10 {
			t.Errorf("life %v, start %v, service %v: %d requests cut, longest wait %v, %d starts",
				tc.life, tc.start, tc.service, m.cut, m.wait(1), starts)
		}
	}
}
