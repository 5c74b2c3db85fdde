package locallambda

import (
	"errors"
	"time"
)

// This file is the life of an environment that runs several invocations at
// once, as those of Lambda Managed Instances do: it is never frozen, and an
// invocation whose time is up fails without ending it.
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html

// errUnwanted ends the life of an environment that nobody needs any longer.
var errUnwanted = errors.New("unwanted")

// liveManaged is live for these environments.
func (e *environment) liveManaged() {
	var running []*delivery
	_, err := e.initialise(nil)
	if err == nil {
		e.change(StateInvoking)
		running, err = e.serve()
	}
	e.withdraw() // nothing is added to its work any more
	for _, d := range running {
		if r, ok := e.box.session().answer(d); ok {
			d.inv.finish(e.complete(d.inv, explained(r, err)))
		} else {
			d.inv.finish(e.failed(d.inv, err))
		}
	}
	for len(e.work) > 0 {
		inv := <-e.work
		inv.finish(e.failed(inv, err))
	}
	e.shutDown(reasonFor(err))
}

// serve runs invocations until the environment cannot go on, or nobody needs
// it. It returns those that are running then.
func (e *environment) serve() ([]*delivery, error) {
	ses := e.box.session()
	var running []*delivery // expired ones too, until the runtime is done with them
	timer := time.NewTimer(0)
	defer timer.Stop()
	idleSince := time.Now()
	for {
		timer.Reset(e.patience(running, idleSince))
		select {
		case inv := <-e.work:
			e.logState()
			inv.began = time.Now()
			e.tail.begin(inv, len(running) == 0)
			running = append(running, ses.begin(inv, inv.began.Add(e.settings.Timeout)))
			continue
		case <-ses.changed:
		case x := <-e.box.exits():
			delete(e.alive, x.extension)
			if f := ses.failed(); f != nil {
				return running, f // it said why before it exited
			}
			return running, failExit(x)
		case <-timer.C:
			if len(running) == 0 && e.leave() {
				return nil, errUnwanted
			}
		case <-e.retire:
			return nil, errUnwanted
		case <-e.s.stopping.Done():
			return running, errStopping
		}
		if f := ses.failed(); f != nil {
			return running, f
		}
		if len(running) == 0 {
			continue
		}
		if running = e.settleAll(running); len(running) > 0 {
			continue
		}
		if idleSince = time.Now(); !e.release() {
			return nil, errUnwanted
		}
	}
}

// patience is how long the environment waits at most for something to happen.
func (e *environment) patience(running []*delivery, idleSince time.Time) time.Duration {
	if len(running) == 0 {
		return time.Until(idleSince.Add(e.settings.WarmFor))
	}
	wait := e.settings.Timeout
	for _, d := range running {
		if !d.expired { // written by this goroutine only
			wait = min(wait, time.Until(d.deadline))
		}
	}
	return wait
}

// settleAll finishes the invocations that are answered, or whose time is up, and
// returns those that the runtime still works on.
func (e *environment) settleAll(running []*delivery) []*delivery {
	ses := e.box.session()
	var left []*delivery
	for _, d := range running {
		if r, ok := ses.answer(d); ok {
			ses.close(d)
			e.free()
			d.inv.finish(e.complete(d.inv, r))
			continue
		}
		left = append(left, d)
		if !d.expired && !time.Now().Before(d.deadline) {
			ses.expire(d)
			d.inv.finish(e.failed(d.inv, errDeadline))
		}
	}
	return left
}

// free makes room for another invocation.
func (e *environment) free() {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.load--
	e.s.placeWaiting(e.fn)
}

// release offers an environment that is done with all of its invocations for
// later ones. It reports false if nobody wants it any more.
func (e *environment) release() bool {
	e.box.survey()
	defer e.logState()
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	if e.load > 0 { // it was given another one meanwhile
		return true
	}
	wanted := !e.s.closed && e.settings == e.fn.settings && e.settings.WarmFor > 0
	e.fn.busy--
	if wanted {
		e.become(StateIdle)
		e.fn.warm = append(e.fn.warm, e)
	} else {
		e.become(StateShuttingDown)
	}
	e.s.placeWaiting(e.fn)
	return wanted
}
