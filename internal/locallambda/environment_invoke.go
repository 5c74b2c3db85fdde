package locallambda

import (
	"errors"
	"time"

	"go.uber.org/zap"
)

// settle is how long a caller waits, at most, after the response is there,
// for its environment to become idle again. On AWS the way back to the caller
// takes longer than the runtime's way to its next poll, so that whoever invokes
// again finds the same environment; on one machine the caller would win that
// race and get a cold start.
const settle = 100 * time.Millisecond

// invoke runs one invocation until everybody waits for the next one, and
// leaves the environment idle. If it cannot go on, it returns why it is to be
// shut down.
func (e *environment) invoke(inv *invocation, deadline time.Time) (reason string) {
	inv.began = time.Now()
	e.tail.begin(inv, true)
	ses := e.box.session()
	d := ses.begin(inv, deadline)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()

	answered := func() bool { _, ok := ses.answer(d); return ok }
	err := e.until(answered, timer.C)
	if err != nil {
		if r, ok := ses.answer(d); ok { // it answered and exited
			inv.finish(e.complete(inv, explained(r, err)))
		} else {
			inv.finish(e.failed(inv, err))
		}
		return reasonFor(err)
	}

	// The invocation goes on until the runtime and the extensions are done,
	// but the caller need not wait for slow ones.
	r, _ := ses.answer(d)
	release := time.AfterFunc(settle, func() { inv.finish(e.complete(inv, r)) })
	err = e.until(ses.idle, timer.C)
	release.Stop()
	defer func() { inv.finish(e.complete(inv, explained(r, err))) }() // once it is warm
	if err != nil {
		return reasonFor(err)
	}
	if !e.rest() {
		return reasonSpindown
	}
	return ""
}

// explained is an answer with a better reason for its end: a response breaks off
// a moment before the death of its process is noticed.
func explained(r result, err error) result {
	f, ok := errors.AsType[*failure](err)
	if ok && r.failed != nil && r.failed.kind == kindTruncated {
		r.failed = f
	}
	return r
}

func reasonFor(err error) string {
	switch {
	case errors.Is(err, errDeadline):
		return reasonTimeout
	case errors.Is(err, errStopping), errors.Is(err, errUnwanted):
		return reasonSpindown
	default:
		return reasonFailure
	}
}

// failed is the result of an invocation that err kept from being answered.
func (e *environment) failed(inv *invocation, err error) result {
	var r result
	if refused, ok := errors.AsType[*apiError](err); ok {
		r.refused = refused
		return r
	}
	switch f, ok := errors.AsType[*failure](err); {
	case ok:
		r.failed = f
	case errors.Is(err, errDeadline):
		r.failed = failTimeout(e.settings.Timeout)
	default:
		r.refused = errService(ErrClosed)
		return r
	}
	e.logger.Warn("invocation failed", zap.String("request", inv.id), zap.Error(r.failed))
	return e.complete(inv, r)
}

// complete adds what is known about the invocation besides its answer.
func (e *environment) complete(inv *invocation, r result) result {
	r.log = e.tail.report(inv, r, e.settings)
	return r
}

// rest freezes the environment and offers it for the next invocation. It
// reports false if nobody wants it any more.
func (e *environment) rest() bool {
	wanted := func() bool {
		return !e.s.closed && e.settings == e.fn.settings && e.settings.WarmFor > 0
	}
	e.s.mu.Lock()
	ok := wanted()
	e.s.mu.Unlock()
	if ok {
		e.frozen = true
		e.box.freeze()
	}

	e.s.mu.Lock()
	if ok = ok && wanted(); ok {
		e.become(StateIdle)
		e.load = 0
		e.fn.busy--
		e.fn.warm = append(e.fn.warm, e)
		e.s.placeWaiting(e.fn)
	}
	e.s.mu.Unlock()
	e.logState()
	return ok
}

// await returns the next invocation, or nil when the environment has to go.
func (e *environment) await() *invocation {
	timer := time.NewTimer(e.settings.WarmFor)
	defer timer.Stop()
	select {
	case inv := <-e.work:
		return e.wake(inv)
	case <-timer.C:
	case <-e.retire:
	case x := <-e.box.exits():
		delete(e.alive, x.extension)
		e.logger.Warn("idle environment lost a process", zap.Error(failExit(x)))
	case <-e.s.stopping.Done():
	}
	if e.leave() {
		return nil
	}
	return e.wake(<-e.work) // taken in the same moment
}

func (e *environment) wake(inv *invocation) *invocation {
	e.logState()
	e.frozen = false
	e.box.thaw()
	return inv
}

// leave takes an idle environment out of the reach of invocations. It reports
// false if one has got it.
func (e *environment) leave() bool {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	if e.state == StateIdle { // nobody has sent it away
		e.fn.remove(&e.fn.warm, e)
		e.become(StateShuttingDown)
	}
	return e.state == StateShuttingDown
}
