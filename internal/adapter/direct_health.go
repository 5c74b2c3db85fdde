package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// comesBack reports whether an app that could not be connected to may take a
// request after all: it was busy, or is being started again. One that is
// gone for good is given up, so that the environment ends with this invocation.
func (d *directHandler) comesBack(ctx context.Context, down <-chan struct{}) bool {
	if d.noticesEnd && awaitDown(ctx, down) {
		return true
	}
	err := insist(ctx, d.probe)
	if err == nil || ctx.Err() != nil {
		return err == nil
	}
	return d.endApp(ctx, down, fmt.Errorf("app stopped answering: %w", err))
}

// endApp gives up the app, unless that has happened since down was current, and
// reports whether there will be one again.
func (d *directHandler) endApp(ctx context.Context, down <-chan struct{}, cause error) bool {
	d.ending.Lock()
	select {
	case <-down:
	default:
		d.giveUp(cause)
	}
	d.ending.Unlock()
	if !d.noticesEnd {
		return false
	}
	select {
	case <-down: // it is being started again
		return true
	case <-ctx.Done():
		return false
	}
}

// recheck asks the app whether it is still there after an invocation has timed
// out. Lambda would have ended it together with the environment; here it may
// live, but must not fail one invocation after the other.
func (d *directHandler) recheck(ctx context.Context, cut time.Time) error {
	if d.cfg.HangTimeout == 0 || !d.doubt.Swap(false) {
		return nil
	}
	down := d.app.downs()
	patience := min(d.cfg.HangTimeout, time.Until(cut)/2)
	actx, cancel := context.WithTimeout(ctx, patience)
	err := d.ask(actx)
	silent := actx.Err() != nil
	cancel()
	switch {
	case err == nil || !silent:
		return nil // one that refuses is found out by the request
	case ctx.Err() != nil:
		d.doubt.Store(true)
		return nil
	}
	cause := &hangError{fmt.Sprintf("app hangs: it let an invocation time out, and then gave the readiness check no answer for %v", patience.Round(time.Millisecond))}
	if d.endApp(ctx, down, cause) {
		return nil
	}
	return cause
}

// vain is how long invocations have waited for an app to their end. Of those
// that waited at the same time it counts once.
type vain struct {
	down   <-chan struct{} // of the app that was waited for
	waited time.Duration
	until  time.Time
}

// startPatience, in hang timeouts, is how long an app may keep invocations
// waiting that does not answer the readiness check from its start on. Lambda
// would have begun anew after the first of them, but an app that needs longer
// than one invocation then would never be ready.
const startPatience = 4

// waitedInVain gives up an app that hangs while it starts, whatever kind of
// invocation has waited for it. One that says it is not ready knows what it waits
// for.
func (d *directHandler) waitedInVain(ctx context.Context, down <-chan struct{}, began time.Time, err error) {
	_, answers := errors.AsType[*unhealthyError](err)
	cause := context.Cause(ctx)
	if timeUp := errors.Is(cause, errTimeUp) || errors.Is(cause, context.DeadlineExceeded); !timeUp || answers || d.cfg.HangTimeout == 0 {
		return
	}
	d.ending.Lock()
	v := &d.vain
	if v.down != down {
		*v = vain{down: down}
	}
	if began.Before(v.until) {
		began = v.until
	}
	v.until = time.Now()
	v.waited += v.until.Sub(began)
	waited := v.waited
	d.ending.Unlock()
	if waited >= startPatience*d.cfg.HangTimeout {
		d.endApp(ctx, down, &hangError{fmt.Sprintf("app hangs: invocations have waited %v for it in vain, the last of them: %v", waited.Round(time.Millisecond), err)})
	}
}

// warnAuthorization says that a request lacks the header that the app's
// authorization is taken from.
func (d *directHandler) warnAuthorization(x *direct) {
	omitted, ok := d.warnings.Take()
	if !ok {
		return
	}
	attrs := []slog.Attr{slog.String("header", d.cfg.Options.AuthorizationSource)}
	if omitted > 0 {
		attrs = append(attrs, slog.Int("lines_omitted", omitted))
	}
	x.log(slog.LevelWarn, "request has no authorization source", 0, attrs...)
}

// logNotTaken says that Lambda did not take the end of a broken answer. When the
// invocation's time is up that is no news.
func (x *direct) logNotTaken(err error) {
	level := slog.LevelError
	if errors.Is(err, context.DeadlineExceeded) {
		level = slog.LevelDebug
	}
	x.log(level, "lambda did not take the answer's end", 0, slog.Any("error", err))
}
