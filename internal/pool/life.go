package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
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

// outcome is how an invocation ended.
type outcome struct {
	result invoke.Result
	err    error
}

// live takes the instance through its states. It is the only goroutine that
// does, so that each step is seen once and in order.
func (in *instance) live(set *Settings, ev invoke.Event) {
	ctx, abandon := context.WithCancel(context.Background())
	defer abandon()

	results := make(chan outcome, 1)
	in.pool.tasks.Go(func() {
		res, err := set.Invoker.Invoke(ctx, ev)
		results <- outcome{res, err}
	})

	t, out := in.starting(results)
	in.unexpect()
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
func (in *instance) offer(t tunnel.Tunnel) {
	in.pool.mu.Lock()
	wanted := in.state == StateStarting && !in.givenUp
	if wanted {
		in.tunnels <- t // there is room: a tunnel is offered once
	}
	in.pool.mu.Unlock()
	if !wanted {
		_ = t.Close()
	}
}

// giveUp ends the wait for a tunnel, and closes one that came all the same.
func (in *instance) giveUp() {
	in.pool.mu.Lock()
	in.givenUp = true
	in.pool.mu.Unlock()
	select {
	case late := <-in.tunnels:
		_ = late.Close()
	default:
	}
}

// starting waits for the tunnel. It returns a nil tunnel if there will be none.
func (in *instance) starting(results <-chan outcome) (tunnel.Tunnel, *outcome) {
	limit := time.NewTimer(callBackTimeout)
	defer limit.Stop()
	var out *outcome
	select {
	case t := <-in.tunnels:
		return t, nil
	case o := <-results:
		out = &o
	case <-limit.C:
		in.abandoned("no call-back", errNoCallBack)
		in.failed(errNoCallBack)
	case <-in.unwanted:
		in.abandoned("not needed", nil)
	case <-in.pool.quit:
	}
	in.giveUp()
	return nil, out
}

// errNoCallBack is the cause that clients' errors carry and the log explains.
var errNoCallBack = errors.New("the environment did not call back: " +
	"check that the function's network can reach the callback listener and that the function runs the adapter")

// serving is the life of the instance with a tunnel: ready, then draining. It
// returns nil if the tunnel ended before the invocation did.
func (in *instance) serving(t tunnel.Tunnel, results <-chan outcome) *outcome {
	in.ready(t)
	end := ending{in: in, spread: rand.Float64()}
	next := time.NewTimer(0)
	defer next.Stop()
	announced := t.Draining()
	var suspect <-chan bool
	if w, ok := t.(tunnel.Watched); ok {
		suspect = w.Suspect()
	}
	told := false
	for {
		select {
		case <-next.C:
			if wait := end.step(time.Now()); wait > 0 {
				next.Reset(wait)
			}
		case <-announced:
			announced = nil // closed for good: do not look again
			in.retire("asked by the adapter")
			if t.Err() == nil { // else it is gone without a warning
				in.end()
			}
		case bad := <-suspect:
			in.suspected(bad)
		case <-in.idle:
			if !told {
				told = true
				t.Drain(in.reason())
			}
		case <-t.Done():
			in.retire(drainTunnelClosed)
			return nil
		case out := <-results:
			if invoke.KindOf(out.err) == invoke.KindUnreachable && out.err != nil {
				// Only the connection to the Invoke API broke: the
				// environment serves on, and its tunnel will tell the end.
				results = nil
				in.resultLost = true
				in.log("result of the invocation is lost", zap.Error(out.err))
				continue
			}
			return &out
		case <-in.pool.cut:
			return nil
		case <-in.pool.quit:
			return nil
		}
	}
}

// awaitResult waits for the invocation to end after its tunnel has. It returns
// nil if it takes too long.
func (in *instance) awaitResult(results <-chan outcome) *outcome {
	if in.resultLost {
		return nil
	}
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
		in.failed(cause)
	}

	p.mu.Lock()
	in.state = StateClosed
	delete(p.instances, in)
	p.traffic.add(in)
	if wasReady || out.ran() {
		p.billed += billedFor(time.Since(in.startedAt))
	}
	if cause != nil {
		p.advise(in, cause, time.Now())
	}
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
