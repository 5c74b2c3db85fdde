package adapter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

const (
	// dialPatience is how long an unreachable router is dialled again.
	dialPatience = 3 * time.Second
	// dialTimeout bounds one attempt, so that a lost packet costs one.
	dialTimeout = 1500 * time.Millisecond

	// shutdownGrace is what running requests get when Lambda shuts the
	// environment down, which leaves 300 to 500 ms for everything.
	shutdownGrace = 200 * time.Millisecond
	// downGrace is what running requests get when the app is gone: enough for
	// their failures to reach the router.
	downGrace = time.Second
	// abortGrace is for the answers to requests that were just aborted.
	abortGrace = 100 * time.Millisecond
	// lostGrace is how long the failure of a request waits for the end of the
	// app to be noticed. The router would else send the next requests to an
	// app that is gone.
	lostGrace = 100 * time.Millisecond
	// announceGrace lets the announcement leave before the failure.
	announceGrace = 2 * time.Millisecond
)

// dispatcher serves dispatch events.
type dispatcher struct {
	app         *app
	proxy       appproxy.App
	suspect     <-chan struct{} // the proxy could not connect to the app
	probe       func(context.Context) error
	hang        func(maxConcurrent int) *hangWatch
	giveUp      func(cause error) // ends an app that does not answer, so that it goes down
	inVain      func(ctx context.Context, down <-chan struct{}, began time.Time, err error)
	doubt       bool // whether the app is there was open when the last session ended
	noticesEnd  bool // the app is a child process, whose end is noticed at once
	log         *slog.Logger
	environment string
	version     string // of the function
	zone        *zone
}

// handle implements eventHandler. Everything that goes wrong is a reason in
// the result and not an error, because the router is who has to know it.
func (d *dispatcher) handle(ctx context.Context, inv *lambdaapi.Invocation) ([]byte, error) {
	ev, err := invoke.ParseEvent(inv.Event)
	result := invoke.Result{Instance: ev.Instance, Environment: d.environment}
	if err != nil {
		result.Reason, result.Error = invoke.ReasonBadEvent, err.Error()
	} else {
		d.serve(ctx, ev, inv, &result)
	}
	level := slog.LevelInfo
	if !result.Reason.Healthy() {
		level = slog.LevelError
	}
	d.log.Log(ctx, level, "instance ended", slog.String("instance", ev.Instance), slog.String("pool", ev.Pool),
		slog.String("reason", string(result.Reason)), slog.String("error", result.Error), slog.Uint64("requests", result.Requests),
		slog.String(requestID, inv.RequestID))
	return json.Marshal(result)
}

// times are the ends of an invocation.
type times struct {
	drain time.Time // no new requests from here on, at the latest
	cut   time.Time // what still runs is ended: the result must reach Lambda before the deadline
	last  time.Time // nothing is waited for any more
}

// timesOf leaves room before the deadline in proportion to what there is, so
// that function timeouts from a few seconds to 15 minutes work. The router knows
// how long requests take and drains earlier, at least a tenth of the time or
// 10 s before the end; this is for a router that does not.
func timesOf(now, deadline time.Time) times {
	if deadline.IsZero() {
		deadline = now.Add(15 * time.Minute) // Lambda's longest
	}
	left := deadline.Sub(now)
	cut := min(max(left/20, 100*time.Millisecond), 500*time.Millisecond)
	drain := min(max(left/20, cut+200*time.Millisecond), 5*time.Second)
	return times{drain: deadline.Add(-drain), cut: deadline.Add(-cut), last: deadline.Add(-cut / 2)}
}

// serve is the life of one instance.
func (d *dispatcher) serve(ctx context.Context, ev invoke.Event, inv *lambdaapi.Invocation, result *invoke.Result) {
	end := timesOf(time.Now(), inv.Deadline)
	dctx, cancel := context.WithDeadline(ctx, end.cut)
	defer cancel()

	if err := d.recheck(dctx); err != nil {
		result.Reason, result.Error = blame(ctx, invoke.ReasonAppUnavailable, err)
		return
	}
	began, current := time.Now(), d.app.downs()
	down, err := d.app.waitReady(dctx)
	if err != nil {
		d.inVain(dctx, current, began, err)
		result.Reason, result.Error = blame(ctx, invoke.ReasonAppUnavailable, err)
		return
	}
	requests := appproxy.NewScope(routedApp{d.proxy})
	drained := make(chan struct{})
	if d.noticesEnd {
		requests.Lost = func(ctx context.Context) { awaitEnd(ctx, drained) }
	}
	session, err := d.dial(dctx, ev, end, requests)
	if err != nil {
		reason := invoke.ReasonRouterUnreachable
		if errors.Is(err, tunnel.ErrRefused) {
			reason = invoke.ReasonRouterRefused
		}
		result.Reason, result.Error = blame(ctx, reason, fmt.Errorf("router %s: %w", ev.Router, err))
		return
	}
	d.log.Info("instance ready", slog.String("instance", ev.Instance), slog.String("pool", ev.Pool),
		slog.String("router", ev.Router), slog.Int("max_concurrent", ev.MaxConcurrent), slog.String(requestID, inv.RequestID))

	wctx, stop := context.WithCancel(ctx)
	var watches sync.WaitGroup
	watches.Go(func() { d.watch(wctx) })
	watches.Go(func() {
		if cause := d.hang(ev.MaxConcurrent).run(wctx); cause != nil {
			d.giveUp(cause)
		}
	})
	result.Reason, result.Error = d.attend(ctx, session, down, end)
	session.Drain(string(result.Reason))
	close(drained)
	d.finish(ctx, session, requests, down, end)
	stop()
	watches.Wait()
	result.Requests = session.Requests()
}

// blame reports a shutdown as what it is, whatever it looks like from within.
func blame(ctx context.Context, reason invoke.Reason, err error) (invoke.Reason, string) {
	if ctx.Err() != nil {
		return invoke.ReasonShutdown, ""
	}
	return reason, err.Error()
}

// dial connects to the router. It tries again while nothing answers there: a
// router may be restarting. A refusal is final, because an instance ID is good
// for one hello only.
func (d *dispatcher) dial(ctx context.Context, ev invoke.Event, end times, requests http.Handler) (*tunnel.Session, error) {
	giveUp := time.Now().Add(dialPatience)
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		session, err := tunnel.Dial(ctx, tunnel.DialConfig{
			Address:     ev.Router,
			Pin:         ev.TLSPin,
			Instance:    ev.Instance,
			Secret:      ev.Secret,
			DialTimeout: dialTimeout,
			Handler:     requests,
			ErrorLog:    slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
			Ready: tunnel.Ready{
				MaxConcurrent:   ev.MaxConcurrent,
				Deadline:        end.cut,
				FunctionVersion: d.version,
				Environment:     d.environment,
				Adapter:         Version(),
				Zone:            d.zone.find(ctx, d.log),
			},
		})
		if err == nil || !errors.Is(err, tunnel.ErrUnreachable) || time.Now().Add(pause).After(giveUp) {
			return session, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// attend waits for the first reason to end the instance.
func (d *dispatcher) attend(ctx context.Context, session *tunnel.Session, down <-chan struct{}, end times) (invoke.Reason, string) {
	drain := time.NewTimer(time.Until(end.drain))
	defer drain.Stop()
	select {
	case <-session.Requested():
		return invoke.ReasonDrained, ""
	case <-session.Done():
		return invoke.ReasonRouterGone, fmt.Sprint(session.Err())
	case <-drain.C:
		return invoke.ReasonDeadline, ""
	case <-down:
		return invoke.ReasonAppUnavailable, d.app.lastCause().Error()
	case <-ctx.Done():
		return invoke.ReasonShutdown, ""
	}
}

// watch asks after an app that could not be connected to, for as long as the
// session lasts.
func (d *dispatcher) watch(ctx context.Context) {
	for {
		select {
		case <-d.suspect:
		case <-ctx.Done():
			return
		}
		err := d.insist(ctx)
		if ctx.Err() != nil {
			d.doubt = err != nil
			return
		}
		if err != nil {
			d.giveUp(fmt.Errorf("app stopped answering: %w", err))
			return
		}
	}
}

func (d *dispatcher) insist(ctx context.Context) error { return insist(ctx, d.probe) }

// insist reports whether the app accepts connections. Only one that does not
// come back at once is gone: its accept queue may have been full.
func insist(ctx context.Context, probe func(context.Context) error) (err error) {
	for range 10 {
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		err = probe(pctx)
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return err
}

// recheck settles a doubt that the session before has left: it was over before
// it was known whether the app is gone.
func (d *dispatcher) recheck(ctx context.Context) error {
	if !d.doubt {
		return nil
	}
	d.doubt = false
	down := d.app.downs()
	err := d.insist(ctx)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	err = fmt.Errorf("app stopped answering: %w", err)
	d.giveUp(err)
	if !d.noticesEnd {
		return err
	}
	select {
	case <-down: // it is being started again
	case <-ctx.Done():
	}
	return nil
}

// awaitEnd gives the end of the app a moment to be announced to the router.
func awaitEnd(ctx context.Context, drained <-chan struct{}) {
	t := time.NewTimer(lostGrace)
	defer t.Stop()
	select {
	case <-drained:
		t.Reset(announceGrace)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	case <-t.C:
	case <-ctx.Done():
	}
}

// finish ends a session that drains: time for the running requests, and then
// nothing of it is left.
func (d *dispatcher) finish(
	ctx context.Context, session *tunnel.Session, requests *appproxy.Scope, down <-chan struct{}, end times,
) {
	wctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), end.cut)
	var gone sync.WaitGroup
	gone.Go(func() {
		select {
		case <-down:
			t := time.NewTimer(d.graceWhenDown())
			defer t.Stop()
			select {
			case <-t.C:
				cancel()
			case <-wctx.Done():
			}
		case <-wctx.Done():
		}
	})
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(shutdownGrace, cancel) })
	err := session.WaitIdle(wctx)
	stop()
	timedOut := wctx.Err() != nil
	cancel()
	gone.Wait()
	if err != nil && timedOut {
		// Those who still wait for an answer are told that there is none.
		fault := appproxy.Fault{Code: appproxy.CodeTimeout, Message: "the app ran out of time"}
		select {
		case <-down:
			fault = appproxy.Fault{Code: appproxy.CodeFailed, Message: d.app.lastCause().Error()}
		default:
		}
		requests.Abort(fault)
		wait(ctx, end, abortGrace, session.WaitIdle) // what is not through by then is lost
	}
	_ = session.Close()
	// The requests are cancelled by that, so their handlers are ending. They
	// must not cost the result.
	wait(ctx, end, downGrace, session.WaitHandlers)
	d.proxy.CloseIdle()
}

// wait waits for a while, and not so long that the result comes too late.
func wait(ctx context.Context, end times, most time.Duration, what func(context.Context) error) {
	until := time.Now().Add(most)
	if until.After(end.last) {
		until = end.last
	}
	wctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	_ = what(wctx) // there is nothing else to be done
}

// graceWhenDown is what running requests get when the app is gone. One that
// hangs has had its time.
func (d *dispatcher) graceWhenDown() time.Duration {
	if _, ok := errors.AsType[*hangError](d.app.lastCause()); ok {
		return 0
	}
	return downGrace
}

// failRequest answers a request that the app did not.
func failRequest(w http.ResponseWriter, code, message string) {
	tunnel.Fail(w, tunnel.Code(code), message)
}
