package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke/awslambda"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

const (
	// refusedFor is how long a function that Lambda would not run is refused
	// without asking again. Whoever deploys it after the first visit does not
	// want to wait longer.
	refusedFor = 10 * time.Second

	// warnEvery keeps clients from filling the log.
	warnEvery = time.Minute

	// Between these, a quarter of idle_timeout passes from one look for unused
	// pools to the next.
	leastSweep = 100 * time.Millisecond
	mostSweep  = 5 * time.Second

	// rescanAfter is how long it is believed that no pool can be evicted: to
	// find out costs a look at every pool, for each request that is refused.
	rescanAfter = 100 * time.Millisecond
)

// tooManyError refuses a request whose function would need one pool more than
// there may be, or one attempt more.
type tooManyError struct {
	why     string
	retryAt time.Time
}

func (e *tooManyError) Error() string { return e.why }

// requestedPools are the pools of a handler whose function is chosen per
// request. They are made by the first request that needs them, and given back
// when they are not used any more; like any pool they are shared with other
// handlers and configurations.
//
// What clients can make it do is bounded: max_functions pools at once, and so
// many attempts to invoke functions that are not known to run: max_functions
// at once and the same again per minute, over all names.
type requestedPools struct {
	log     *zap.Logger
	allowed allowList
	conf    PoolConfig
	most    int

	// obtain makes a pool usable. It is called without mu.
	obtain func(*requestedPool) error
	// callback and invoker are what their pools have in common; the local
	// Lambda needs no invoker here.
	callback *callback
	invoker  *awslambda.Invoker

	lift   chan struct{} // wakes tend: a function turned out to run
	quit   chan struct{}
	tended sync.WaitGroup

	mu      sync.Mutex // guards everything below
	closed  bool
	live    map[string]*requestedPool
	refused map[string]refusal
	budget  budget
	// scanned is when eviction last found nothing.
	scanned time.Time
	warned  time.Time
	unsaid  int // refusals since then
}

// refusal is a function that Lambda would not run.
type refusal struct {
	cause error
	until time.Time
}

// requestedPool is what a handler has of one pool.
type requestedPool struct {
	of   *requestedPools
	name string

	// ready is closed once the following are set.
	ready  chan struct{}
	shared *sharedPool
	claim  *claim
	err    error

	// guarded by of.mu
	users    int
	lastUsed time.Time
	// runs: the function is known to run, because an instance called back.
	runs   bool
	lifted bool // the pool has all of its instances
	// prepaid: the next attempt has been taken from the budget.
	prepaid bool
	// failure is why Lambda would not run the function.
	failure error
	// invoked holds the instances whose invocations run, and whether they
	// called back.
	invoked map[string]bool
}

func newRequestedPools(allowed allowList, most int, conf PoolConfig, log *zap.Logger) *requestedPools {
	return &requestedPools{
		log: log, allowed: allowed, conf: conf, most: most,
		lift:    make(chan struct{}, 1),
		quit:    make(chan struct{}),
		live:    make(map[string]*requestedPool),
		refused: make(map[string]refusal),
		budget:  newBudget(most, time.Now()),
	}
}

// use returns the pool of the function, which must be an allowed one, and makes
// it if need be. The caller must release it when its request is done.
func (d *requestedPools) use(ctx context.Context, name string) (*requestedPool, error) {
	d.mu.Lock()
	p, made, err := d.find(name, time.Now())
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if made {
		d.make(p)
	}
	select {
	case <-p.ready:
	case <-ctx.Done():
		p.release()
		return nil, ctx.Err()
	}
	if p.err != nil {
		p.release()
		return nil, p.err
	}
	return p, nil
}

// find returns the pool with one user more. If it has just been entered the
// caller must make it. Callers hold d.mu.
func (d *requestedPools) find(name string, now time.Time) (p *requestedPool, entered bool, err error) {
	if p := d.live[name]; p != nil {
		p.users++
		return p, false, nil
	}
	if d.closed {
		p, err := d.borrow(name)
		return p, false, err
	}
	if r, ok := d.refused[name]; ok && now.Before(r.until) {
		return nil, false, &pool.UnavailableError{Cause: r.cause, RetryAt: r.until}
	}
	runs := knownToRun.has(name)
	if !runs && !d.budget.has(now) {
		return nil, false, d.tooMany("too many functions that are not known to run were asked for", d.budget.next(now), now)
	}
	if len(d.live) >= d.most && !d.evict(now) {
		return nil, false, d.tooMany("as many functions as max_functions allows are in use", now.Add(time.Second), now)
	}
	if !runs {
		d.budget.take()
	}
	return d.enter(name, runs, now), true, nil
}

// borrow returns the pool that another configuration has, for a request that
// comes after the end of its own, as it does when that failed to start. Callers
// hold d.mu.
func (d *requestedPools) borrow(name string) (*requestedPool, error) {
	p := &requestedPool{of: d, name: name, users: 1, ready: make(chan struct{})}
	pools.Range(func(key, v any) bool {
		if key == name {
			p.shared, _ = v.(*sharedPool)
		}
		return p.shared == nil
	})
	if p.shared == nil {
		return nil, pool.ErrClosed
	}
	close(p.ready)
	return p, nil
}

// enter adds a pool that is still to be made, with one user. Callers hold d.mu.
func (d *requestedPools) enter(name string, runs bool, now time.Time) *requestedPool {
	p := &requestedPool{
		of: d, name: name, ready: make(chan struct{}),
		users: 1, lastUsed: now, invoked: make(map[string]bool),
		runs: runs, lifted: runs, prepaid: !runs,
	}
	d.live[name] = p
	return p
}

// make obtains the pool that was entered.
func (d *requestedPools) make(p *requestedPool) {
	if err := d.obtain(p); err != nil {
		p.err = fmt.Errorf("making pool of function %s: %w", p.name, err)
		d.mu.Lock()
		if d.live[p.name] == p {
			delete(d.live, p.name)
		}
		d.mu.Unlock()
	}
	close(p.ready)
}

// tooMany makes the error for a request that is refused, and says so in the
// log now and then. Callers hold d.mu.
func (d *requestedPools) tooMany(why string, retryAt, now time.Time) error {
	d.unsaid++
	if now.Sub(d.warned) >= warnEvery {
		d.log.Warn("requests are refused: too many functions",
			zap.String("reason", why), zap.Int("max_functions", d.most),
			zap.Int("pools", len(d.live)), zap.Int("requests", d.unsaid))
		d.warned, d.unsaid = now, 0
	}
	return &tooManyError{why: why, retryAt: retryAt}
}

// evict gives back the pool that has been unused for longest, if there is one
// without requests and instances. Callers hold d.mu.
func (d *requestedPools) evict(now time.Time) bool {
	if now.Sub(d.scanned) < rescanAfter {
		return false
	}
	var oldest *requestedPool
	for _, p := range d.live {
		if (oldest == nil || p.lastUsed.Before(oldest.lastUsed)) && p.unused() {
			oldest = p
		}
	}
	if oldest == nil {
		d.scanned = now
		return false
	}
	d.remove(oldest)
	return true
}

// unused reports whether nobody would miss the pool: it serves nobody, and it
// has no instance that the next request would be glad of. Callers hold of.mu.
func (p *requestedPool) unused() bool {
	return p.users == 0 && (p.failure != nil && !p.shared.pool.Ready() || p.shared.pool.Empty())
}

// remove gives the pool back. A request that comes for it from now on makes it
// anew: the pool itself goes on if that is in time, and ends if it is not.
// Callers hold d.mu; p has no users, so it is ready.
func (d *requestedPools) remove(p *requestedPool) {
	delete(d.live, p.name)
	d.tended.Go(p.giveBack)
}

// giveBack ends what obtain began.
func (p *requestedPool) giveBack() {
	if err := p.shared.giveBack(p.claim); err != nil {
		p.of.log.Error("giving back pool", zap.String("pool", p.name), zap.Error(err))
	}
}

// release ends one use. It may be called on nil, which is no use at all.
func (p *requestedPool) release() {
	if p == nil {
		return
	}
	d := p.of
	d.mu.Lock()
	defer d.mu.Unlock()
	p.users--
	p.lastUsed = time.Now()
	if p.failure != nil && !d.closed && d.live[p.name] == p && p.unused() {
		d.remove(p)
	}
}

// tend looks after the pools until close.
func (d *requestedPools) tend() {
	every := min(max(time.Duration(d.conf.IdleTimeout)/4, leastSweep), mostSweep)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-d.quit:
			return
		case <-d.lift:
			d.liftAll()
		case now := <-tick.C:
			d.sweep(now)
			d.liftAll()
		}
	}
}

// sweep gives back the pools that nobody has used for idle_timeout, once their
// instances have gone.
func (d *requestedPools) sweep(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.live {
		if p.users > 0 || p.failure == nil && now.Sub(p.lastUsed) < time.Duration(d.conf.IdleTimeout) {
			continue
		}
		if p.unused() {
			d.remove(p)
		}
	}
	for name, r := range d.refused {
		if !now.Before(r.until) {
			delete(d.refused, name)
		}
	}
}

// start lets the pools be used.
func (d *requestedPools) start() { d.tended.Go(d.tend) }

// adopt takes over a pool that lives already, in place of the configuration
// that made it.
func (d *requestedPools) adopt(name string, runs bool) error {
	now := time.Now()
	d.mu.Lock()
	if d.live[name] != nil || len(d.live) >= d.most {
		d.mu.Unlock()
		return nil
	}
	p := d.enter(name, runs, now)
	p.prepaid = false
	d.mu.Unlock()
	d.make(p)
	p.release()
	return p.err
}

// adopted reports whether one of the handlers has taken over the pool.
func adopted(name string, all []*requestedPools) bool {
	return slices.ContainsFunc(all, func(d *requestedPools) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.live[name] != nil
	})
}

// close gives all pools back. Requests that are still running keep their pools,
// and those that come late find them, for as long as they live.
func (d *requestedPools) close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	all := make([]*requestedPool, 0, len(d.live))
	for _, p := range d.live {
		all = append(all, p)
	}
	d.mu.Unlock()
	close(d.quit)
	d.tended.Wait()
	var errs []error
	for _, p := range all {
		<-p.ready
		if p.err == nil {
			errs = append(errs, p.shared.giveBack(p.claim))
		}
	}
	return errors.Join(errs...)
}

// quiesce prepares all pools for the end of the process.
func (d *requestedPools) quiesce() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.live {
		select {
		case <-p.ready:
			if p.err == nil {
				p.shared.pool.Quiesce()
			}
		default: // Quiesce would do no good: it is not configured yet
		}
	}
}
