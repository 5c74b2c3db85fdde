package locallambda

import (
	"slices"
	"time"
)

// Shutdown reasons that extensions are told.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html#runtimes-lifecycle-extensions-shutdown
const (
	reasonSpindown = "spindown"
	reasonTimeout  = "timeout"
	reasonFailure  = "failure"
)

// How long the shutdown phase lasts: not at all without extensions, half a
// second with internal ones, two seconds with external ones, of which the
// runtime has the first three tenths of a second.
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-shutdown
const (
	shutdownInternal = 500 * time.Millisecond
	shutdownExternal = 2 * time.Second
	shutdownRuntime  = 300 * time.Millisecond
)

// shutDown ends the processes: SIGTERM to the runtime's group, SIGKILL, the
// SHUTDOWN event to the extensions that want it and SIGKILL to those that do
// not, SIGKILL to all that is left.
func (e *environment) shutDown(reason string) {
	e.withdraw()
	if e.box == nil {
		return
	}
	defer e.discard()

	total, runtime := e.box.session().grace()
	if total == 0 || e.s.killing.Err() != nil {
		return
	}
	if e.frozen {
		e.frozen = false
		e.box.thaw()
	}
	deadline := time.Now().Add(total)
	e.box.terminateRuntime()
	e.waitExits(time.Now().Add(runtime), func() bool { return !e.alive[""] })
	e.box.killRuntime()
	for _, name := range e.box.session().shutDown(reason, deadline) {
		e.box.killExtension(name)
	}
	e.waitExits(deadline, func() bool { return len(e.alive) == 0 })
}

// withdraw takes the environment out of the reach of invocations.
func (e *environment) withdraw() {
	e.s.mu.Lock()
	if e.state != StateShuttingDown { // an idle one is already
		e.become(StateShuttingDown)
		e.fn.busy--
		e.s.placeWaiting(e.fn)
	}
	e.s.mu.Unlock()
	e.logState()
}

// waitExits waits until done, the deadline, or the end of Close's patience.
func (e *environment) waitExits(deadline time.Time, done func() bool) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for !done() {
		select {
		case x := <-e.box.exits():
			delete(e.alive, x.extension)
		case <-timer.C:
			return
		case <-e.s.killing.Done():
			return
		}
	}
}

// discard kills what is left of the processes and waits for it.
func (e *environment) discard() {
	if e.box == nil {
		return
	}
	e.box.close()
	e.box = nil
	e.s.mu.Lock()
	e.pid = 0
	e.s.mu.Unlock()
}

// remove takes e out of one of the function's lists. Called with Service.mu held.
func (fn *function) remove(list *[]*environment, e *environment) {
	if i := slices.Index(*list, e); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}
