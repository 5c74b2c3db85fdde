package adapter

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// asyncInit is when the adapter stops waiting for the app and tells Lambda
// that the initialisation is done. Lambda allows 10 s and would otherwise
// start everything again, which does not make the app any quicker.
const asyncInit = 9800 * time.Millisecond

// initType is how Lambda initialises the environment.
type initType string

const (
	initSnapStart   initType = "snap-start"
	initProvisioned initType = "provisioned-concurrency"
	initManaged     initType = "lambda-managed-instances"
)

func (p *process) initType() initType { return initType(p.env["AWS_LAMBDA_INITIALIZATION_TYPE"]) }

// settleAsync decides whether the initialisation may end before the app is
// ready, and whether the readiness timeout holds.
func (p *process) settleAsync() {
	switch t := p.initType(); t {
	case initSnapStart, initProvisioned, initManaged:
		// Here the initialisation may take minutes, and nobody waits for it.
		if p.cfg.AsyncInit == asyncOn {
			p.log.Warn("asynchronous initialisation is ignored, because nobody waits for this one", slog.String("type", string(t)))
		}
		p.cfg.AsyncInit = asyncOff
	}
	if p.cfg.AsyncInit == asyncOn {
		p.cfg.ReadinessTimeout = 0
	}
}

// awaitApp waits for the app for as long as the initialisation may take. It
// fails when the app cannot become ready any more.
func (p *process) awaitApp(ctx context.Context) error {
	if cause := p.app.lastCause(); cause != nil {
		return cause // it was faster than we
	}
	wctx := ctx
	if p.cfg.AsyncInit != asyncOff {
		var cancel context.CancelFunc
		wctx, cancel = context.WithTimeout(ctx, asyncInit-time.Since(p.began))
		defer cancel()
	}
	_, err := p.app.waitReady(wctx)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	if wctx.Err() != nil {
		p.log.Warn("app is not ready, the first invocation will wait for it", slog.Any("error", err))
		return nil
	}
	return err
}

// initFailed tells Lambda why there will be no runtime.
func (p *process) initFailed(ctx context.Context, kind string, err error) error {
	return p.failed(ctx, "initialisation failed", p.api.InitError, kind, err)
}

// failed logs why the adapter ends and tells it Lambda.
func (p *process) failed(
	ctx context.Context, msg string, report func(context.Context, *lambdaapi.FunctionError) error, kind string, err error,
) error {
	p.log.Error(msg, slog.Any("error", err))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	if err := report(ctx, &lambdaapi.FunctionError{Type: kind, Message: err.Error()}); err != nil {
		p.log.Error("lambda did not take the error", slog.Any("error", err))
	}
	return &silentError{exitStatus(err)}
}

// exitStatus is the app's own if it was the app that ended, but never that of
// success.
func exitStatus(err error) int {
	if end, ok := errors.AsType[*appEndError](err); ok && end.status > 0 {
		return end.status
	}
	if start, ok := errors.AsType[*startError](err); ok {
		return startStatus(start)
	}
	return 1
}

// silentError ends the adapter with an exit status. Its cause has been logged
// and reported.
type silentError struct{ status int }

func (e *silentError) Error() string { return "adapter failed" }
