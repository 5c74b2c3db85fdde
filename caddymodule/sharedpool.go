package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke/awslambda"
	"github.com/lambda-dispatch/lambda-dispatch/internal/locallambda"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
)

const (
	// drainGrace is how long a pool that no configuration uses any more may
	// take to finish its requests and let its instances go.
	drainGrace = 2 * time.Minute
	// exitGrace is the same when the process is about to exit. The HTTP
	// server has had its grace period by then.
	exitGrace = 5 * time.Second
)

// pools holds the pools by function, over all configurations.
var pools = caddy.NewUsagePool()

// draining counts the pools that are being closed in the background, and
// closing holds them (*sharedPool), because pools has them no more.
var (
	draining sync.WaitGroup
	closing  sync.Map
)

func init() {
	// Runs after all apps have been stopped. Pools are closed side by side, so
	// that many of them take no longer than one.
	caddy.OnExit(func(ctx context.Context) {
		done := make(chan struct{})
		go func() { draining.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(exitGrace + time.Second):
		case <-ctx.Done():
		}
	})
}

// sharedPool is the pool of one function together with what several
// configurations want of it. It outlives each of them.
type sharedPool struct {
	name    string
	log     *zap.Logger
	pool    *pool.Pool
	metrics poolMetrics

	mu sync.Mutex // guards everything below
	// claims are the settings of the started configurations, the newest last;
	// that one is in force. Withdrawing it brings the one before back, so that
	// one rule covers a reload, a failed reload, and a removal.
	claims []*claim
	local  *localService
	// last is where instances call back to when there is no claim any more. The
	// pool may still need some for its queue.
	last *callback
}

// claim is what one started configuration wants of the pool.
type claim struct {
	settings pool.Settings
	callback *callback
	// requested: requests chose the function, no configuration names it.
	requested bool
	// function is what the local Lambda runs; nil without one.
	function  *locallambda.Function
	withdrawn bool // guarded by the pool's mu
	// tentative: the configuration may still fail, so nothing is started for it
	// but what requests need. Guarded by the pool's mu.
	tentative bool
}

// inForce returns the settings as far as they are in force. Callers hold the
// pool's mu.
func (c *claim) inForce() pool.Settings {
	set := c.settings
	if c.tentative {
		set.Scale.MinInstances = 0
	}
	return set
}

// loadPool returns the pool of the function. Each successful call must be
// undone with pools.Delete(function).
func loadPool(function string, log *zap.Logger) (*sharedPool, error) {
	v, _, err := pools.LoadOrNew(function, func() (caddy.Destructor, error) {
		m := metricsOf(function)
		return &sharedPool{
			name:    function,
			log:     log,
			pool:    pool.New(function, log, m),
			metrics: m,
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*sharedPool), nil
}

// stage prepares what a configuration wants, as far as it can fail: it may bind
// a callback listener. It changes nothing for a pool that another configuration
// uses; that is for enforce, once the configuration has surely been started. A
// pool that no other configuration uses gets the settings at once, but for
// min_instances: nobody may pay for a configuration that fails.
func (s *sharedPool) stage(ctx context.Context, conf PoolConfig) (*claim, error) {
	cb, err := listenCallback(ctx, conf.Callback, conf.Invoker.Local != nil, s.log)
	if err != nil {
		return nil, err
	}
	c := &claim{settings: conf.settings(), callback: cb}
	c.settings.Callback, c.settings.Zone = cb, cb.Zone()
	if err := s.prepare(ctx, conf, c); err != nil {
		cb.release()
		return nil, err
	}
	s.mu.Lock()
	first := len(s.claims) == 0
	s.mu.Unlock()
	if !first {
		return c, nil
	}
	c.tentative = true
	if err := s.enforce(c); err != nil {
		return nil, errors.Join(err, s.withdraw(c))
	}
	return c, nil
}

// prepare gives the claim its invoker.
func (s *sharedPool) prepare(ctx context.Context, conf PoolConfig, c *claim) error {
	options := conf.Invoker.options(s.name)
	if local := conf.Invoker.Local; local != nil {
		fn, err := local.function(s.name)
		if err != nil {
			return err
		}
		if err := fn.Validate(); err != nil {
			return err
		}
		c.function = &fn
		s.mu.Lock()
		options.Endpoint, err = s.serveLocally()
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	var err error
	c.settings.Invoker, err = awslambda.New(ctx, options)
	return err
}

// enforce puts a configuration's settings in force, unless they are.
func (s *sharedPool) enforce(c *claim) error {
	unused, err := s.takeOver(c)
	if unused != nil {
		unused.release()
	}
	return err
}

// takeOver is enforce but for what the caller has to release.
func (s *sharedPool) takeOver(c *claim) (unused *callback, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.claims, c); i >= 0 {
		if c.tentative {
			c.tentative = false
			if i == len(s.claims)-1 {
				s.pool.Configure(c.inForce())
			}
		}
		return nil, nil
	}
	if c.function != nil {
		if _, err := s.deployLocally(*c.function); err != nil {
			return nil, err
		}
	}
	s.claims = append(s.claims, c)
	s.pool.Configure(c.inForce())
	unused, s.last = s.last, nil
	return unused, nil
}

// withdraw takes a configuration's settings back.
func (s *sharedPool) withdraw(c *claim) error {
	unused, err := s.unclaim(c)
	if unused != nil {
		unused.release()
	}
	return err
}

// unclaim is withdraw but for what the caller has to release: that may close a
// listener and wait for it.
func (s *sharedPool) unclaim(c *claim) (unused *callback, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.withdrawn {
		return nil, errors.New("claim was withdrawn before")
	}
	c.withdrawn = true
	i := slices.Index(s.claims, c)
	if i < 0 {
		return c.callback, nil // the configuration failed to start
	}
	wasInForce := i == len(s.claims)-1
	s.claims = slices.Delete(s.claims, i, i+1)
	if len(s.claims) == 0 {
		s.last = c.callback
		return nil, nil
	}
	if !wasInForce {
		return c.callback, nil
	}
	s.pool.Configure(s.claims[len(s.claims)-1].inForce())
	return c.callback, s.redeploy()
}

// redeploy gives the local Lambda the function that is in force. Callers hold
// s.mu.
func (s *sharedPool) redeploy() error {
	if len(s.claims) == 0 || s.claims[len(s.claims)-1].function == nil {
		return nil
	}
	_, err := s.deployLocally(*s.claims[len(s.claims)-1].function)
	return err
}

// settings translates the configuration.
func (c *PoolConfig) settings() pool.Settings {
	return pool.Settings{
		Scale: scale.Config{
			MaxConcurrent:    c.MaxConcurrent,
			TargetConcurrent: c.TargetConcurrent,
			MinInstances:     c.MinInstances,
			MaxInstances:     c.MaxInstances,
			IdleTimeout:      time.Duration(c.IdleTimeout),
		},
		QueueSize:    max(c.QueueSize, 0),
		QueueTimeout: max(time.Duration(c.QueueTimeout), 0),
	}
}

// Destruct closes the pool once no configuration uses it, in the background: a
// reload must not wait for it, and the end of the process does.
func (s *sharedPool) Destruct() error {
	grace := drainGrace
	if caddy.Exiting() {
		grace = exitGrace
	}
	closing.Store(s, struct{}{})
	draining.Go(func() { s.close(grace) })
	return nil
}

func (s *sharedPool) close(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	s.log.Info("closing pool", zap.String("pool", s.name))
	err := s.pool.Close(ctx)
	s.mu.Lock()
	local, last := s.local, s.last
	s.last = nil
	s.mu.Unlock()
	if local != nil {
		err = errors.Join(err, local.close(ctx))
	}
	if last != nil {
		last.release()
	}
	cloudWatchLog.closePool(s.name)
	closing.Delete(s)
	s.metrics.forget()
	if err != nil {
		s.log.Warn("pool did not close in time", zap.String("pool", s.name), zap.Error(err))
	}
}

// localService is the embedded local Lambda of one pool and its Invoke API.
type localService struct {
	lambda   *locallambda.Service
	server   *http.Server
	served   chan struct{}
	endpoint string
}

// deployLocally gives the pool's local Lambda the function, starting it if it
// does not run yet, and returns the endpoint of its Invoke API. Callers hold
// s.mu.
func (s *sharedPool) deployLocally(fn locallambda.Function) (string, error) {
	endpoint, err := s.serveLocally()
	if err != nil {
		return "", err
	}
	return endpoint, s.local.lambda.Deploy(fn)
}

// serveLocally starts the pool's local Lambda if it does not run yet, and returns
// the endpoint of its Invoke API. Callers hold s.mu.
func (s *sharedPool) serveLocally() (string, error) {
	if s.local == nil {
		local, err := serveLambda("127.0.0.1:0", s.log)
		if err != nil {
			return "", err
		}
		s.local = local
	}
	return s.local.endpoint, nil
}

// serveLambda starts a local Lambda without any function.
func serveLambda(addr string, log *zap.Logger) (*localService, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("local lambda: %w", err)
	}
	svc := locallambda.New(log.Named("local_lambda"))
	l := &localService{
		lambda:   svc,
		server:   &http.Server{Handler: svc, ReadHeaderTimeout: time.Minute},
		served:   make(chan struct{}),
		endpoint: "http://" + ln.Addr().String(),
	}
	go func() {
		defer close(l.served)
		if err := l.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("local lambda failed", zap.Error(err))
		}
	}()
	return l, nil
}

func (l *localService) close(ctx context.Context) error {
	err := l.lambda.Close(ctx)
	err = errors.Join(err, l.server.Close())
	<-l.served
	return err
}
