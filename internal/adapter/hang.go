package adapter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
)

const (
	// hangTick is how often the watch looks at the app.
	hangTick = time.Second
	// stoppedTicks is for how many looks in a row a stopped process is given
	// the chance to be continued.
	stoppedTicks = 2
	// maxHangQuiet is how long the app may be silent before it is asked.
	maxHangQuiet = 5 * time.Second
)

// hangError is why an app that does not answer was given up.
type hangError struct{ message string }

func (e *hangError) Error() string { return e.message }

// hangWatch finds out whether the app hangs: requests wait, nothing comes from
// the app on any connection, and it does not answer the readiness check
// either. An app that is merely slow answers that; one whose only thread is
// busy for longer than the timeout cannot be told from one that hangs.
type hangWatch struct {
	activity func() appproxy.Activity
	// ask returns nil when the app answers, whatever it says.
	ask func(ctx context.Context) error
	// stopped reports whether a process of the app is stopped. Nil where that
	// cannot be known.
	stopped func() bool
	timeout time.Duration // 0: only stopped is looked at
	tick    time.Duration
}

// silence is what the watch knows of the current silence of the app.
type silence struct {
	reads   uint64
	lasted  time.Duration // in ticks: time in which this process was frozen does not count
	asked   time.Duration // how long the app has been asked, 0 if it has not
	stopped int           // looks in a row at which it was stopped
	lastErr error
}

// run watches until the app hangs or ctx is done, and returns why the app was
// given up, or nil.
func (h *hangWatch) run(ctx context.Context) error {
	tick := time.NewTicker(h.tick)
	defer tick.Stop()
	p := prober{ask: h.ask}
	defer p.stop()
	var s silence
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := h.activity()
		if now.Waiting == 0 || now.Reads != s.reads {
			p.stop()
			s = silence{reads: now.Reads}
			continue
		}
		s.lasted += h.tick
		if err := h.look(ctx, &s, &p); err != nil {
			return err
		}
	}
}

// look is one tick of a silence.
func (h *hangWatch) look(ctx context.Context, s *silence, p *prober) error {
	if s.stopped++; h.stopped == nil || !h.stopped() {
		s.stopped = 0
	}
	if s.stopped >= stoppedTicks {
		return &hangError{"app hangs: its process is stopped"}
	}
	if h.timeout == 0 || s.lasted < min(h.timeout/3, maxHangQuiet) {
		return nil
	}
	switch answered, err := p.poll(ctx); {
	case answered && err == nil:
		*s = silence{reads: s.reads}
		return nil
	case answered:
		s.lastErr = err
	}
	if s.asked += h.tick; s.asked <= h.timeout {
		return nil
	}
	said := "no answer"
	if s.lastErr != nil {
		said = s.lastErr.Error()
	}
	return &hangError{fmt.Sprintf("app hangs: requests wait, it has sent nothing for %v, and the readiness check got this for %v: %s",
		s.lasted, h.timeout, said)}
}

// prober asks the app in a goroutine of its own: one question at a time,
// because an app that is busy has to answer all of them one day.
type prober struct {
	ask    func(ctx context.Context) error
	cancel context.CancelFunc // nil while nothing is asked
	answer chan error
}

// poll asks if that is not under way, and returns the answer if there is one.
func (p *prober) poll(ctx context.Context) (answered bool, err error) {
	if p.cancel == nil {
		actx, cancel := context.WithCancel(ctx)
		answer := make(chan error, 1)
		p.cancel, p.answer = cancel, answer
		go func() { answer <- p.ask(actx) }()
		return false, nil
	}
	select {
	case err := <-p.answer:
		p.cancel()
		p.cancel = nil
		return true, err
	default:
		return false, nil
	}
}

// stop gives up the question and waits for its goroutine.
func (p *prober) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	<-p.answer //nolint:errcheck // it was given up
	p.cancel = nil
}

// alive returns nil when the app answers, even if it says that it is not
// ready: that is a reason to send it nothing more, but not to end it.
func (r *readiness) alive(ctx context.Context) error {
	err := r.try(ctx)
	if _, ok := errors.AsType[*unhealthyError](err); ok {
		return nil
	}
	return err
}
