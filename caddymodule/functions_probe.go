package caddymodule

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// budget is how many attempts there may be to invoke functions that are not
// known to run: size at once, and the same again per minute.
type budget struct {
	size   float64
	left   float64
	filled time.Time
}

func newBudget(size int, now time.Time) budget {
	return budget{size: float64(size), left: float64(size), filled: now}
}

func (b *budget) has(now time.Time) bool {
	if d := now.Sub(b.filled); d > 0 {
		b.left = min(b.size, b.left+b.size*d.Minutes())
		b.filled = now
	}
	return b.left >= 1
}

// next returns when there is one more.
func (b *budget) next(now time.Time) time.Time {
	return now.Add(time.Duration((1 - b.left) / b.size * float64(time.Minute)))
}

func (b *budget) take() { b.left-- }

func (b *budget) putBack() { b.left = min(b.size, b.left+1) }

// runningFunctions remembers functions that were seen to run, the last ones.
type runningFunctions struct {
	mu    sync.Mutex // guards the following
	order *list.List // of names, the last seen first
	known map[string]*list.Element
}

// maxKnownToRun bounds the memory: clients can name as many functions as exist.
const maxKnownToRun = 4096

// knownToRun outlives configurations: a reload says nothing about functions.
var knownToRun = &runningFunctions{order: list.New(), known: make(map[string]*list.Element)}

func (k *runningFunctions) has(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.known[name]
	if ok {
		k.order.MoveToFront(e)
	}
	return ok
}

func (k *runningFunctions) add(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e, ok := k.known[name]; ok {
		k.order.MoveToFront(e)
		return
	}
	k.known[name] = k.order.PushFront(name)
	if len(k.known) > maxKnownToRun {
		last := k.order.Back()
		k.order.Remove(last)
		delete(k.known, last.Value.(string))
	}
}

func (k *runningFunctions) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e, ok := k.known[name]; ok {
		k.order.Remove(e)
		delete(k.known, name)
	}
}

// settings are the pool's: one instance at a time until the function is known
// to run, so that many requests for one that does not exist cost one attempt.
func (p *requestedPool) settings(full pool.Settings) pool.Settings {
	full.Callback = watchedCallback{full.Callback, p}
	full.Invoker = watchedInvoker{full.Invoker, p}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if !p.lifted {
		full.Scale.MaxInstances = 1
	}
	return full
}

// watchedInvoker counts attempts and learns what functions do not run.
type watchedInvoker struct {
	inner invoke.Invoker
	pool  *requestedPool
}

func (w watchedInvoker) Invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	if !w.pool.tries(ev.Instance) {
		return invoke.Result{}, &invoke.Error{
			Kind:    invoke.KindService,
			Message: "not tried, because too many functions that are not known to run were tried",
		}
	}
	res, err := w.inner.Invoke(ctx, ev)
	w.pool.tried(ev.Instance, err)
	return res, err
}

// watchedCallback learns what functions do run.
type watchedCallback struct {
	pool.Callback
	pool *requestedPool
}

func (w watchedCallback) Expect(id string, secret []byte, accept func(tunnel.Tunnel)) func() {
	return w.Callback.Expect(id, secret, func(t tunnel.Tunnel) {
		w.pool.calledBack(id)
		accept(t)
	})
}

// tries takes an attempt from the budget if the function is not known to run,
// and reports whether there was one.
func (p *requestedPool) tries(instance string) bool {
	d := p.of
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case p.runs:
	case p.prepaid:
		p.prepaid = false
	case d.budget.has(time.Now()):
		d.budget.take()
	default:
		return false
	}
	p.invoked[instance] = false
	return true
}

// tried takes note of how an invocation ended.
func (p *requestedPool) tried(instance string, err error) {
	d := p.of
	d.mu.Lock()
	defer d.mu.Unlock()
	ran := p.invoked[instance]
	delete(p.invoked, instance)
	kind := invoke.KindOf(err)
	if err == nil || ran || kind == invoke.KindThrottled || kind == invoke.KindUnreachable || kind == invoke.KindService {
		return // that does not say that the function would not run
	}
	p.runs = false
	knownToRun.forget(p.name)
	if kind.Permanent() {
		p.failure = err
		d.refused[p.name] = refusal{cause: err, until: time.Now().Add(refusedFor)}
	}
}

// calledBack takes note of an instance with a tunnel.
func (p *requestedPool) calledBack(instance string) {
	d := p.of
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := p.invoked[instance]; ok { // else it comes too late
		p.invoked[instance] = true
	}
	if !p.runs && !knownToRun.has(p.name) {
		d.budget.putBack() // functions that do run are not meant by it
	}
	p.runs, p.failure = true, nil
	delete(d.refused, p.name)
	knownToRun.add(p.name)
	if p.lifted {
		return
	}
	select {
	case d.lift <- struct{}{}:
	default: // all of them are looked at
	}
}

// liftAll gives the pools whose functions are known to run all of their
// instances. Another handler, or the configuration before, may be who knows.
func (d *requestedPools) liftAll() {
	d.mu.Lock()
	var due []*requestedPool
	for _, p := range d.live {
		if !p.lifted && (p.runs || knownToRun.has(p.name)) {
			p.runs, p.lifted = true, true
			due = append(due, p)
		}
	}
	d.mu.Unlock()
	for _, p := range due {
		<-p.ready
		if p.err == nil {
			p.shared.setMaxInstances(p.claim, d.conf.MaxInstances)
		}
	}
}
