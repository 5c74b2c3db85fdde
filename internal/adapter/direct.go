package adapter

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// directConfig is what can be set about direct events.
type directConfig struct {
	Options  directevent.Options
	Stream   bool // answers are streamed to the sources that understand it
	Compress bool // answers are compressed for clients that accept it

	// ErrorStatus reports whether an answer with the status fails the
	// invocation. EventErrorStatus does so for events that are not HTTP. Nil:
	// none does.
	ErrorStatus, EventErrorStatus func(status int) bool

	// HangTimeout is how long an app that has let an invocation time out may
	// take to answer the readiness check, within half of the next invocation's
	// time. 0: as long as it likes.
	HangTimeout time.Duration
}

// answerAPI is the part of Lambda's Runtime API by which direct events are
// answered that have no result.
type answerAPI interface {
	Fail(ctx context.Context, requestID string, e *lambdaapi.FunctionError) error
	RespondStream(ctx context.Context, requestID, contentType string) *lambdaapi.ResponseStream
}

// directHandler serves direct events: each is a request that the app answers.
// It may serve several at once.
//
// Nothing tells it that a client is gone: Lambda lets an invocation run to its
// end. An app that has not answered when the time is up sees its connection
// closed; it may go on working, and an app that Lambda has started keeps its
// environment, unless it does not answer the readiness check either.
type directHandler struct {
	app        *app
	proxy      appproxy.App
	api        answerAPI
	cfg        directConfig
	function   directevent.Invocation // what is the same for all invocations
	probe      func(context.Context) error
	ask        func(context.Context) error // returns nil when the app answers, whatever it says
	giveUp     func(cause error)           // ends an app that does not answer, so that it goes down
	noticesEnd bool                        // the app is a child process, whose end is noticed at once
	log        *slog.Logger
	warnings   *appproxy.LogLimit // of what is wrong with requests

	doubt  atomic.Bool // an invocation has timed out, and the app was not asked since
	ending sync.Mutex  // held while it is decided whether to give up the app
	vain   vain        // guarded by ending
}

// functionOf returns what Lambda's environment variables say.
func functionOf(env map[string]string) directevent.Invocation {
	return directevent.Invocation{
		FunctionName:    env["AWS_LAMBDA_FUNCTION_NAME"],
		FunctionVersion: env["AWS_LAMBDA_FUNCTION_VERSION"],
		MemoryMB:        env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
		LogGroup:        env["AWS_LAMBDA_LOG_GROUP_NAME"],
		LogStream:       env["AWS_LAMBDA_LOG_STREAM_NAME"],
	}
}

// handle implements eventHandler.
func (d *directHandler) handle(ctx context.Context, inv *lambdaapi.Invocation) ([]byte, error) {
	x := &direct{d: d, inv: inv, end: timesOf(time.Now(), inv.Deadline), stopping: ctx.Done()}
	var cancel context.CancelFunc
	x.life, cancel = context.WithDeadline(context.WithoutCancel(ctx), x.end.last.Add(x.end.last.Sub(x.end.cut)))
	defer cancel()
	rctx, release := x.bound(ctx)
	defer release()
	if f := x.run(rctx); f != nil {
		return x.fail(f)
	}
	return x.finish()
}

// direct is one direct event under way.
type direct struct {
	d    *directHandler
	inv  *lambdaapi.Invocation
	end  times
	life context.Context // of the answer: until Lambda's deadline
	// stopping is closed when the environment is being shut down.
	stopping <-chan struct{}
	ev       *directevent.Event
	ans      *answer // nil until the app is asked
}

// The causes for which a request is ended from here.
var (
	errTimeUp       = errors.New("the invocation's time is up")
	errShuttingDown = errors.New("the environment is shutting down")
)

// bound returns the context of the request to the app, which ends shortly
// before the invocation does.
func (x *direct) bound(ctx context.Context) (rctx context.Context, release func()) {
	rctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	timeUp := time.AfterFunc(time.Until(x.end.cut), func() { cancel(errTimeUp) })
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(shutdownGrace, func() { cancel(errShuttingDown) })
	})
	return rctx, func() {
		stop()
		timeUp.Stop()
		cancel(nil)
	}
}

// run lets the app answer the event.
func (x *direct) run(ctx context.Context) *failure {
	inv := x.d.function
	inv.RequestID, inv.FunctionARN, inv.TraceID = x.inv.RequestID, x.inv.FunctionARN, x.inv.TraceID
	inv.ClientContext, inv.CognitoIdentity = x.inv.ClientContext, x.inv.CognitoIdentity
	inv.TenantID, inv.Deadline = x.inv.TenantID, x.inv.Deadline
	var err error
	if x.ev, err = directevent.Parse(x.inv.Event, inv, x.d.cfg.Options); err != nil {
		return &failure{kind: badEvent, err: err}
	}
	if len(x.inv.Event) > maxPayload {
		return &failure{kind: eventTooLarge}
	}
	if x.ev.AuthorizationMissing {
		x.d.warnAuthorization(x)
	}
	return x.serve(ctx)
}

// serve lets the app answer, a second time if the first may be repeated and
// there is reason to think that the second goes better.
func (x *direct) serve(ctx context.Context) *failure {
	if err := x.d.recheck(ctx, x.end.cut); err != nil {
		return x.notReady(ctx, appUnavailable, err)
	}
	for first := true; ; first = false {
		began, current := time.Now(), x.d.app.downs()
		down, err := x.d.app.waitReady(ctx)
		if err != nil {
			x.d.waitedInVain(ctx, current, began, err)
			return x.notReady(ctx, appNotReady, err)
		}
		f := x.attempt(ctx, down)
		if f == nil || !first || !x.repeatable(f, down) || !x.d.comesBack(ctx, down) {
			return f
		}
	}
}

// repeatable reports whether a request that failed has not reached the app, or
// may reach it twice and met its end: an app that ends between two invocations
// is frozen with its sockets open, and takes the next request before it is gone.
func (x *direct) repeatable(f *failure, down <-chan struct{}) bool {
	if f.kind == appFailed && f.status == 0 && httprules.Idempotent(x.ev.Method) {
		select {
		case <-down:
			return true
		default:
		}
	}
	return f.kind == appUnavailable
}

func (x *direct) notReady(ctx context.Context, kind *failureKind, err error) *failure {
	if errors.Is(context.Cause(ctx), errShuttingDown) {
		kind = shuttingDown
	}
	return &failure{kind: kind, err: err}
}

// attempt puts the request to the app once.
func (x *direct) attempt(ctx context.Context, down <-chan struct{}) (f *failure) {
	req, err := x.ev.Request(ctx)
	if err != nil {
		return &failure{kind: badEvent, err: err}
	}
	x.ans = x.newAnswer()
	scope := appproxy.NewScope(x.d.proxy)
	scope.Report = func(code string, err error) { f = x.blame(ctx, code, err, down) }
	if x.d.noticesEnd {
		scope.Lost = func(ctx context.Context) { awaitDown(ctx, down) }
	}
	defer func() {
		switch p := recover(); {
		case p != nil && p != http.ErrAbortHandler: //nolint:errorlint // the very value
			panic(p)
		case p != nil && f == nil:
			f = &failure{kind: appFailed, err: errors.New("the answer was cut")}
		}
	}()
	scope.ServeHTTP(x.ans, req)
	return f
}

// awaitDown gives the end of the app a moment to be noticed.
func awaitDown(ctx context.Context, down <-chan struct{}) bool {
	t := time.NewTimer(lostGrace)
	defer t.Stop()
	select {
	case <-down:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// finish answers the invocation with what the app has said.
func (x *direct) finish() ([]byte, error) {
	if err := x.ans.complete(); err != nil {
		return x.fail(x.ans.failure(err))
	}
	if x.ans.streams() {
		return nil, errAnswered
	}
	status, event := x.ans.status, !x.ev.Source.HTTP()
	if is(x.d.cfg.ErrorStatus, status) || event && is(x.d.cfg.EventErrorStatus, status) {
		return x.fail(&failure{kind: errorStatus, status: status, body: x.ans.body})
	}
	result, err := x.ev.Result(status, x.ans.head, x.ans.body)
	switch {
	case err != nil:
		return x.fail(&failure{kind: badAnswer, status: status, err: err})
	case len(result) > x.maxResult():
		return x.fail(&failure{kind: responseTooLarge, status: status})
	case event && (status < 200 || status > 299):
		x.log(slog.LevelWarn, "app answered an event with a status of failure, which is not passed on", status)
	}
	return result, nil
}

func is(match func(int) bool, status int) bool { return match != nil && match(status) }

// fail ends the invocation with what went wrong, in one line of the log, and for
// the client or invoker in the form that its source understands.
func (x *direct) fail(f *failure) ([]byte, error) {
	attrs := []slog.Attr{slog.String("error_type", f.kind.name)}
	if f.err != nil {
		attrs = append(attrs, slog.Any("error", f.err))
	}
	x.log(f.kind.level, f.kind.message, f.statusCode(), attrs...)
	switch {
	case x.ans.streams():
		x.ans.breakOff(f)
		return nil, errAnswered
	case f.kind == errorStatus || x.ev == nil || !x.ev.Source.HTTP() || is(x.d.cfg.ErrorStatus, f.statusCode()):
		x.tell(f.functionError())
		return nil, errAnswered
	}
	x.ans = x.newAnswer()
	x.ans.compress = false
	x.ans.Header().Set("Content-Type", "application/json")
	x.ans.WriteHeader(f.statusCode())
	_, _ = x.ans.Write(f.page()) // complete has the error
	if err := x.ans.complete(); err != nil {
		x.log(slog.LevelError, "lambda did not take the answer", f.statusCode(), slog.Any("error", err))
		return nil, errAnswered
	}
	if x.ans.streams() {
		return nil, errAnswered
	}
	return x.ev.Result(x.ans.status, x.ans.head, x.ans.body)
}

// tell fails the invocation. The loop would do it as well, with a second line in
// the log.
func (x *direct) tell(e *lambdaapi.FunctionError) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.life), answerTimeout)
	defer cancel()
	if err := x.d.api.Fail(ctx, x.inv.RequestID, e); err != nil {
		x.log(slog.LevelError, "lambda did not take the answer", 0, slog.Any("error", err))
	}
}

// log says what happened to this event. The line has the path but not the
// query, which may hold secrets.
func (x *direct) log(level slog.Level, msg string, status int, more ...slog.Attr) {
	attrs := append(make([]slog.Attr, 0, 8), slog.String(requestID, x.inv.RequestID))
	if x.ev != nil {
		attrs = append(attrs, slog.String("source", x.ev.Source.String()), slog.String("method", x.ev.Method),
			slog.String("path", pathOf(x.ev.Target)))
	}
	if id := httprules.TraceID(x.inv.TraceID, ""); id != "" {
		attrs = append(attrs, slog.String("trace_id", id))
	}
	if status != 0 {
		attrs = append(attrs, slog.Int("status", status))
	}
	x.d.log.LogAttrs(x.life, level, msg, append(attrs, more...)...)
}
