package locallambda

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
)

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

	opt    string // directory that stands for /opt; empty without layers
	box    sandbox
	alive  map[string]bool // processes of box, by extension file name; "" is the runtime
	frozen bool

	tenant string           // whom it belongs to, if the function isolates tenants
	work   chan *invocation // capacity: the concurrency; filled when the environment is given one
	retire chan struct{}    // closed when an idle environment is sent away

	// The rest is guarded by Service.mu.

	state  State
	since  time.Time
	logged State // the last state that was logged
	pid    int
	port   int
	load   int // invocations that it was given and is not done with
	served uint64
}

func newEnvironment(s *Service, fn *function, tenant string) *environment {
	random := make([]byte, 16)
	rand.Read(random) // never fails, see crypto/rand
	// https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html
	id := time.Now().UTC().Format("2006/01/02") + "/[" + latest + "]" + hex.EncodeToString(random)
	return &environment{
		s: s, fn: fn, settings: fn.settings, id: id,
		logger: s.logger.With(zap.String("function", fn.ref.key()), zap.String("environment", id)),
		tenant: tenant,
		work:   make(chan *invocation, fn.settings.concurrency()),
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
func (e *environment) live() {
	defer e.end()
	e.logState()
	if e.settings.managed() {
		e.liveManaged()
		return
	}

	inv := <-e.work
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
// repeated once as part of the invocation, under the function timeout, unless
// AWS has environments of the kind ready before they are invoked.
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib
func (e *environment) initialise(inv *invocation) (time.Time, error) {
	if err := e.prepare(); err != nil {
		return time.Time{}, err
	}
	began := time.Now()
	err := e.boot(began.Add(e.settings.InitTimeout))
	if err == nil && e.settings.SnapStart {
		if err = e.restore(); err != nil {
			return time.Time{}, err
		}
	}
	switch {
	case err == nil:
		return time.Now().Add(e.settings.Timeout), nil
	case errors.Is(err, errStopping):
		return time.Time{}, err
	case !e.settings.onDemand() && errors.Is(err, errDeadline):
		return time.Time{}, failInitTimeout(e.settings.InitTimeout)
	case !e.settings.onDemand():
		return time.Time{}, err
	}
	e.logger.Warn("initialising the environment again",
		zap.Duration("after", time.Since(began)), zap.String("request", inv.id), zap.Error(err))
	e.discard()

	deadline := time.Now().Add(e.settings.Timeout)
	return deadline, e.boot(deadline)
}

// prepare does what a cold start does before any process is started.
func (e *environment) prepare() error {
	port, err := appPorts.take(e.settings.AppPort)
	if err != nil {
		return errService(err)
	}
	e.s.mu.Lock()
	e.port = port
	e.s.mu.Unlock()

	if len(e.settings.Layers) > 0 {
		if e.opt, err = unpackLayers(e.settings.Layers); err != nil {
			return errService(err)
		}
	}
	if e.settings.ColdStart > 0 {
		timer := time.NewTimer(e.settings.ColdStart)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-e.s.stopping.Done():
			return errStopping
		}
	}
	return nil
}

// boot starts the processes and returns when all of them wait for an event.
func (e *environment) boot(deadline time.Time) error {
	box, err := e.s.newSandbox(sandboxConfig{
		host: e.s.host, logger: e.logger, settings: e.settings,
		ref: e.fn.ref, id: e.id, port: e.port, opt: e.opt, line: e.line,
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
	ready := ses.idle
	if ses.snapStart {
		ready = ses.snapshotable
	}
	if err := e.until(ready, timer.C); err != nil {
		return err
	}
	box.survey()
	return nil
}

// restore takes the snapshot of SnapStart, which is the stopped processes
// themselves, and goes on from it: the runtime's hooks run until it asks for its
// first event.
func (e *environment) restore() error {
	e.box.freeze()
	e.box.thaw()
	ses := e.box.session()
	ses.resume()
	timer := time.NewTimer(e.settings.RestoreTimeout)
	defer timer.Stop()
	err := e.until(ses.idle, timer.C)
	if errors.Is(err, errDeadline) {
		return errRestoreTimeout(e.settings.RestoreTimeout)
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return errRestore(f)
	}
	return err
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

// change changes the state on the environment's own account.
func (e *environment) change(next State) {
	e.s.mu.Lock()
	e.become(next)
	e.s.mu.Unlock()
	e.logState()
}

// end is the last thing that an environment does.
func (e *environment) end() {
	if err := os.RemoveAll(e.opt); err != nil {
		e.logger.Warn("removing the unpacked layers", zap.Error(err))
	}
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
