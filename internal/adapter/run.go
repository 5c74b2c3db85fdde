package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

const (
	// asyncInit is when the adapter stops waiting for the app and tells Lambda
	// that the initialisation is done. Lambda allows 10 s and would otherwise
	// start everything again, which does not make the app any quicker.
	asyncInit = 9800 * time.Millisecond

	// wrapperName names the internal extension of the wrapper mode. It must
	// not be the name of a file in /opt/extensions.
	wrapperName = "lambda-dispatch-wrapper"

	apiVariable = "AWS_LAMBDA_RUNTIME_API"
)

// process is one run of the adapter.
type process struct {
	began   time.Time
	name    string // of the program
	command []string
	environ []string
	stdout  *os.File
	stderr  *os.File

	cfg  Config
	env  map[string]string
	log  *slog.Logger
	api  *lambdaapi.Client
	app  *app
	stop context.CancelFunc // shuts the adapter down
	wg   sync.WaitGroup
	sup  *supervisor // nil in extension mode
}

// errSilent ends the adapter with a status of failure; its cause has been
// logged and reported.
var errSilent = errors.New("adapter failed")

// run is the adapter inside Lambda. It returns nil after an orderly shutdown.
func (p *process) run(ctx context.Context, signals <-chan os.Signal) error {
	ctx, p.stop = context.WithCancel(ctx)
	defer p.wg.Wait()
	defer p.stop()

	ready := newReadiness(&p.cfg, p.log)
	p.app = newApp(ready.wait)
	p.wg.Go(func() { p.handleSignals(ctx, signals) })
	if len(p.command) > 0 {
		p.supervise(ctx)
	}
	if err := p.register(ctx); err != nil {
		return p.initFailed(ctx, "LambdaDispatch.RegistrationFailed", err)
	}
	if err := p.awaitApp(ctx); err != nil {
		return p.initFailed(ctx, "LambdaDispatch.AppNotReady", err)
	}
	if ctx.Err() != nil {
		return nil
	}

	suspect := make(chan struct{}, 1)
	proxy := p.newProxy(appproxy.Config{
		Address:    p.cfg.AppAddress(),
		Fail:       failRequest,
		CloseWrite: tunnel.CloseWrite,
		Logger:     p.log,
		Unreachable: func(error) {
			select {
			case suspect <- struct{}{}:
			default:
			}
		},
	})
	defer proxy.Close()
	l := &loop{api: p.api, log: p.log, end: p.beyondRepair, events: dispatchEvents{&dispatcher{
		app:         p.app,
		proxy:       proxy,
		suspect:     suspect,
		probe:       p.probe,
		hang:        p.hangWatch(proxy, ready),
		giveUp:      p.giveUp,
		noticesEnd:  p.sup != nil,
		log:         p.log,
		environment: p.env["AWS_LAMBDA_LOG_STREAM_NAME"],
		version:     p.env["AWS_LAMBDA_FUNCTION_VERSION"],
		zone:        zone{endpoint: p.env[lambdaapi.MetadataVariable], token: p.env[lambdaapi.MetadataTokenVariable]},
	}}}
	return l.run(ctx)
}

// newProxy returns what speaks the app's protocol.
func (p *process) newProxy(cfg appproxy.Config) appproxy.App {
	if p.cfg.AppProtocol == protocolH2C {
		return appproxy.NewH2(cfg)
	}
	return appproxy.New(cfg)
}

// hangWatch returns what watches the app while an instance with room for
// maxConcurrent requests is served. With room for one, an app with a single
// thread has nothing left to answer a check with while it works.
func (p *process) hangWatch(proxy appproxy.App, ready *readiness) func(maxConcurrent int) *hangWatch {
	return func(maxConcurrent int) *hangWatch {
		h := &hangWatch{activity: proxy.Activity, ask: ready.alive, tick: hangTick}
		if maxConcurrent > 1 {
			h.timeout = p.cfg.HangTimeout
		}
		if h.timeout > 0 {
			h.tick = min(hangTick, h.timeout/5)
		}
		if p.sup != nil {
			h.stopped = p.sup.frozen
		}
		return h
	}
}

// giveUp ends an app that does not answer. One that was started here is started
// again; what Lambda has started ends with the environment.
func (p *process) giveUp(cause error) {
	if p.sup != nil {
		p.sup.kill(cause)
		return
	}
	p.log.Error("app is given up", slog.Any("error", cause))
	p.app.markDown(cause)
}

// beyondRepair returns why the environment cannot be used again: an app that
// Lambda has started can be replaced only together with it.
func (p *process) beyondRepair() error {
	if p.sup != nil {
		return nil
	}
	if cause := p.app.lastCause(); cause != nil {
		return fmt.Errorf("ending the environment: %w", cause)
	}
	return nil
}

// probe reports whether the app accepts connections.
func (p *process) probe(ctx context.Context) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", p.cfg.AppAddress())
	if err != nil {
		return err
	}
	return c.Close()
}

// handleSignals ends the adapter when it is asked to, and passes on the rest.
func (p *process) handleSignals(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case sig := <-signals:
			if slices.Contains(ending, sig) {
				p.log.Info("shutting down", slog.String("signal", sig.String()))
				p.stop()
				return
			}
			if p.sup != nil {
				p.sup.signal(sig)
			}
		case <-ctx.Done():
			return
		}
	}
}

// supervise starts the app and keeps it running.
func (p *process) supervise(ctx context.Context) {
	env := p.environ
	if _, ok := p.env["PORT"]; !ok {
		env = append(slices.Clip(env), "PORT="+strconv.Itoa(p.cfg.Port))
	}
	p.sup = &supervisor{
		args: p.command, env: env, stdout: p.stdout, stderr: p.stderr, log: p.log,
		ended: p.app.markDown,
	}
	p.wg.Go(func() { p.sup.run(ctx) })
}

// awaitApp waits for the app for as long as the initialisation may take. It
// fails when the app cannot become ready any more.
func (p *process) awaitApp(ctx context.Context) error {
	if cause := p.app.lastCause(); cause != nil {
		return cause // it was faster than we
	}
	wctx := ctx
	switch p.env["AWS_LAMBDA_INITIALIZATION_TYPE"] {
	case "provisioned-concurrency", "snap-start", "lambda-managed-instances":
		// Here the initialisation may take minutes, and nobody waits for it.
	default:
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
	p.log.Error("initialisation failed", slog.Any("error", err))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	if err := p.api.InitError(ctx, &lambdaapi.FunctionError{Type: kind, Message: err.Error()}); err != nil {
		p.log.Error("lambda did not take the error", slog.Any("error", err))
	}
	return errSilent
}

// register makes the adapter an extension, so that it hears of the
// environment's end: by an event if it is an external one, and as a wrapper by
// SIGTERM, which the runtime gets only if there is an extension.
func (p *process) register(ctx context.Context) error {
	name, events := filepath.Base(p.name), []lambdaapi.EventType{lambdaapi.EventShutdown}
	if len(p.command) > 0 {
		name, events = wrapperName, nil
	}
	ext, err := p.api.Register(ctx, name, events...)
	if refusal, ok := errors.AsType[*lambdaapi.Error](err); ok && refusal.Type == lambdaapi.TypeInvalidEventType {
		// Not started from /opt/extensions, so Lambda takes it for an internal one.
		ext, err = p.api.Register(ctx, name)
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
