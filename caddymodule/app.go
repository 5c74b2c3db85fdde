package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(&App{})
}

// startTimeout is how long a request waits for the app to be started. Caddy
// starts apps in no certain order, so the HTTP server can be first.
const startTimeout = 10 * time.Second

// App gives the pools of one configuration their settings when it is started,
// and takes them back when it is unloaded. It is loaded by the first
// `lambda_dispatch` handler and needs no configuration of its own.
type App struct {
	// Metrics for Amazon CloudWatch on standard output. Default: none
	CloudWatchMetrics *CloudWatchMetrics `json:"cloudwatch_metrics,omitempty"`

	ctx     caddy.Context
	logger  *zap.Logger
	started chan struct{}
	ended   chan struct{}   // closed when the configuration is not in use any more
	uses    map[string]*use // by function

	requested []*requestedPools // of handlers whose requests choose the function

	reporter *emfReporter // nil before Caddy's event "started", and without CloudWatchMetrics

	quiet *time.Timer // quiesces the pools after the shutdown delay; nil before the process exits
}

// use is what one configuration wants of a function's pool.
type use struct {
	shared *sharedPool
	conf   PoolConfig

	// claim is what Start has put in force.
	claim *claim
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "lambda_dispatch",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision sets up the app.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.started, a.ended = make(chan struct{}), make(chan struct{})
	a.uses = make(map[string]*use)
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if a.CloudWatchMetrics != nil {
		if err := a.CloudWatchMetrics.provision(); err != nil {
			return fmt.Errorf("cloudwatch_metrics: %w", err)
		}
	}
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("loading events app: %w", err)
	}
	on := events.(*caddyevents.App).On
	// Emitted when all apps have been started: the configuration cannot fail.
	if err := on("started", started{a}); err != nil {
		return err
	}
	// Emitted before any app is stopped: the time to stop starting instances.
	return on("stopping", stopping{a})
}

// use registers a handler's wishes for the pool of its function. Nothing takes
// effect before Start.
func (a *App) use(function string, conf PoolConfig) (*sharedPool, error) {
	if u, ok := a.uses[function]; ok {
		if !reflect.DeepEqual(u.conf, conf) {
			return nil, fmt.Errorf("function %s is configured twice with different settings: handlers of one function share its pool", function)
		}
		return u.shared, nil
	}
	if err := a.checkRequested(function, conf); err != nil {
		return nil, err
	}
	shared, err := loadPool(function, a.logger)
	if err != nil {
		return nil, err
	}
	keepMetrics(function)
	a.uses[function] = &use{shared: shared, conf: conf}
	return shared, nil
}

// Start binds the callback listeners and gives new pools their settings. Those of
// pools that another configuration uses wait for Caddy's event "started": another
// app may still fail.
func (a *App) Start() error {
	for function, u := range a.uses {
		if err := a.startUse(u); err != nil {
			return fmt.Errorf("function %s: %w", function, err)
		}
	}
	if err := a.startRequested(); err != nil {
		return err
	}
	close(a.started)
	return nil
}

func (a *App) startUse(u *use) error {
	var err error
	u.claim, err = u.shared.stage(a.ctx, u.conf)
	return err
}

// Stop does nothing: when it is called, requests may still be running and
// waiting. Cleanup comes after the HTTP server has been stopped.
func (a *App) Stop() error { return nil }

// Cleanup takes back what this configuration had of the pools. A pool that no
// other configuration uses is closed.
func (a *App) Cleanup() error {
	defer a.end()
	if a.quiet != nil {
		a.quiet.Stop()
	}
	if a.reporter != nil {
		a.reporter.stop()
		a.reporter = nil
	}
	errs := []error{a.cleanupRequested()}
	for function, u := range a.uses {
		if u.claim != nil {
			errs = append(errs, u.shared.withdraw(u.claim))
		}
		_, err := pools.Delete(function)
		errs = append(errs, err)
	}
	a.uses = nil
	return errors.Join(errs...)
}

// end lets requests go on that wait for a start which has failed.
func (a *App) end() {
	if a.ended == nil {
		return // it has never been provisioned
	}
	select {
	case <-a.ended:
	default:
		close(a.ended)
	}
}

// awaitStart blocks until the app is started, or is known to have failed. The
// HTTP server can have been started before that and have accepted requests. They
// go on as far as the pools of the configuration before let them.
func (a *App) awaitStart(ctx context.Context) error {
	select {
	case <-a.started:
		return nil
	default:
	}
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case <-a.started:
		return nil
	case <-a.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return errors.New("configuration is still being started")
	}
}

// started reacts to Caddy's event of that name.
type started struct{ app *App }

// Handle puts the settings in force.
func (s started) Handle(context.Context, caddy.Event) error {
	s.app.reporter = cloudWatchLog.start(s.app.CloudWatchMetrics, s.app.logger)
	for function, u := range s.app.uses {
		if err := u.shared.enforce(u.claim); err != nil {
			// All that could be wrong with it was checked before.
			s.app.logger.Error("settings are not in force", zap.String("pool", function), zap.Error(err))
		}
	}
	if err := s.app.adoptRequested(); err != nil {
		s.app.logger.Error("pools are not taken over", zap.Error(err))
	}
	return nil
}

// stopping reacts to Caddy's event of that name.
type stopping struct{ app *App }

// Handle quiesces the pools if the process is about to exit, after Caddy's
// shutdown_delay if there is one. Before a reload they go on as they are.
func (s stopping) Handle(context.Context, caddy.Event) error {
	if !caddy.Exiting() {
		return nil
	}
	quiesce := s.app.quiesce()
	if delay := s.app.shutdownDelay(); delay > 0 {
		// Requests still come, and a load balancer may send all it has.
		s.app.quiet = time.AfterFunc(delay, quiesce)
		return nil
	}
	quiesce()
	return nil
}

// quiesce returns what quiesces the pools that are used now.
func (a *App) quiesce() func() {
	shared := make([]*sharedPool, 0, len(a.uses))
	for _, u := range a.uses {
		shared = append(shared, u.shared)
	}
	requested := slices.Clone(a.requested)
	return func() {
		for _, s := range shared {
			s.pool.Quiesce()
		}
		for _, r := range requested {
			r.quiesce()
		}
	}
}

// shutdownDelay is how long the HTTP servers go on as before once the process
// has been told to exit.
func (a *App) shutdownDelay() time.Duration {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return 0 // there are none
	}
	return time.Duration(app.(*caddyhttp.App).ShutdownDelay)
}

// Interface guards
var (
	_ caddy.App           = (*App)(nil)
	_ caddy.Provisioner   = (*App)(nil)
	_ caddy.CleanerUpper  = (*App)(nil)
	_ caddyevents.Handler = started{}
	_ caddyevents.Handler = stopping{}
)
