package locallambda

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// settle is how long a caller waits, at most, after the response is there,
// for its environment to become idle again. On AWS the way back to the caller
// takes longer than the runtime's way to its next poll, so that whoever invokes
// again finds the same environment; on one machine the caller would win that
// race and get a cold start.
const settle = 100 * time.Millisecond

// What ends a wait other than its condition.
var (
	errDeadline = errors.New("deadline")
	errStopping = errors.New("stopping")
)

// environment is one execution environment. Its life is one goroutine, which
// alone touches the fields that are not marked.
type environment struct {
	s        *Service
	fn       *function
	settings *Function
	id       string
	logger   *zap.Logger
	tail     tail

	box    sandbox
	alive  map[string]bool // processes of box, by extension file name; "" is the runtime
	frozen bool

	work   chan *invocation // capacity 1: filled when an idle environment is taken
	retire chan struct{}    // closed when an idle environment is sent away

	// The rest is guarded by Service.mu.

	state  State
	since  time.Time
	logged State // the last state that was logged
	pid    int
	port   int
	served uint64
}

func newEnvironment(s *Service, fn *function) *environment {
	random := make([]byte, 16)
	rand.Read(random) // never fails, see crypto/rand
	// https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html
	id := time.Now().UTC().Format("2006/01/02") + "/[" + latest + "]" + hex.EncodeToString(random)
	return &environment{
		s: s, fn: fn, settings: fn.settings, id: id,
		logger: s.logger.With(zap.String("function", fn.ref.key()), zap.String("environment", id)),
		work:   make(chan *invocation, 1),
		retire: make(chan struct{}),
	}
}

// become changes the state. Called with Service.mu held; logState follows.
func (e *environment) become(next State) {
	if !e.state.allows(next) {
		panic(fmt.Sprintf("locallambda: environment cannot become %s: it is %s", next, e.state))
	}
	e.state, e.since = next, time.Now()
}

// logState logs the state if it has changed. It is not part of become because
// logging is I/O, and locks are not held over I/O.
func (e *environment) logState() {
	e.s.mu.Lock()
	from, to, pid := e.logged, e.state, e.pid
	e.logged = to
	e.s.mu.Unlock()
	if from != to {
		e.logger.Debug("environment changed state",
			zap.String("from", string(from)), zap.String("to", string(to)), zap.Int("pid", pid))
	}
}

// live is the environment's life, from its first invocation to its end.
func (e *environment) live(inv *invocation) {
	defer e.end()
	e.logState()

	deadline, err := e.initialise(inv)
	if err != nil {
		inv.finish(e.failed(inv, err))
		e.shutDown(reasonFor(err))
		return
	}
	e.change(StateInvoking)
	for inv != nil {
		if reason := e.invoke(inv, deadline); reason != "" {
			e.shutDown(reason)
			return
		}
		inv = e.await()
		deadline = time.Now().Add(e.settings.Timeout)
	}
	e.shutDown(reasonSpindown)
}

// initialise gets the environment to the point where it takes its first
// invocation, and returns that invocation's deadline. A failed init phase is
// repeated once as part of the invocation, under the function timeout.
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib
func (e *environment) initialise(inv *invocation) (time.Time, error) {
	port, err := appPorts.take(e.settings.AppPort)
	if err != nil {
		return time.Time{}, errService(err)
	}
	e.s.mu.Lock()
	e.port = port
	e.s.mu.Unlock()

	if e.settings.ColdStart > 0 {
		timer := time.NewTimer(e.settings.ColdStart)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-e.s.stopping.Done():
			return time.Time{}, errStopping
		}
	}

	began := time.Now()
	err = e.boot(began.Add(e.settings.InitTimeout))
	if err == nil {
		return time.Now().Add(e.settings.Timeout), nil
	}
	if errors.Is(err, errStopping) {
		return time.Time{}, err
	}
	e.logger.Warn("initialising the environment again",
		zap.Duration("after", time.Since(began)), zap.String("request", inv.id), zap.Error(err))
	e.discard()

	deadline := time.Now().Add(e.settings.Timeout)
	return deadline, e.boot(deadline)
}

// boot starts the processes and returns when all of them wait for an event.
func (e *environment) boot(deadline time.Time) error {
	box, err := e.s.newSandbox(sandboxConfig{
		host: e.s.host, logger: e.logger, settings: e.settings,
		ref: e.fn.ref, id: e.id, port: e.port, line: e.line,
	})
	if err != nil {
		return errService(err)
	}
	e.box, e.alive, e.frozen = box, make(map[string]bool), false
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()

	// The runtime starts when the extensions have registered, which lets them
	// see all of it.
	ses := box.session()
	if err := box.startExtensions(); err != nil {
		return err
	}
	for name := range ses.external {
		e.alive[name] = true
	}
	if err := e.until(ses.registered, timer.C); err != nil {
		return err
	}
	if err := box.startRuntime(); err != nil {
		return err
	}
	e.alive[""] = true
	e.s.mu.Lock()
	e.pid = box.pid()
	e.s.mu.Unlock()
	if err := e.until(ses.idle, timer.C); err != nil {
		return err
	}
	box.survey()
	return nil
}

// until waits for the session to be as done says.
func (e *environment) until(done func() bool, timeout <-chan time.Time) error {
	ses := e.box.session()
	for {
		if f := ses.failed(); f != nil {
			return f
		}
		if done() {
			return nil
		}
		select {
		case <-ses.changed:
		case x := <-e.box.exits():
			delete(e.alive, x.extension)
			if f := ses.failed(); f != nil {
				return f // it said why before it exited
			}
			return failExit(x)
		case <-timeout:
			return errDeadline
		case <-e.s.stopping.Done():
			return errStopping
		}
	}
}

// invoke runs one invocation until everybody waits for the next one, and
// leaves the environment idle. If it cannot go on, it returns why it is to be
// shut down.
func (e *environment) invoke(inv *invocation, deadline time.Time) (reason string) {
	e.tail.begin(inv)
	ses := e.box.session()
	ses.begin(inv, deadline)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()

	err := e.until(ses.answered, timer.C)
	if err != nil {
		if r, ok := ses.answer(); ok { // it answered and exited
			inv.finish(e.complete(inv, r))
		} else {
			inv.finish(e.failed(inv, err))
		}
		return reasonFor(err)
	}

	// The invocation goes on until the runtime and the extensions are done,
	// but the caller need not wait for slow ones.
	r, _ := ses.answer()
	release := time.AfterFunc(settle, func() { inv.finish(e.complete(inv, r)) })
	defer func() {
		release.Stop()
		inv.finish(e.complete(inv, r))
	}()
	if err := e.until(ses.idle, timer.C); err != nil {
		return reasonFor(err)
	}
	if !e.rest() {
		return reasonSpindown
	}
	return ""
}

func reasonFor(err error) string {
	switch {
	case errors.Is(err, errDeadline):
		return reasonTimeout
	case errors.Is(err, errStopping):
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

// change changes the state on the environment's own account.
func (e *environment) change(next State) {
	e.s.mu.Lock()
	e.become(next)
	e.s.mu.Unlock()
	e.logState()
}

// end is the last thing that an environment does.
func (e *environment) end() {
	e.s.mu.Lock()
	port := e.port
	e.become(StateGone)
	e.pid, e.port = 0, 0
	e.fn.remove(&e.fn.all, e)
	e.s.forget(e.fn)
	e.s.mu.Unlock()
	appPorts.release(port)
	e.logState()
}

// line takes a line of the processes' output.
func (e *environment) line(line []byte) {
	e.tail.add(line)
	e.fn.output.add(line)
}
