package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// snapshot lets Lambda take a snapshot of the environment, and returns in every
// environment that is restored from it. The app hears of both if it wants to.
// Nothing can be relied on that was open before: there are no connections to
// the app yet, those to Lambda are made anew, and the app is asked again
// whether it is ready.
func (p *process) snapshot(ctx context.Context) error {
	if err := p.callHook(ctx, p.cfg.BeforeCheckpointPath); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // being shut down
		}
		return p.initFailed(ctx, "LambdaDispatch.BeforeCheckpointFailed", err)
	}
	p.log.Debug("ready for the snapshot")
	err := p.api.RestoreNext(ctx)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // being shut down
	}
	if refusal, ok := errors.AsType[*lambdaapi.Error](err); ok && refusal.Status >= 400 && refusal.Status < 500 {
		// Emulators say that they initialise for a snapshot and take none.
		p.log.Warn("lambda takes no snapshot", slog.Any("error", err))
	} else if err != nil {
		return fmt.Errorf("waiting for the snapshot: %w", err)
	}
	p.log.Debug("restored from the snapshot")
	p.api.Close()
	p.app.distrust()
	if err := p.callHook(ctx, p.cfg.AfterRestorePath); err != nil {
		return p.restoreFailed(ctx, "LambdaDispatch.AfterRestoreFailed", err)
	}
	if _, err := p.app.waitReady(ctx); err != nil {
		return p.restoreFailed(ctx, "LambdaDispatch.AppNotReady", err)
	}
	return nil
}

func (p *process) restoreFailed(ctx context.Context, kind string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return p.failed(ctx, "restoring failed", p.api.RestoreError, kind, err)
}

// callHook posts nothing to a path of the app. Any status but 2xx is a failure.
// How long it may take is Lambda's business.
func (p *process) callHook(ctx context.Context, path string) error {
	if path == "" {
		return nil
	}
	network, address := p.cfg.AppNetwork()
	client := newAppClient(network, address, p.cfg.AppProtocol == protocolH2C)
	status, err := ask(ctx, client, http.MethodPost, urlOf(network, address)+path)
	if err != nil {
		return fmt.Errorf("hook %s: %w", path, err)
	}
	if status < 200 || status > 299 {
		return fmt.Errorf("hook %s answers with status %d", path, status)
	}
	return nil
}
