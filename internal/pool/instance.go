package pool

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/dispatch"
	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

const (
	// callBackTimeout is how long an instance may stay in state starting.
	// Lambda may place the environment, initialise it for 10 s, give up and
	// initialise it once more before the adapter can dial.
	// Source: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
	callBackTimeout = 2 * time.Minute

	// resultTimeout is how long the result may take once the tunnel is gone.
	// An adapter that lost its router returns within seconds.
	resultTimeout = 30 * time.Second

	// maxInvocation is the longest that Lambda lets an invocation run.
	// Source: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
	maxInvocation = 15 * time.Minute
)

// instance is the router's view of one invocation.
type instance struct {
	pool      *Pool
	id        string
	startedAt time.Time

	// idle receives when a draining instance has no request left.
	idle chan struct{}
	// unwanted is closed to make an instance that is still starting end.
	unwanted chan struct{}
	// gone is closed when the instance has reached StateClosed.
	gone chan struct{}

	// tunnel is written once, before the instance becomes ready, and read by
	// leases, which exist only after that.
	tunnel tunnel.Tunnel

	// The following are guarded by pool.mu.
	slots    dispatch.Instance
	state    State
	expiring bool // its replacement is due
	givenUp  bool // it will get no tunnel any more
	letGo    bool // it was not needed: however it ends is no failure
	readyAt  time.Time
	deadline time.Time
	requests uint64
	why      string // it left the state ready
}

// outcome is how an invocation ended.
type outcome struct {
	result invoke.Result
	err    error
}

// start invokes the function for one more instance. Callers hold p.mu.
func (p *Pool) start(now time.Time) {
	set := p.set
	ev := invoke.NewEvent(p.name, set.Callback.Advertise(), set.Callback.Pin(), set.Scale.MaxConcurrent)
	in := &instance{
		pool:      p,
		id:        ev.Instance,
		startedAt: now,
		idle:      make(chan struct{}, 1),
		unwanted:  make(chan struct{}),
		gone:      make(chan struct{}),
	}
	in.slots.Owner = in
	p.instances[in] = struct{}{}
	p.metrics.Invoked()
	p.log.Info("instance starting", zap.String("instance", in.id))
	p.tasks.Go(func() { in.live(set, ev) })
}

// live takes the instance through its states. It is the only goroutine that
// does, so that each step is seen once and in order.
func (in *instance) live(set *Settings, ev invoke.Event) {
	ctx, abandon := context.WithCancel(context.Background())
	defer abandon()

	tunnels := make(chan tunnel.Tunnel, 1)
	unexpect := set.Callback.Expect(ev.Instance, ev.Secret, func(t tunnel.Tunnel) { in.offer(t, tunnels) })
	results := make(chan outcome, 1)
	in.pool.tasks.Go(func() {
		res, err := set.Invoker.Invoke(ctx, ev)
		results <- outcome{res, err}
	})

	t, out := in.starting(tunnels, results)
	unexpect()
	if t != nil {
		if out == nil {
			out = in.serving(t, results)
		}
		_ = t.Close()
	}
	in.detach()
	if out == nil {
		out = in.awaitResult(results)
	}
	in.close(out)
}

// offer takes the tunnel of an instance that is still starting. One that
// comes at the very moment that it is given up is closed.
func (in *instance) offer(t tunnel.Tunnel, tunnels chan<- tunnel.Tunnel) {
	in.pool.mu.Lock()
	wanted := in.state == StateStarting && !in.givenUp
	if wanted {
		tunnels <- t // there is room: a tunnel is offered once
	}
	in.pool.mu.Unlock()
	if !wanted {
		_ = t.Close()
	}
}

// giveUp ends the wait for a tunnel, and closes one that came all the same.
func (in *instance) giveUp(tunnels <-chan tunnel.Tunnel) {
	in.pool.mu.Lock()
	in.givenUp = true
	in.pool.mu.Unlock()
	select {
	case late := <-tunnels:
		_ = late.Close()
	default:
	}
}

// starting waits for the tunnel. It returns a nil tunnel if there will be none.
func (in *instance) starting(tunnels <-chan tunnel.Tunnel, results <-chan outcome) (tunnel.Tunnel, *outcome) {
	limit := time.NewTimer(callBackTimeout)
	defer limit.Stop()
	var out *outcome
	select {
	case t := <-tunnels:
		return t, nil
	case o := <-results:
		out = &o
	case <-limit.C:
		in.abandoned("no call-back", errNoCallBack)
		in.pool.failed(OutcomeNoCallBack, errNoCallBack)
	case <-in.unwanted:
		in.abandoned("not needed", nil)
	case <-in.pool.quit:
	}
	in.giveUp(tunnels)
	return nil, out
}

// errNoCallBack is the cause that clients' errors carry and the log explains.
var errNoCallBack = errors.New("the environment did not call back: " +
	"check that the function's network can reach the callback listener and that the function runs the adapter")

// serving is the life of the instance with a tunnel: ready, then draining. It
// returns nil if the tunnel ended before the invocation did.
func (in *instance) serving(t tunnel.Tunnel, results <-chan outcome) *outcome {
	replaceAt, drainAt := in.ready(t)
	next := time.NewTimer(time.Until(replaceAt))
	defer next.Stop()
	announced := t.Draining()
	told := false
	for {
		select {
		case <-next.C:
			if time.Now().Before(drainAt) {
				in.expire()
				next.Reset(time.Until(drainAt))
				continue
			}
			in.retire("deadline")
		case <-announced:
			announced = nil // closed for good: do not look again
			in.retire("asked by the adapter")
		case <-in.idle:
			if !told {
				told = true
				t.Drain(in.reason())
			}
		case <-t.Done():
			in.retire("tunnel closed")
			return nil
		case out := <-results:
			if invoke.KindOf(out.err) == invoke.KindUnreachable && out.err != nil {
				// Only the connection to the Invoke API broke: the
				// environment serves on, and its tunnel will tell the end.
				results = nil
				in.log("result of the invocation is lost", zap.Error(out.err))
				continue
			}
			return &out
		case <-in.pool.quit:
			return nil
		}
	}
}

// ready makes the instance take requests and returns when it is to be replaced
// and when it is to stop.
func (in *instance) ready(t tunnel.Tunnel) (replaceAt, drainAt time.Time) {
	p := in.pool
	now := time.Now()
	said := t.Ready()
	took := now.Sub(in.startedAt)

	p.mu.Lock()
	in.tunnel = t
	in.readyAt = now
	in.deadline = said.Deadline
	in.state = StateReady
	p.scaler.Started(took, now)
	p.lastFailure = nil
	replaceAt, drainAt = p.scaler.Retire(in.startedAt, said.Deadline)
	p.disp.Add(&in.slots, in.limits(p.set.Scale), now)
	p.observe(now)
	p.mu.Unlock()

	p.metrics.StartedIn(took)
	p.log.Info("instance ready",
		zap.String("instance", in.id),
		zap.Duration("start", took),
		zap.String("environment", said.Environment),
		zap.Time("deadline", said.Deadline))
	p.wake()
	return replaceAt, drainAt
}

// limits are what the pool wants, or less if the adapter takes less.
func (in *instance) limits(c scale.Config) dispatch.Limits {
	most := min(c.MaxConcurrent, in.tunnel.Ready().MaxConcurrent)
	return dispatch.Limits{Target: min(c.TargetConcurrent, most), Max: most}
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

// awaitResult waits for the invocation to end after its tunnel has. It returns
// nil if it takes too long.
func (in *instance) awaitResult(results <-chan outcome) *outcome {
	in.pool.mu.Lock()
	wait := resultTimeout
	if in.tunnel == nil {
		// It may still be about to dial, and will be refused when it does.
		wait = time.Until(in.startedAt.Add(maxInvocation + resultTimeout))
	}
	in.pool.mu.Unlock()
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case out := <-results:
		return &out
	case <-limit.C:
		return nil
	case <-in.pool.quit:
		return nil
	}
}

// close ends the instance's life and says how it went.
func (in *instance) close(out *outcome) {
	p := in.pool
	p.mu.Lock()
	wasReady, letGo := in.tunnel != nil, in.letGo
	p.mu.Unlock()
	name, cause := OutcomeNoResult, error(nil)
	fields := []zap.Field{zap.String("instance", in.id)}
	healthy := out == nil && wasReady
	switch {
	case out == nil:
	case out.err != nil:
		name, cause = string(invoke.KindOf(out.err)), out.err
	default:
		name = string(out.result.Reason)
		healthy = out.result.Reason.Healthy() && wasReady
		fields = append(fields, zap.String("environment", out.result.Environment))
		if !healthy {
			cause = resultError(out.result)
		}
	}
	p.metrics.Ended(name)
	if letGo || errors.Is(cause, context.Canceled) {
		cause = nil
	}
	if !healthy && cause != nil {
		p.failed(name, cause)
	}

	p.mu.Lock()
	in.state = StateClosed
	delete(p.instances, in)
	fields = append(fields,
		zap.String("result", name),
		zap.String("reason", in.why),
		zap.Uint64("requests", in.requests),
		zap.Duration("age", time.Since(in.startedAt)))
	p.mu.Unlock()
	close(in.gone)
	p.wake()

	if cause != nil {
		p.log.Error("instance closed", append(fields, zap.Error(cause))...)
		return
	}
	p.log.Info("instance closed", fields...)
}

// resultError is the error of an invocation whose result was not a healthy one.
func resultError(r invoke.Result) error {
	msg := r.Error
	if msg == "" {
		msg = "the instance ended before it was ready"
	}
	return &invoke.Error{Kind: invoke.KindFunction, Code: string(r.Reason), Message: msg}
}

// failed makes the scaler back off.
func (p *Pool) failed(name string, cause error) {
	kind := scale.FailureOther
	switch k := invoke.KindOf(cause); {
	case name == OutcomeNoCallBack:
	case k == invoke.KindThrottled:
		kind = scale.FailureThrottled
	case k.Permanent():
		kind = scale.FailurePermanent
	}
	now := time.Now()
	p.mu.Lock()
	p.lastFailure = cause
	p.scaler.Failed(kind, now)
	p.giveUpQueue(now)
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
