package dispatch

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// machine drives a Dispatcher and a naive model of it side by side and compares
// them after every step. The model is the rules of the documentation, written
// as searches over everything there is.
type machine struct {
	t    fataler
	pick func(n int) int // an arbitrary number in [0,n), the source of all choices
	d    *Dispatcher
	now  time.Time

	queueSize int
	requests  []*modelRequest
	instances []*modelInstance
	arrivals  int
	uses      int
	granted   []string // what the Dispatcher granted in this step
}

// maxQueue bounds the QueueSize that the machine sets: small enough to be
// reached, large enough for the heap of retries to have some depth.
const maxQueue = 24

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

type modelRequest struct {
	w       Waiter
	id      int
	state   requestState
	arrival int
	arrived time.Time
	on      *modelInstance // while it holds a slot
}

type requestState int

const (
	over requestState = iota
	waiting
	holding
)

type modelInstance struct {
	in          Instance
	id          int
	state       state
	target, max int
	inFlight    int
	used        int
	idleSince   time.Time
}

func newMachine(t fataler, pick func(n int) int) *machine {
	m := &machine{t: t, pick: pick, now: time.Unix(1e9, 0), queueSize: pick(maxQueue)}
	m.d = New(Config{QueueSize: m.queueSize}, func(w *Waiter, in *Instance) {
		m.granted = append(m.granted, grantName(w.Owner.(*modelRequest), in.Owner.(*modelInstance)))
		if w.place != notQueued || w.link != (link[Waiter]{}) {
			t.Fatalf("request %d is granted and still in the queue", w.Owner.(*modelRequest).id)
		}
	})
	return m
}

func grantName(r *modelRequest, mi *modelInstance) string {
	return fmt.Sprintf("request %d on instance %d", r.id, mi.id)
}

// The model's answers.

// better reports whether a comes before b by the rule of choice.
func (m *machine) better(a, b *modelInstance) bool {
	na, nb := a.inFlight, b.inFlight
	belowA, belowB := na < a.target, nb < b.target
	switch {
	case belowA != belowB:
		return belowA
	case na != nb && belowA:
		return na > nb
	case na != nb:
		return na < nb
	default:
		return a.used > b.used
	}
}

func (m *machine) choose() *modelInstance {
	var best *modelInstance
	for _, mi := range m.instances {
		if mi.state == ready && mi.inFlight < mi.max && (best == nil || m.better(mi, best)) {
			best = mi
		}
	}
	return best
}

func (m *machine) idlest() *modelInstance {
	var best *modelInstance
	for _, mi := range m.instances {
		if mi.state != ready {
			continue
		}
		if best == nil || mi.inFlight < best.inFlight ||
			mi.inFlight == best.inFlight && mi.used < best.used {
			best = mi
		}
	}
	return best
}

func (m *machine) oldest() *modelRequest {
	var best *modelRequest
	for _, r := range m.requests {
		if r.state == waiting && (best == nil || r.arrival < best.arrival) {
			best = r
		}
	}
	return best
}

func (m *machine) waiting() int { return len(m.in(waiting)) }

func (m *machine) in(s requestState) []*modelRequest {
	return filter(m.requests, func(r *modelRequest) bool { return r.state == s })
}

// The model's changes.

func (m *machine) use(mi *modelInstance) {
	m.uses++
	mi.used = m.uses
}

func (m *machine) hold(r *modelRequest, mi *modelInstance) {
	r.state, r.on = holding, mi
	mi.inFlight++
	mi.idleSince = time.Time{}
	m.use(mi)
}

// release lets a request's slot go, in the model and in the Dispatcher, and
// expects the grants that follow from it.
func (m *machine) release(r *modelRequest) {
	mi := r.on
	r.state, r.on = over, nil
	mi.inFlight--
	if mi.inFlight == 0 {
		mi.idleSince = m.now
	}
	m.use(mi)
	m.expectGrants(func() { m.d.Release(&mi.in, m.now) })
}

// expectGrants runs one step of the Dispatcher and checks who it gave slots to:
// the oldest first, until nobody waits or no slot is free.
func (m *machine) expectGrants(step func()) {
	m.t.Helper()
	var want []string
	for {
		r, mi := m.oldest(), m.choose()
		if r == nil || mi == nil {
			break
		}
		m.hold(r, mi)
		want = append(want, grantName(r, mi))
	}
	m.granted = nil
	step()
	if !slices.Equal(m.granted, want) {
		m.t.Fatalf("granted %q, want %q", m.granted, want)
	}
}

// placed checks the answer of Acquire or Requeue against the model and follows it.
func (m *machine) placed(r *modelRequest, in *Instance) {
	m.t.Helper()
	mi := m.choose()
	switch {
	case mi == nil && in != nil:
		m.t.Fatalf("request %d got instance %d, want none", r.id, in.Owner.(*modelInstance).id)
	case mi == nil:
		r.state = waiting
	case in == nil:
		m.t.Fatalf("request %d got no slot, want instance %d", r.id, mi.id)
	case in != &mi.in:
		m.t.Fatalf("request %d got instance %d, want %d", r.id, in.Owner.(*modelInstance).id, mi.id)
	default:
		m.hold(r, mi)
	}
}

// The steps. One that finds nothing to act on does nothing.

func (m *machine) arrive() {
	r := choice(m, m.in(over)) // waiters are used again and again
	if r == nil || m.pick(8) == 0 {
		r = &modelRequest{id: len(m.requests)}
		r.w.Owner = r
		m.requests = append(m.requests, r)
	}
	wantFull := m.choose() == nil && m.waiting() >= m.queueSize
	in, err := m.d.Acquire(&r.w, m.now)
	if errors.Is(err, ErrQueueFull) != wantFull || err != nil && in != nil {
		m.t.Fatalf("acquire: %v, %v; want full: %v", in, err, wantFull)
	}
	if wantFull {
		return
	}
	m.arrivals++
	r.arrival, r.arrived = m.arrivals, m.now
	m.placed(r, in)
}

func (m *machine) complete() {
	if r := choice(m, m.in(holding)); r != nil {
		m.release(r)
	}
}

// retry is what a request does that failed, often because its instance did.
func (m *machine) retry() {
	r := choice(m, m.in(holding))
	if r == nil {
		return
	}
	switch m.pick(3) {
	case 0:
		m.remove(r.on)
	case 1:
		m.drain(r.on)
	}
	m.release(r)
	m.placed(r, m.d.Requeue(&r.w))
}

func (m *machine) cancel() {
	r := choice(m, m.requests)
	if r == nil {
		return
	}
	want := r.state == waiting
	if got := m.d.Cancel(&r.w); got != want {
		m.t.Fatalf("cancel of request %d: %v, want %v", r.id, got, want)
	}
	if want {
		r.state = over
	}
}

func (m *machine) turnAway() {
	r, w := m.oldest(), m.d.PopWaiter()
	switch {
	case r == nil && w == nil:
	case r == nil || w != &r.w:
		m.t.Fatalf("popped %v, want %v", w, r)
	default:
		r.state = over
	}
}

func (m *machine) configure() {
	m.queueSize = m.pick(maxQueue)
	m.d.Configure(Config{QueueSize: m.queueSize})
}

// limits returns limits of all kinds, senseless ones included, and what they
// are taken for.
func (m *machine) limits() (l Limits, target, most int) {
	l = Limits{Target: m.pick(9) - 1, Max: m.pick(9) - 1}
	most = max(l.Max, 0)
	target = min(max(l.Target, 1), most)
	return l, target, most
}

func (m *machine) add() {
	mi := choice(m, filter(m.instances, func(mi *modelInstance) bool {
		return mi.state == outside && mi.inFlight == 0
	}))
	if mi == nil || m.pick(4) == 0 {
		mi = &modelInstance{id: len(m.instances)}
		mi.in.Owner = mi
		m.instances = append(m.instances, mi)
	}
	var l Limits
	l, mi.target, mi.max = m.limits()
	mi.state, mi.idleSince = ready, m.now
	m.use(mi)
	m.expectGrants(func() { m.d.Add(&mi.in, l, m.now) })
}

func (m *machine) setLimits() {
	mi := choice(m, m.instances)
	if mi == nil {
		return
	}
	n := mi.inFlight
	before := []bool{n < mi.target, n < mi.max}
	var l Limits
	l, mi.target, mi.max = m.limits()
	if !slices.Equal(before, []bool{n < mi.target, n < mi.max}) {
		m.use(mi)
	}
	m.expectGrants(func() { m.d.SetLimits(&mi.in, l) })
}

func (m *machine) drain(mi *modelInstance) {
	if mi == nil {
		return
	}
	if mi.state == ready {
		mi.state = draining
	}
	m.expectGrants(func() { m.d.Drain(&mi.in) })
}

func (m *machine) remove(mi *modelInstance) {
	if mi == nil {
		return
	}
	mi.state = outside
	m.expectGrants(func() { m.d.Remove(&mi.in) })
}

// check compares everything that can be asked, and the structure behind it.
func (m *machine) check() {
	m.now = m.now.Add(time.Second) // so that each step has a time of its own

	var inFlight, free, readyCount, drainingCount int
	for _, mi := range m.instances {
		n := mi.inFlight
		if mi.in.InFlight() != n || mi.in.IdleSince() != mi.idleSince {
			m.t.Fatalf("instance %d has %d in flight and is idle since %v, want %d and %v",
				mi.id, mi.in.InFlight(), mi.in.IdleSince(), n, mi.idleSince)
		}
		switch mi.state {
		case ready:
			readyCount++
			free += max(mi.max-n, 0)
			inFlight += n
		case draining:
			drainingCount++
			inFlight += n
		case outside: // what it still holds is nobody's
		}
	}
	m.equal("queued", m.d.Queued(), m.waiting())
	m.equal("in flight", m.d.InFlight(), inFlight)
	m.equal("free", m.d.Free(), free)
	m.equal("ready", m.d.Ready(), readyCount)
	m.equal("draining", m.d.Draining(), drainingCount)
	if m.d.Queued() > 0 && m.d.Free() > 0 {
		m.t.Fatalf("%d wait while %d slots are free", m.d.Queued(), m.d.Free())
	}

	var oldestWait time.Duration
	if r := m.oldest(); r != nil {
		oldestWait = m.now.Sub(r.arrived)
		m.equal("arrival of the oldest", r.w.Arrived(), r.arrived)
	}
	m.equal("oldest wait", m.d.OldestWait(m.now), oldestWait)

	var idlest *Instance
	if mi := m.idlest(); mi != nil {
		idlest = &mi.in
	}
	if got := m.d.Idlest(); got != idlest {
		m.t.Fatalf("idlest is %v, want %v", got, idlest)
	}
	checkStructure(m.t, m.d)
}

func (m *machine) equal(what string, got, want any) {
	if got != want {
		m.t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func choice[T any](m *machine, from []*T) *T {
	if len(from) == 0 {
		return nil
	}
	return from[m.pick(len(from))]
}

func filter[T any](from []*T, keep func(*T) bool) []*T {
	var kept []*T
	for _, x := range from {
		if keep(x) {
			kept = append(kept, x)
		}
	}
	return kept
}
