package adapter

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// process is one run of the adapter.
type process struct {
	began   time.Time
	name    string // of the program
	command []string
	environ []string
	stdout  *os.File
	stderr  *os.File

	cfg        Config
	env        map[string]string
	log        *slog.Logger
	api        *lambdaapi.Client // of the runtime
	extensions *lambdaapi.Client
	app        *app
	stop       context.CancelFunc // shuts the adapter down
	wg         sync.WaitGroup
	sup        *supervisor // nil in extension mode
}

// run is the adapter inside Lambda. It returns nil after an orderly shutdown.
func (p *process) run(ctx context.Context, signals <-chan os.Signal) error {
	ctx, p.stop = context.WithCancel(ctx)
	defer p.wg.Wait()
	defer p.stop()

	p.settleAsync()
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
	if proxy := p.cfg.RuntimeAPIProxy; proxy != "" {
		if err := awaitProxy(ctx, proxy, new(net.Dialer).DialContext); err != nil && ctx.Err() == nil {
			return p.failed(ctx, "initialisation failed", p.extensions.InitError, "LambdaDispatch.NoRuntimeAPIProxy", err)
		}
	}
	if p.initType() == initSnapStart {
		if err := p.snapshot(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	}
	suspect := make(chan struct{}, 1)
	proxy := p.newProxy(suspect)
	defer proxy.Close()
	return p.serve(ctx, proxy, ready, suspect)
}

// serve takes invocations, as many at once as Lambda wants to have open.
func (p *process) serve(ctx context.Context, proxy appproxy.App, ready *readiness, suspect <-chan struct{}) error {
	direct := p.newDirectHandler(proxy, ready)
	here := &zone{endpoint: p.env[lambdaapi.MetadataVariable], token: p.env[lambdaapi.MetadataTokenVariable]}
	loops := make([]*loop, maxConcurrency(p.env))
	for i := range loops {
		loops[i] = &loop{api: p.api, log: p.log, end: p.beyondRepair, events: events{
			dispatch: &dispatcher{
				app:         p.app,
				proxy:       proxy,
				suspect:     suspect,
				probe:       p.probe,
				hang:        p.hangWatch(proxy, ready),
				giveUp:      p.giveUp,
				inVain:      direct.waitedInVain,
				noticesEnd:  p.sup != nil,
				log:         p.log,
				environment: p.env["AWS_LAMBDA_LOG_STREAM_NAME"],
				version:     p.env["AWS_LAMBDA_FUNCTION_VERSION"],
				zone:        here,
			},
			direct: direct,
		}}
	}
	return runLoops(ctx, loops)
}

func (p *process) newDirectHandler(proxy appproxy.App, ready *readiness) *directHandler {
	return &directHandler{
		app:        p.app,
		proxy:      proxy,
		api:        p.api,
		cfg:        p.cfg.direct(),
		function:   functionOf(p.env),
		probe:      p.probe,
		ask:        ready.alive,
		giveUp:     p.giveUp,
		noticesEnd: p.sup != nil,
		log:        p.log,
		warnings:   appproxy.NewLogLimit(),
	}
}

// newProxy returns what speaks the app's protocol. It tells suspect when it
// could not connect.
func (p *process) newProxy(suspect chan<- struct{}) appproxy.App {
	network, address := p.cfg.AppNetwork()
	cfg := appproxy.Config{
		Network:     network,
		Address:     address,
		IdleTimeout: p.cfg.IdleTimeout,
		Fail:        failRequest,
		CloseWrite:  tunnel.CloseWrite,
		Logger:      p.log,
		Unreachable: func(error) {
			select {
			case suspect <- struct{}{}:
			default:
			}
		},
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = -1 // none
	}
	var proxy appproxy.App
	if p.cfg.AppProtocol == protocolH2C {
		proxy = appproxy.NewH2(cfg)
	} else {
		proxy = appproxy.New(cfg)
	}
	if g := newGuard(p.cfg.BeforeCheckpointPath, p.cfg.AfterRestorePath); len(g.hidden) > 0 {
		return guardedApp{proxy, g}
	}
	return proxy
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
	network, address := p.cfg.AppNetwork()
	c, err := new(net.Dialer).DialContext(ctx, network, address)
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
	p.sup = &supervisor{
		args: p.command, env: p.appEnviron(), stdout: p.stdout, stderr: p.stderr, log: p.log,
		ended: p.app.markDown,
	}
	p.wg.Go(func() { p.sup.run(ctx) })
}

// appEnviron is the environment of the app: it hears where to listen in the
// two ways that web apps are told so, unless somebody else has told it.
func (p *process) appEnviron() []string {
	env := slices.Clip(p.environ)
	network, address := p.cfg.AppNetwork()
	if network != "tcp" {
		return env
	}
	if p.env["PORT"] == "" {
		_, port, _ := net.SplitHostPort(address) // it was just made
		env = append(env, "PORT="+port)
	}
	if p.env[httpEndpoint] == "" {
		env = append(env, httpEndpoint+"="+address)
	}
	return env
}
