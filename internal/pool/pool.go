// Package pool is the living pool of one function: it joins dispatch (who runs
// a request), scale (how many instances), invoke (how one is started) and
// tunnel (how a request travels), and owns the goroutines, timers and retries
// that those packages must not have. It knows nothing of Caddy, of HTTP
// servers or of configuration files, and it decides nothing that dispatch or
// scale could decide.
package pool

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/dispatch"
	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// Callback is where the instances of a pool dial back to.
type Callback interface {
	// Expect announces that the instance with this ID and secret will dial.
	// accept is called at most once, with its authenticated tunnel, and must
	// not block. It may still be called after cancel, but never by Expect itself,
	// which is called with a lock held.
	Expect(id string, secret []byte, accept func(tunnel.Tunnel)) (cancel func())
	// Advertise returns the host:port that environments can dial.
	Advertise() string
	// Pin returns the hash of the listener's public key; "" is plain TCP.
	Pin() string
}

// Settings are what a configuration can change while the pool lives.
type Settings struct {
	// Scale holds the limits and targets of the scaler.
	Scale scale.Config
	// QueueSize is how many requests may wait for a slot at once.
	QueueSize int
	// QueueTimeout is how long a request may wait for a slot, over all its
	// attempts. 0 means for as long as the client does.
	QueueTimeout time.Duration
	// Invoker starts instances.
	Invoker invoke.Invoker
	// Callback is where they dial back to.
	Callback Callback
	// Zone is the ID of the availability zone that Callback is in. Empty means
	// that it is not known.
	Zone string
}

// Pool holds all instances, the queue and the scaler of one function.
type Pool struct {
	name    string
	log     *zap.Logger
	metrics Metrics

	// poke wakes the controller. One pending poke is enough, since the
	// controller looks at everything each time.
	poke chan struct{}
	// quit is closed to make everything in the pool end at once.
	quit chan struct{}
	// ending is closed, under mu, when the pool begins to end.
	ending chan struct{}
	// cut is closed when running requests are not waited for any more.
	cut chan struct{}
	// tasks counts the controller and the instances' goroutines.
	tasks sync.WaitGroup

	mu        sync.Mutex // guards everything below
	set       *Settings  // nil until the first Configure
	disp      *dispatch.Dispatcher
	scaler    *scale.Scaler
	instances map[*instance]struct{}
	// lastFailure is why starting instances fails; nil once one has become ready.
	lastFailure error
	hints       hints
	// lastReady is when an instance last became ready.
	lastReady time.Time
	// unserved is how many requests were refused since the last decision.
	unserved int
	// traffic is what has crossed the tunnels of instances that are closed.
	traffic zoneTraffic
	// billed is what invocations that have ended took; see Snapshot.Billed.
	billed time.Duration
	// coldStarts is how many instances became ready while a request waited.
	coldStarts uint64
	phase      phase
	// settled is closed when, in phase closing, no request is left.
	settled chan struct{}
}

// phase is where the pool itself is in its life.
type phase uint8

const (
	phaseOpen phase = iota
	// phaseQuiet: no instances are started but those that waiting requests need.
	phaseQuiet
	// phaseClosed: no request is accepted any more.
	phaseClosed
)

// New returns a pool without settings: it rejects requests until [Pool.Configure].
// A nil Metrics counts nothing.
func New(name string, log *zap.Logger, m Metrics) *Pool {
	if m == nil {
		m = discard{}
	}
	p := &Pool{
		name:      name,
		log:       log.With(zap.String("pool", name)),
		metrics:   m,
		poke:      make(chan struct{}, 1),
		quit:      make(chan struct{}),
		ending:    make(chan struct{}),
		cut:       make(chan struct{}),
		instances: make(map[*instance]struct{}),
	}
	p.disp = dispatch.New(dispatch.Config{}, grant)
	return p
}

// Name returns the pool's name.
func (p *Pool) Name() string { return p.name }

// Configure makes the settings the pool's. The first call brings it to life.
// Later ones keep instances, queue and running requests: limits apply at once,
// invoker and callback to the instances that are started from then on.
func (p *Pool) Configure(s Settings) {
	now := time.Now()
	p.mu.Lock()
	first := p.set == nil
	p.set = &s
	p.disp.Configure(dispatch.Config{QueueSize: s.QueueSize})
	if first {
		p.scaler = scale.New(s.Scale, now, rand.Float64)
		p.tasks.Go(p.control)
	} else {
		p.scaler.Configure(s.Scale, now)
		for in := range p.instances {
			if in.state == StateReady {
				p.disp.SetLimits(&in.slots, in.limits(s.Scale))
			}
		}
	}
	p.observe(now)
	p.mu.Unlock()
	p.wake()
}

// wake makes the controller look at the pool again.
func (p *Pool) wake() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// observe tells the scaler what the load is now. Callers hold p.mu.
func (p *Pool) observe(now time.Time) {
	p.scaler.Observe(scale.Load{InFlight: p.disp.InFlight(), Queued: p.disp.Queued() + p.unserved}, now)
}

// refused tells the scaler of a request that found the queue full: for a moment
// it was demand like one that waits. Without a queue it is the only sign that
// there are too few slots. Callers hold p.mu.
func (p *Pool) refused(now time.Time) {
	p.unserved++
	p.observe(now)
}

// Quiesce prepares the pool for the end of the process: from now on instances
// are started only for requests that wait and would otherwise never be served.
func (p *Pool) Quiesce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	if p.phase == phaseOpen {
		p.phase = phaseQuiet
	}
}

// Close ends the pool: the queue is served and running requests finish, then
// every instance is told to go and its result awaited. Requests that still run
// shortly before ctx ends are cut, so that the results of their invocations
// can be read; what is not done when it ends is cut off. Close returns when
// nothing of the pool is left running.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.phase == phaseClosed {
		p.mu.Unlock()
		return nil
	}
	p.phase = phaseQuiet
	p.end()
	settled := make(chan struct{})
	p.settled = settled
	p.settle()
	p.mu.Unlock()
	p.wake()

	requests, stop := beforeEnd(ctx)
	defer stop()
	var err error
	select {
	case <-settled:
	case <-requests.Done():
		err = context.DeadlineExceeded
		close(p.cut)
	}

	p.mu.Lock()
	p.phase = phaseClosed
	p.failWaiters(ErrClosed)
	gone := make([]<-chan struct{}, 0, len(p.instances))
	for in := range p.instances {
		p.release(in, drainPoolClosed)
		gone = append(gone, in.gone)
	}
	p.mu.Unlock()
	for _, g := range gone {
		select {
		case <-g:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	close(p.quit)
	p.tasks.Wait()
	return err
}

// settle closes p.settled once Close waits for it and no request is left.
// Callers hold p.mu.
func (p *Pool) settle() {
	if p.settled != nil && p.disp.Queued() == 0 && p.disp.InFlight() == 0 {
		close(p.settled)
		p.settled = nil
	}
}
