package pool

import (
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/dispatch"
	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// instance is the router's view of one invocation.
type instance struct {
	pool      *Pool
	id        string
	router    string // the address that it was told
	startedAt time.Time

	// idle receives when a draining instance has no request left.
	idle chan struct{}
	// unwanted is closed to make an instance that is still starting end.
	unwanted chan struct{}
	// ending is closed when the instance will soon be gone.
	ending chan struct{}
	// gone is closed when the instance has reached StateClosed.
	gone chan struct{}

	// tunnels receives the tunnel, and unexpect ends the wait for it.
	tunnels  chan tunnel.Tunnel
	unexpect func()

	// tunnel is written once, before the instance becomes ready, and read by
	// leases, which exist only after that.
	tunnel tunnel.Tunnel

	// resultLost belongs to the instance's goroutine: Invoke has failed without
	// telling how the invocation ends.
	resultLost bool

	// The following are guarded by pool.mu.
	slots    dispatch.Instance
	state    State
	expiring bool // its replacement is due
	suspect  bool // its adapter does not answer
	overdue  bool // it should have been ready, and is no capacity
	lost     bool // the same, and not even counted any more
	late     bool // the scaler has heard that it was overdue
	answered bool // its app has answered a request
	proved   bool // the scaler has heard that it works
	blamed   bool // the scaler has heard that it failed
	givenUp  bool // it will get no tunnel any more
	letGo    bool // it was not needed: however it ends is no failure
	readyAt  time.Time
	deadline time.Time
	requests uint64
	why      string // it left the state ready
	zone     Zone   // how its zone and the router's relate
	meter    tunnel.Metered
}

// start invokes the function for one more instance. Callers hold p.mu.
func (p *Pool) start(now time.Time) {
	set := p.set
	ev := invoke.NewEvent(p.name, set.Callback.Advertise(), set.Callback.Pin(), set.Scale.MaxConcurrent)
	in := &instance{
		pool:      p,
		id:        ev.Instance,
		router:    ev.Router,
		startedAt: now,
		idle:      make(chan struct{}, 1),
		unwanted:  make(chan struct{}),
		ending:    make(chan struct{}),
		gone:      make(chan struct{}),
		tunnels:   make(chan tunnel.Tunnel, 1),
	}
	// Now and not later: another call of Configure may be what lets the
	// callback listener go, unless an instance is expected there.
	in.unexpect = set.Callback.Expect(ev.Instance, ev.Secret, in.offer)
	in.slots.Owner = in
	p.instances[in] = struct{}{}
	p.metrics.Invoked()
	p.log.Info("instance starting", zap.String("instance", in.id))
	p.tasks.Go(func() { in.live(set, ev) })
}

// ready makes the instance take requests.
func (in *instance) ready(t tunnel.Tunnel) {
	p := in.pool
	now := time.Now()
	said := t.Ready()
	took := now.Sub(in.startedAt)

	p.mu.Lock()
	in.tunnel = &provingTunnel{Tunnel: t, in: in}
	in.readyAt = now
	in.deadline = said.Deadline
	in.zone, in.meter = relate(p.set.Zone, said.Zone), meterOf(t)
	in.state = StateReady
	p.adviseTimeout(in, now)
	p.scaler.Started(took, now)
	p.lastFailure, p.lastReady = nil, now
	if f := p.fleet(); f.Ready-f.Expiring > p.set.Scale.MaxInstances && p.set.Scale.MaxInstances > 0 {
		p.retire(in, drainNotNeeded) // it was overdue, and another one has its place
	} else {
		if p.disp.Queued() > 0 {
			p.coldStarts++
		}
		p.disp.Add(&in.slots, in.limits(p.set.Scale), now)
	}
	p.observe(now)
	p.mu.Unlock()

	p.metrics.StartedIn(took)
	p.log.Info("instance ready",
		zap.String("instance", in.id),
		zap.Duration("start", took),
		zap.String("environment", said.Environment),
		zap.String("zone", said.Zone),
		zap.Time("deadline", said.Deadline))
	p.wake()
}

// limits are what the pool wants, or less if the adapter takes less. An instance
// that does not answer keeps the requests that wait for it and gets no more.
func (in *instance) limits(c scale.Config) dispatch.Limits {
	if in.suspect {
		return dispatch.Limits{}
	}
	most := max(1, min(c.MaxConcurrent, in.tunnel.Ready().MaxConcurrent))
	return dispatch.Limits{Target: min(c.TargetConcurrent, most), Max: most}
}

// suspected takes note of whether the adapter answers.
func (in *instance) suspected(suspect bool) {
	p := in.pool
	p.mu.Lock()
	in.suspect = suspect
	if in.state == StateReady {
		p.disp.SetLimits(&in.slots, in.limits(p.set.Scale))
	}
	p.mu.Unlock()
	if suspect {
		in.log("instance does not answer")
	} else {
		in.log("instance answers again")
	}
	p.wake()
}

// expire marks the instance as due for replacement.
func (in *instance) expire() {
	p := in.pool
	p.mu.Lock()
	in.expiring = true
	p.mu.Unlock()
	p.wake()
}

// retire is [Pool.retire] for callers that do not hold pool.mu.
func (in *instance) retire(why string) {
	in.pool.mu.Lock()
	in.pool.retire(in, why)
	in.pool.mu.Unlock()
}

// retire stops giving the instance requests. Callers hold p.mu.
func (p *Pool) retire(in *instance, why string) {
	if in.state != StateReady {
		return
	}
	in.state = StateDraining
	in.why = why
	p.disp.Drain(&in.slots)
	p.blameEnd(in)
	p.log.Info("instance draining",
		zap.String("instance", in.id),
		zap.String("reason", why),
		zap.Int("in_flight", in.slots.InFlight()))
	if in.slots.InFlight() == 0 {
		in.becameIdle()
	}
	p.wake()
}

// release lets go an instance that is not needed, whatever its state. Callers
// hold p.mu.
func (p *Pool) release(in *instance, why string) {
	if in.state == StateStarting && !in.letGo {
		in.letGo = true
		close(in.unwanted)
	}
	p.retire(in, why)
}

// becameIdle tells the instance's goroutine that no request is left. Callers
// hold p.mu.
func (in *instance) becameIdle() {
	select {
	case in.idle <- struct{}{}:
	default: // it knows already
	}
}

// abandoned moves an instance without a tunnel to draining: all that is left is
// to await its result, which will be that the router refused it.
func (in *instance) abandoned(why string, cause error) {
	p := in.pool
	p.mu.Lock()
	in.letGo = true
	in.state = StateDraining
	in.why = why
	in.lost = in.lost || cause != nil
	p.mu.Unlock()
	level := zap.InfoLevel
	if cause != nil {
		level = zap.ErrorLevel
	}
	p.log.Log(level, "instance draining", zap.String("instance", in.id), zap.String("reason", why), zap.Error(cause))
}

// detach takes the instance out of dispatch: its slots are gone, and requests
// still on it fail by themselves.
func (in *instance) detach() {
	p := in.pool
	now := time.Now()
	p.mu.Lock()
	if in.tunnel != nil {
		p.retire(in, "tunnel closed")
		p.disp.Remove(&in.slots)
	}
	p.observe(now)
	p.giveUpQueue(now)
	p.settle()
	p.mu.Unlock()
	p.wake()
}

// reason returns why the instance left the state ready.
func (in *instance) reason() string {
	in.pool.mu.Lock()
	defer in.pool.mu.Unlock()
	return in.why
}

func (in *instance) log(msg string, fields ...zap.Field) {
	in.pool.log.Warn(msg, append(fields, zap.String("instance", in.id))...)
}
