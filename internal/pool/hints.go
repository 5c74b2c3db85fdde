package pool

import (
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

const (
	// hintEvery is how often at most a hint is logged. What fails, fails many
	// times until somebody has read it.
	hintEvery = time.Minute
	// shortLife is how long an instance should live at least. Lambda's default
	// timeout is 3 s, which is never meant.
	shortLife = time.Minute
	// shortLifeEvery is how often a short life is mentioned: it may be meant.
	shortLifeEvery = time.Hour
)

// hints limits the lines that say what to change. The zero value is ready to
// use. It is guarded by pool.mu.
type hints struct {
	said map[string]*said // by hint, of which there are few
}

type said struct {
	at      time.Time
	omitted int // since then
}

// due reports whether the hint may be logged now, and how often it has been
// omitted since the last time.
func (h *hints) due(hint string, every time.Duration, now time.Time) (ok bool, omitted int) {
	if h.said == nil {
		h.said = make(map[string]*said)
	}
	s := h.said[hint]
	if s == nil {
		s = new(said)
		h.said[hint] = s
	} else if now.Sub(s.at) < every {
		s.omitted++
		return false, 0
	}
	omitted = s.omitted
	*s = said{at: now}
	return true, omitted
}

// advise logs what to change so that invocations do not fail in this way.
// Callers hold p.mu.
func (p *Pool) advise(in *instance, cause error, now time.Time) {
	hint := in.hint(cause)
	if hint == "" {
		return
	}
	ok, omitted := p.hints.due(hint, hintEvery, now)
	if !ok {
		return
	}
	level := zap.ErrorLevel
	if kind := invoke.KindOf(cause); kind == invoke.KindThrottled || kind == invoke.KindService {
		level = zap.WarnLevel // it passes, most of the time
	}
	p.log.Log(level, "invocations fail",
		zap.String("hint", hint),
		zap.Int("omitted", omitted),
		zap.String("instance", in.id),
		zap.Error(cause))
}

// hint returns what to change, or nothing if nobody knows.
func (in *instance) hint(cause error) string {
	if errors.Is(cause, errNoCallBack) {
		return "the function runs, but the adapter in it does not: see that lambdaadapter is the entry point of the image or in /opt/extensions, " +
			"and what the function printed to its log group; or it hangs on the way to " + in.router
	}
	e, ok := errors.AsType[*invoke.Error](cause)
	if !ok {
		return ""
	}
	if e.Hint != "" {
		return e.Hint
	}
	switch invoke.Reason(e.Code) {
	case invoke.ReasonRouterUnreachable:
		return fmt.Sprintf("environments cannot reach %s: put the function into the router's VPC (or one that has a route to it), "+
			"let the router's security group accept TCP %s from the function's and the function's send it, "+
			"or correct advertise in callback", in.router, portOf(in.router))
	case invoke.ReasonRouterRefused:
		return fmt.Sprintf("what environments reach at %s is not this router: see that advertise in callback leads to this process alone, "+
			"and that nothing in between ends TLS", in.router)
	case invoke.ReasonAppUnavailable:
		return "the app does not serve, or not before the function's timeout: see what it printed to the function's log group, " +
			"that it listens on the port that LAMBDA_DISPATCH_PORT or PORT says, and that the timeout is longer than its start (900 s is best)"
	case invoke.ReasonBadEvent:
		return "adapter and router do not understand each other: give the function the adapter of the router's version"
	default:
		return ""
	}
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}

// adviseTimeout mentions a function timeout that is too short to be meant.
// Callers hold p.mu.
func (p *Pool) adviseTimeout(in *instance, now time.Time) {
	if in.deadline.IsZero() || in.deadline.Sub(in.startedAt) >= shortLife {
		return
	}
	const hint = "set the function's timeout to 900 s: every instance has to be replaced before it ends"
	if ok, _ := p.hints.due(hint, shortLifeEvery, now); ok {
		p.log.Warn("function timeout is short", zap.String("hint", hint),
			zap.Duration("remaining", in.deadline.Sub(now).Round(time.Millisecond)))
	}
}
