package scale

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

var epoch = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

// fataler is what a simulation reports broken rules to.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// sim is a pool in virtual time: one queue, first come first served, and
// instances that start, serve, expire and drain. It asks the scaler exactly
// when the pool does: when a request has to queue, when an instance changes
// its state, and when the scaler wanted to be woken. After each decision it
// checks what must hold after every one.
type sim struct {
	t      fataler
	cfg    Config
	s      *Scaler
	rnd    *rand.Rand
	now    time.Time
	events events
	seq    int
	wake   int // the number of the only wake event that is valid

	instances []*simInstance
	queue     []*simRequest
	inFlight  int

	// What the world is like.
	startTime func() time.Duration
	life      time.Duration                                           // of an instance, from start to deadline; 0 is for ever
	fails     func() (kind Failure, after time.Duration, failed bool) // of a start
	dies      func() (after time.Duration, dies bool)                 // of a ready instance

	// What happened.
	startedAt                      []time.Time
	releases, arrived, served, cut int
	rejected                       int // at once, because starting is blocked
	waits                          []time.Duration
	lastDone                       time.Time
	trace                          []int // instances ready, each time it was looked at
	fewest                         int   // instances ready and lasting since this was last set
}

type simRequest struct {
	arrived time.Time
	service time.Duration
	done    func()
}

type simState int

const (
	simStarting simState = iota
	simReady
	simDraining
	simClosed
)

type simInstance struct {
	state     simState
	expiring  bool
	proved    bool
	inFlight  int
	startedAt time.Time
	used      int
}

type event struct {
	at  time.Time
	seq int
	run func()
}

type events []event

func (e events) Len() int { return len(e) }

func (e events) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].seq < e[j].seq
	}
	return e[i].at.Before(e[j].at)
}

func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

func (e *events) Push(x any) { *e = append(*e, x.(event)) }

func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newSim(t fataler, cfg Config, start time.Duration) *sim {
	m := &sim{t: t, cfg: cfg.withDefaults(), now: epoch, rnd: rand.New(rand.NewPCG(1, 2)), fewest: math.MaxInt}
	m.startTime = func() time.Duration { return start }
	m.s = New(cfg, m.now, m.rnd.Float64)
	m.after(0, m.decide)
	return m
}

func (m *sim) after(d time.Duration, run func()) {
	m.seq++
	heap.Push(&m.events, event{m.now.Add(max(d, 0)), m.seq, run}) // time never goes back
}

// runFor lets virtual time pass.
func (m *sim) runFor(d time.Duration) {
	end := m.now.Add(d)
	for len(m.events) > 0 && !m.events[0].at.After(end) {
		e := heap.Pop(&m.events).(event)
		m.now = e.at
		e.run()
	}
	m.now = end
}

// burst makes n requests arrive at once.
func (m *sim) burst(n int, service time.Duration) {
	for range n {
		m.arrive(&simRequest{service: service})
	}
}

// poisson makes requests arrive at random for d, rate(t) per second at time t.
func (m *sim) poisson(d time.Duration, rate func(t time.Duration) float64, service func() time.Duration) {
	begun := m.now
	var next func()
	next = func() {
		t := m.now.Sub(begun)
		if t >= d {
			return
		}
		m.arrive(&simRequest{service: service()})
		m.after(time.Duration(m.rnd.ExpFloat64()/max(rate(t), 0.1)*float64(time.Second)), next)
	}
	m.after(0, next)
}

// clients makes n clients send one request after another for d.
func (m *sim) clients(n int, d time.Duration, service func() time.Duration) {
	end := m.now.Add(d)
	var client func()
	client = func() {
		if m.now.Before(end) {
			m.arrive(&simRequest{service: service(), done: client})
		}
	}
	for range n {
		m.after(0, client)
	}
}

func (m *sim) arrive(r *simRequest) {
	r.arrived = m.now
	m.arrived++
	if m.blocked() {
		m.reject(r)
		return
	}
	if in := m.choose(); in != nil && len(m.queue) == 0 {
		m.serve(r, in)
		m.observe()
		return
	}
	m.queue = append(m.queue, r)
	m.observe()
	m.after(0, m.decide) // the controller runs a little later
}

func (m *sim) reject(r *simRequest) {
	m.rejected++
	if r.done != nil {
		m.after(time.Second, r.done) // clients try again
	}
}

// blocked is what the pool looks at before it lets a request wait.
func (m *sim) blocked() bool {
	b, _ := m.s.Blocked(m.now)
	return b && m.fleet().Ready == 0
}

func (m *sim) observe() {
	m.s.Observe(Load{InFlight: m.inFlight, Queued: len(m.queue)}, m.now)
}

// choose returns the busiest instance below its target, else the least busy
// one below its maximum.
func (m *sim) choose() *simInstance {
	var best *simInstance
	for _, in := range m.instances {
		if in.state != simReady || in.inFlight >= m.cfg.MaxConcurrent {
			continue
		}
		if best == nil {
			best = in
			continue
		}
		below, bestBelow := in.inFlight < m.cfg.TargetConcurrent, best.inFlight < m.cfg.TargetConcurrent
		switch {
		case below != bestBelow:
			if below {
				best = in
			}
		case below && in.inFlight > best.inFlight, !below && in.inFlight < best.inFlight:
			best = in
		}
	}
	return best
}

func (m *sim) serve(r *simRequest, in *simInstance) {
	m.inFlight++
	in.inFlight++
	in.used++
	m.waits = append(m.waits, m.now.Sub(r.arrived))
	m.after(r.service, func() {
		m.inFlight--
		in.inFlight--
		m.s.Served(r.service)
		if in.state == simClosed {
			m.cut++
		} else {
			m.served++
			m.proved(in)
		}
		m.lastDone = m.now
		m.dequeue()
		m.observe()
		if in.state == simDraining && in.inFlight == 0 {
			m.close(in)
		}
		if r.done != nil {
			r.done()
		}
	})
}

func (m *sim) dequeue() {
	for len(m.queue) > 0 {
		in := m.choose()
		if in == nil {
			return
		}
		r := m.queue[0]
		m.queue = m.queue[1:]
		m.serve(r, in)
	}
}

func (m *sim) fleet() Fleet {
	var f Fleet
	for _, in := range m.instances {
		switch in.state {
		case simStarting:
			f.Starting++
		case simReady:
			f.Ready++
			if in.expiring {
				f.Expiring++
			}
		case simDraining:
			f.Draining++
		case simClosed:
		}
	}
	return f
}

func (m *sim) decide() {
	m.observe()
	f := m.fleet()
	m.trace = append(m.trace, f.Ready)
	m.fewest = min(m.fewest, f.lasting())
	d := m.s.Decide(f, m.now)
	m.check(f, d)
	for range d.Start {
		m.start()
	}
	for range d.Release {
		m.release()
	}
	if again := m.s.Decide(m.fleet(), m.now); again.Start != 0 || again.Release != 0 {
		m.t.Fatalf("asked again at once after %+v for %+v, the answer is %+v", d, f, again)
	}
	if m.blocked() {
		for _, r := range m.queue {
			m.reject(r)
		}
		m.queue = nil
		m.observe()
	}
	m.wake++
	if !d.Wake.IsZero() {
		n := m.wake
		m.after(d.Wake.Sub(m.now), func() {
			if n == m.wake {
				m.decide()
			}
		})
	}
}

// check checks what must hold after every decision.
func (m *sim) check(f Fleet, d Decision) {
	m.t.Helper()
	bad := func(what string) {
		m.t.Helper()
		m.t.Fatalf("at %v: %s: %+v for %+v with %d in flight, %d queued",
			m.now.Sub(epoch), what, d, f, m.inFlight, len(m.queue))
	}
	switch {
	case d.Start < 0 || d.Release < 0 || d.Release > f.Ready:
		bad("impossible")
	case d.Start > 0 && d.Release > 0:
		bad("both start and release")
	case d.Start > 0 && f.live()+d.Start > m.cfg.MaxInstances:
		bad("above the maximum")
	case d.Release > 0 && f.Ready-d.Release < m.cfg.MinInstances:
		bad("below the minimum")
	case d.Release > 0 && len(m.queue) > 0:
		bad("released while requests wait")
	case !d.Wake.IsZero() && !d.Wake.After(m.now):
		bad("wake is not in the future")
	case len(m.queue) > 0 && f.Starting+f.Ready+d.Start == 0 && d.Wake.IsZero():
		bad("requests wait and nothing will happen")
	case m.s.Desired() < m.cfg.MinInstances || m.s.Desired() > m.cfg.MaxInstances && m.s.Desired() > f.live():
		bad("desired is out of range")
	}
}

func (m *sim) start() {
	m.startedAt = append(m.startedAt, m.now)
	in := &simInstance{startedAt: m.now}
	m.instances = append(m.instances, in)
	if m.fails != nil {
		if kind, after, failed := m.fails(); failed {
			m.after(after, func() { m.fail(in, kind) })
			return
		}
	}
	m.after(m.startTime(), func() { m.ready(in) })
}

func (m *sim) ready(in *simInstance) {
	in.state = simReady
	m.s.Started(m.now.Sub(in.startedAt), m.now)
	m.after(ProvingTime, func() { m.proved(in) })
	if m.dies != nil {
		if after, dies := m.dies(); dies {
			m.after(after, func() { m.fail(in, FailureOther) })
		}
	}
	if m.life > 0 {
		deadline := in.startedAt.Add(m.life)
		replaceAt, drainAt := m.s.Retire(in.startedAt, deadline, m.rnd.Float64())
		m.after(replaceAt.Sub(m.now), func() { in.expiring = true; m.decide() })
		m.after(drainAt.Sub(m.now), func() { m.drain(in); m.decide() })
		m.after(deadline.Sub(m.now), func() { m.close(in) })
	}
	m.dequeue()
	m.observe()
	m.decide()
}

func (m *sim) proved(in *simInstance) {
	if !in.proved && in.state != simClosed {
		in.proved = true
		m.s.Proved()
	}
}

func (m *sim) fail(in *simInstance, kind Failure) {
	if in.state == simClosed {
		return
	}
	m.close(in)
	m.s.Failed(kind, m.now)
	m.decide()
}

// release drains the instance that is least needed.
func (m *sim) release() {
	var least *simInstance
	for _, in := range m.instances {
		if in.state != simReady {
			continue
		}
		if in.expiring && in.inFlight == 0 {
			least = in
			break
		}
		if least == nil || in.inFlight < least.inFlight {
			least = in
		}
	}
	if least == nil {
		m.t.Fatalf("nothing to release")
	}
	m.releases++
	m.drain(least)
}

func (m *sim) drain(in *simInstance) {
	if in.state != simReady {
		return
	}
	in.state = simDraining
	if in.inFlight == 0 {
		m.close(in)
	}
}

func (m *sim) close(in *simInstance) {
	if in.state == simClosed {
		return
	}
	in.state = simClosed
	m.instances = slices.DeleteFunc(m.instances, func(i *simInstance) bool { return i == in })
	m.after(0, m.decide)
}

// wait returns the quantile q of how long requests waited.
func (m *sim) wait(q float64) time.Duration {
	if len(m.waits) == 0 {
		return 0
	}
	w := slices.Sorted(slices.Values(m.waits))
	return w[min(int(q*float64(len(w))), len(w)-1)]
}

// fixed is a service time that never varies.
func fixed(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// exponential is a service time that varies a lot.
func (m *sim) exponential(mean time.Duration) func() time.Duration {
	return func() time.Duration { return time.Duration(m.rnd.ExpFloat64() * float64(mean)) }
}

// steady is a rate that never varies.
func steady(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}
