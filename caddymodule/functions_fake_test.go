package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// fakeRegion stands for Lambda and the way back from it, for any number of
// functions.
type fakeRegion struct {
	missing   func(name string) bool
	coldStart time.Duration
	lifetime  time.Duration // of instances, if they end by themselves

	mu      sync.Mutex
	invoked map[string]int
	accept  map[string]func(tunnel.Tunnel)
}

type fakeFunction struct {
	*fakeRegion
	name string
}

func (f *fakeRegion) Advertise() string { return "router:1" }
func (f *fakeRegion) Pin() string       { return "" }

func (f *fakeRegion) Expect(id string, _ []byte, accept func(tunnel.Tunnel)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accept[id] = accept
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.accept, id)
	}
}

func (f fakeFunction) Invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	f.mu.Lock()
	f.invoked[f.name]++
	missing := f.missing != nil && f.missing(f.name)
	f.mu.Unlock()
	if missing {
		return invoke.Result{}, &invoke.Error{Kind: invoke.KindMissing, Code: "ResourceNotFoundException", Message: "not found: " + f.name}
	}
	select {
	case <-time.After(f.coldStart):
	case <-ctx.Done():
		return invoke.Result{}, ctx.Err()
	}
	f.mu.Lock()
	accept := f.accept[ev.Instance]
	f.mu.Unlock()
	res := invoke.Result{Instance: ev.Instance, Reason: invoke.ReasonRouterRefused}
	if accept == nil {
		return res, nil
	}
	t := &idleTunnel{max: ev.MaxConcurrent, deadline: time.Now().Add(15 * time.Minute), done: make(chan struct{})}
	accept(t)
	if f.lifetime > 0 {
		time.AfterFunc(f.lifetime, func() { _ = t.Close() })
	}
	<-t.done
	res.Reason = invoke.ReasonDrained
	return res, nil
}

func (f *fakeRegion) invocations(name string) (of, all int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, count := range f.invoked {
		all += count
		if n == name {
			of = count
		}
	}
	return of, all
}

// idleTunnel is an instance that has a tunnel and is asked nothing.
type idleTunnel struct {
	max      int
	deadline time.Time
	once     sync.Once
	done     chan struct{}
}

func (t *idleTunnel) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("not here")
}

func (t *idleTunnel) Ready() tunnel.Ready {
	return tunnel.Ready{MaxConcurrent: t.max, Deadline: t.deadline}
}
func (t *idleTunnel) Slots() int                { return t.max }
func (t *idleTunnel) Drain(string)              { _ = t.Close() }
func (t *idleTunnel) Draining() <-chan struct{} { return t.done }
func (t *idleTunnel) Done() <-chan struct{}     { return t.done }
func (t *idleTunnel) Err() error                { return tunnel.ErrClosed }
func (t *idleTunnel) Close() error              { t.once.Do(func() { close(t.done) }); return nil }

// newRegion returns the pools of a handler that may invoke any function of a
// fake region. It gives unused ones back after idle_timeout, or as it is told.
func newRegion(t *testing.T, most int, conf PoolConfig, unusedFor ...time.Duration) (*requestedPools, *fakeRegion, *observer.ObservedLogs) {
	t.Helper()
	f := &fakeRegion{invoked: make(map[string]int), accept: make(map[string]func(tunnel.Tunnel))}
	conf.setDefaults()
	allowed, err := newAllowList([]string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.InfoLevel)
	d := newRequestedPools(allowed, most, conf, zap.New(core))
	for _, after := range unusedFor {
		d.conf.IdleTimeout = caddy.Duration(after)
	}
	d.obtain = func(p *requestedPool) error {
		s, err := loadPool(p.name, zap.New(core))
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		full := conf.settings()
		full.Invoker, full.Callback = fakeFunction{f, p.name}, f
		c := &claim{requested: true, settings: p.settings(full)}
		s.claims = append(s.claims, c)
		s.pool.Configure(c.settings)
		p.shared, p.claim = s, c
		return nil
	}
	d.start()
	return d, f, logs
}
