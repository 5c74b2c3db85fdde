package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke/awslambda"
)

// useRequested registers a handler whose function is chosen per request.
// Nothing takes effect before Start.
func (a *App) useRequested(template string, d *requestedPools) error {
	for function, u := range a.uses {
		if d.allowed.allows(function) && !reflect.DeepEqual(u.conf, d.conf) {
			return differs(template, function)
		}
	}
	for _, o := range a.requested {
		if d.allowed.overlaps(o.allowed) && !reflect.DeepEqual(o.conf, d.conf) {
			return fmt.Errorf("allow_functions of %s and of another handler with different settings allow the same functions: "+
				"handlers of one function share its pool", template)
		}
	}
	d.obtain = a.obtain
	a.requested = append(a.requested, d)
	return nil
}

// checkRequested refuses a function that has other settings where it is chosen
// per request.
func (a *App) checkRequested(function string, conf PoolConfig) error {
	for _, d := range a.requested {
		if d.allowed.allows(function) && !reflect.DeepEqual(conf, d.conf) {
			return differs("allow_functions", function)
		}
	}
	return nil
}

func differs(what, function string) error {
	return fmt.Errorf("%s allows function %s, which is configured with different settings: "+
		"handlers of one function share its pool", what, function)
}

// startRequested binds the callback listeners.
func (a *App) startRequested() error {
	for _, d := range a.requested {
		if err := a.startPools(d); err != nil {
			return fmt.Errorf("functions chosen per request: %w", err)
		}
	}
	return nil
}

// adoptRequested takes over the pools of the configuration before that are still
// allowed. It is called when the configuration cannot fail to start any more.
func (a *App) adoptRequested() error {
	if len(a.requested) == 0 {
		return nil
	}
	var living []*sharedPool
	pools.Range(func(_, v any) bool {
		if s, ok := v.(*sharedPool); ok && a.uses[s.name] == nil {
			living = append(living, s)
		}
		return true
	})
	for _, d := range a.requested {
		for _, s := range living {
			if !d.allowed.allows(s.name) || adopted(s.name, a.requested) {
				continue
			}
			if err := d.adopt(s.name, knownToRun.has(s.name) || s.pool.Ready()); err != nil {
				return err
			}
		}
	}
	return nil
}

// startPools lets the pools of a handler be used.
func (a *App) startPools(d *requestedPools) (err error) {
	local := d.conf.Invoker.Local != nil
	if d.callback, err = listenCallback(a.ctx, d.conf.Callback, local, a.logger); err != nil {
		return err
	}
	if !local {
		if d.invoker, err = awslambda.New(a.ctx, d.conf.Invoker.options("")); err != nil {
			return err
		}
	}
	d.start()
	return nil
}

// obtain gives the pool of a function the handler's settings.
func (a *App) obtain(p *requestedPool) error {
	shared, err := loadPool(p.name, a.logger)
	if err != nil {
		return err
	}
	c, err := shared.claimRequested(a.ctx, p)
	if err != nil {
		_, deleteErr := pools.Delete(p.name)
		return errors.Join(err, deleteErr)
	}
	p.shared, p.claim = shared, c
	return nil
}

// retain adds a user, who must release it.
func (c *callback) retain() *callback {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users++
	return c
}

// claimRequested is [sharedPool.stage] for a function that a request has chosen:
// its settings are in force at once.
func (s *sharedPool) claimRequested(ctx context.Context, p *requestedPool) (_ *claim, err error) {
	conf := p.of.conf
	c := &claim{callback: p.of.callback.retain(), requested: true, settings: conf.settings()}
	c.settings.Callback, c.settings.Zone = c.callback, c.callback.Zone()
	if conf.Invoker.Local != nil {
		err = s.prepare(ctx, conf, c)
	} else {
		c.settings.Invoker = p.of.invoker.For(p.name)
	}
	c.settings = p.settings(c.settings)
	if err == nil {
		err = s.enforce(c)
	}
	if err != nil {
		return nil, errors.Join(err, s.withdraw(c))
	}
	return c, nil
}

// setMaxInstances changes a claim.
func (s *sharedPool) setMaxInstances(c *claim, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.settings.Scale.MaxInstances = n
	if len(s.claims) > 0 && s.claims[len(s.claims)-1] == c {
		s.pool.Configure(c.settings)
	}
}

// giveBack withdraws the claim and the use of the pool that it came with.
func (s *sharedPool) giveBack(c *claim) error {
	err := s.withdraw(c)
	_, deleteErr := pools.Delete(s.name)
	return errors.Join(err, deleteErr)
}

// isRequested reports whether requests have chosen the pool's function.
func (s *sharedPool) isRequested() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.claims, func(c *claim) bool { return c.requested })
}

// cleanupRequested gives back what startRequested and requests took.
func (a *App) cleanupRequested() error {
	errs := make([]error, 0, len(a.requested))
	for _, d := range a.requested {
		errs = append(errs, d.close())
		if d.callback != nil {
			d.callback.release()
		}
	}
	return errors.Join(errs...)
}
