package pool

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// Why an instance leaves the state ready, where this file must know.
const (
	drainDeadline     = "deadline"
	drainNotNeeded    = "not needed"
	drainPoolClosed   = "pool closed"
	drainTunnelClosed = "tunnel closed"
)

// earlyEnd is how long an instance must have been ready for its end to be no
// failure if nobody in the router wanted it. A network that cuts every tunnel
// after a second must not be met with an invocation a second for each.
const earlyEnd = 10 * time.Second

// checkHealth tells the scaler which starts are overdue and which instances
// have proved themselves because they live, and returns when to look again.
// Callers hold p.mu.
func (p *Pool) checkHealth(now time.Time) (again time.Time) {
	overdue, lost := p.scaler.Overdue(), p.scaler.Lost()
	for in := range p.instances {
		switch in.state {
		case StateStarting:
			in.overdue = in.due(overdue, now, &again)
			if in.overdue && !in.late {
				in.late = true
				p.blameSilence(in, scale.FailureOverdue, now)
			}
			if in.overdue && !in.lost && in.due(lost, now, &again) {
				in.lost = true
				p.blameSilence(in, scale.FailureLost, now)
			}
		case StateReady:
			if in.proved {
				continue
			}
			if left := in.readyAt.Add(scale.ProvingTime).Sub(now); left > 0 {
				again = sooner(again, now.Add(left))
				continue
			}
			p.prove(in)
		case StateDraining, StateClosed:
		}
	}
	return again
}

// due reports whether the instance was started at least d ago. If not, again
// becomes the time when it will have been, unless it is earlier.
func (in *instance) due(d time.Duration, now time.Time, again *time.Time) bool {
	at := in.startedAt.Add(d)
	if now.Before(at) {
		*again = sooner(*again, at)
		return false
	}
	return true
}

// blameSilence tells the scaler that an instance does not call back. Callers
// hold p.mu.
func (p *Pool) blameSilence(in *instance, kind scale.Failure, now time.Time) {
	p.log.Warn("instance is overdue", zap.String("instance", in.id), zap.Duration("age", now.Sub(in.startedAt)))
	if p.outdated(in) {
		return
	}
	if kind == scale.FailureLost {
		p.lastFailure = errNoCallBack
		p.advise(in, errNoCallBack, now)
	}
	p.scaler.Failed(kind, now)
	p.scaler.Starting(p.fleet().Starting)
	p.giveUpQueue(now)
}

// outdated reports whether what happens to an instance that was overdue says
// nothing about now: another one has become ready since it was started. Callers
// hold p.mu.
func (p *Pool) outdated(in *instance) bool { return in.late && p.lastReady.After(in.startedAt) }

// prove tells the scaler that an instance works. Callers hold p.mu.
func (p *Pool) prove(in *instance) {
	if in.proved || in.blamed {
		return
	}
	in.proved = true
	p.scaler.Proved()
	p.wake()
}

// blameEnd tells the scaler of an instance that stops being ready, unless the
// router wants it to or it has been of use for a while. Its invocation may end
// without an error all the same. Callers hold p.mu.
func (p *Pool) blameEnd(in *instance) {
	switch in.why {
	case drainDeadline, drainNotNeeded, drainPoolClosed:
		return
	}
	now := time.Now()
	if in.answered {
		p.scaler.Died(now)
	}
	if now.Sub(in.readyAt) >= earlyEnd && in.proved {
		return
	}
	p.blame(in, &earlyEndError{why: in.why, after: now.Sub(in.readyAt)}, now)
	p.wake()
}

// earlyEndError is why a start failed whose instance became ready and was of no
// use. What its invocation returns says more, but comes later.
type earlyEndError struct {
	why   string
	after time.Duration
}

func (e *earlyEndError) Error() string {
	return fmt.Sprintf("the instance was ready and ended after %v: %s", e.after.Round(time.Millisecond), e.why)
}

// failed tells the scaler that an invocation failed.
func (in *instance) failed(cause error) {
	p := in.pool
	now := time.Now()
	p.mu.Lock()
	p.blame(in, cause, now)
	p.giveUpQueue(now)
	p.mu.Unlock()
	p.wake()
}

// blame makes the scaler back off, once for each instance. Callers hold p.mu.
func (p *Pool) blame(in *instance, cause error, now time.Time) {
	kind := scale.FailureOther
	switch k := invoke.KindOf(cause); {
	case k == invoke.KindThrottled:
		kind = scale.FailureThrottled
	case k.Permanent():
		kind = scale.FailurePermanent
	case in.answered:
		kind = scale.FailureDied
	}
	if p.outdated(in) && (kind == scale.FailureOther || kind == scale.FailureDied) {
		return
	}
	if in.blamed {
		if p.lastFailure != nil {
			p.lastFailure = cause
		}
		return
	}
	in.blamed = true
	p.lastFailure = cause
	p.scaler.Failed(kind, now)
	p.scaler.Starting(p.fleet().Starting)
}

// provingTunnel notices the first answer of an instance's app.
type provingTunnel struct {
	tunnel.Tunnel

	in       *instance
	answered atomic.Bool
}

func (t *provingTunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Tunnel.RoundTrip(req)
	if err == nil && !t.answered.Load() && t.answered.CompareAndSwap(false, true) {
		t.in.pool.mu.Lock()
		t.in.answered = true
		t.in.pool.prove(t.in)
		t.in.pool.mu.Unlock()
	}
	return resp, err
}

// sooner returns the earlier of two times, where zero means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
