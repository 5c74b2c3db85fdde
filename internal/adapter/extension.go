package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// wrapperName names the internal extension of the wrapper mode. It must not be
// the name of a file in /opt/extensions.
const wrapperName = "lambda-dispatch-wrapper"

// register makes the adapter an extension, so that it hears of the
// environment's end: by an event if it is an external one, and as a wrapper by
// SIGTERM, which the runtime gets only if there is an extension.
func (p *process) register(ctx context.Context) error {
	name, events := filepath.Base(p.name), []lambdaapi.EventType{lambdaapi.EventShutdown}
	if len(p.command) > 0 {
		name, events = wrapperName, nil
	}
	ext, err := p.extensions.Register(ctx, name, events...)
	if refusal, ok := errors.AsType[*lambdaapi.Error](err); ok && refusal.Type == lambdaapi.TypeInvalidEventType {
		// Not started from /opt/extensions, so Lambda takes it for an internal one.
		ext, err = p.extensions.Register(ctx, name)
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // being shut down
	}
	if err != nil {
		if len(p.command) > 0 {
			p.log.Warn("not registered as an extension, so the app will not hear of the environment's end", slog.Any("error", err))
			return nil
		}
		return fmt.Errorf("registering extension %q: %w", name, err)
	}
	p.wg.Go(func() { p.awaitShutdown(ctx, ext) })
	return nil
}

// awaitShutdown waits for the environment's end. Lambda wants every extension
// to wait here, and does not take the initialisation for done before.
func (p *process) awaitShutdown(ctx context.Context, ext *lambdaapi.Extension) {
	for {
		ev, err := ext.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.log.Warn("extensions API does not answer", slog.Any("error", err))
			return
		}
		if ev.Type == lambdaapi.EventShutdown {
			p.log.Info("shutting down", slog.String("reason", ev.ShutdownReason))
			p.stop()
			return
		}
	}
}
