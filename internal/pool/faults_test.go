package pool

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// fault is one way in which an invocation can go.
type fault int

const (
	noFault fault = iota
	throttled
	serviceError
	unavailable503
	denied
	missing
	unreachable
	initError
	crashAtStart
	crashWhenReady
	crashOnFirstRequest
	refusesRequests
	invokeHangs      // accepted, never answered, and nothing runs
	neverCallsBack   // runs until the function's timeout
	tunnelCut        // soon after it was ready; the adapter says that all is well
	tunnelCutAndHang // the same, and the result never comes
	faultCount
)

var faultNames = [...]string{
	"none", "429", "500", "503", "access denied", "function missing", "connection reset", "init error",
	"crash at start", "crash when ready", "crash on the first request", "requests refused", "Invoke hangs",
	"never calls back", "tunnel cut", "tunnel cut and no result",
}

func (f fault) String() string { return faultNames[f] }

// answers reports whether instances with the fault answer some requests.
func (f fault) answers() bool { return f == noFault || f == tunnelCut || f == tunnelCutAndHang }

var faultErrors = map[fault]*invoke.Error{
	throttled:      {Kind: invoke.KindThrottled, Code: "TooManyRequestsException", Message: "Rate Exceeded."},
	serviceError:   {Kind: invoke.KindService, Code: "ServiceException", Message: "internal error"},
	unavailable503: {Kind: invoke.KindService, Code: "ServiceUnavailable", Message: "try later"},
	denied:         {Kind: invoke.KindDenied, Code: "AccessDeniedException", Message: "not authorized"},
	missing:        {Kind: invoke.KindMissing, Code: "ResourceNotFoundException", Message: "not found"},
	unreachable:    {Kind: invoke.KindUnreachable, Message: "connection reset by peer"},
	initError:      {Kind: invoke.KindFunction, Code: "Runtime.InitError", Message: "init failed"},
	crashAtStart:   {Kind: invoke.KindFunction, Code: "Runtime.ExitError", Message: "exit status 1"},
}

// faultyLambda is invoker, callback listener and environments of a pool, whose
// faults a test chooses for each invocation.
type faultyLambda struct {
	coldStart time.Duration
	timeout   time.Duration                                                 // of the function
	answer    func(*fakeTunnel) func(*http.Request) (*http.Response, error) // what the app does, if not nil

	mu      sync.Mutex
	choose  func() fault
	accept  map[string]func(tunnel.Tunnel)
	started []time.Time
}

func newFaultyLambda(f fault) *faultyLambda {
	return &faultyLambda{
		coldStart: 500 * time.Millisecond, timeout: maxInvocation,
		choose: func() fault { return f }, accept: make(map[string]func(tunnel.Tunnel)),
	}
}

func (l *faultyLambda) Advertise() string { return "router:1" }
func (l *faultyLambda) Pin() string       { return "" }

func (l *faultyLambda) Expect(id string, _ []byte, accept func(tunnel.Tunnel)) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accept[id] = accept
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.accept, id)
	}
}

func (l *faultyLambda) set(choose func() fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.choose = choose
}

func (l *faultyLambda) become(f fault) { l.set(func() fault { return f }) }

func (l *faultyLambda) starts() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.started)
}

func (l *faultyLambda) Invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	begun := time.Now()
	l.mu.Lock()
	l.started = append(l.started, begun)
	f := l.choose()
	coldStart := l.coldStart
	l.mu.Unlock()

	res := invoke.Result{Instance: ev.Instance, Reason: invoke.ReasonDrained}
	crash := &invoke.Error{Kind: invoke.KindFunction, Code: "Runtime.ExitError", Message: "exit status 1"}
	timedOut := &invoke.Error{Kind: invoke.KindFunction, Code: "Sandbox.Timedout", Message: "timed out"}
	switch f {
	case initError:
		return res, errors.Join(sleep(ctx, time.Second), faultErrors[f])
	case crashAtStart:
		return res, errors.Join(sleep(ctx, coldStart/2), faultErrors[f])
	case invokeHangs:
		<-ctx.Done()
		return res, ctx.Err()
	case neverCallsBack:
		return res, errors.Join(sleep(ctx, l.timeout), timedOut)
	}
	if err := faultErrors[f]; err != nil {
		return res, errors.Join(sleep(ctx, 20*time.Millisecond), err)
	}

	if err := sleep(ctx, coldStart); err != nil {
		return res, err
	}
	l.mu.Lock()
	accept := l.accept[ev.Instance]
	l.mu.Unlock()
	if accept == nil {
		res.Reason = invoke.ReasonRouterRefused
		return res, nil
	}
	t := &fakeTunnel{
		ready: tunnel.Ready{MaxConcurrent: ev.MaxConcurrent, Deadline: begun.Add(l.timeout), Environment: "env"},
		drain: make(chan struct{}), done: make(chan struct{}),
	}
	var died error
	if f == crashOnFirstRequest {
		died = crash
	}
	t.serve(func(*http.Request) (*http.Response, error) {
		switch f {
		case crashOnFirstRequest:
			_ = t.Close()
			return nil, &tunnel.RoundTripError{Err: tunnel.ErrPeerClosed, Processed: true}
		case refusesRequests:
			return nil, &tunnel.RoundTripError{Err: tunnel.ErrDraining}
		case crashWhenReady:
			<-t.done // before the app could answer
			return nil, &tunnel.RoundTripError{Err: tunnel.ErrPeerClosed, Processed: true}
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("ok"))}, nil
	})
	if l.answer != nil {
		t.serve(l.answer(t))
	}
	accept(t)
	end := time.NewTimer(time.Until(t.ready.Deadline))
	defer end.Stop()
	switch f {
	case crashWhenReady:
		died = errors.Join(sleep(ctx, 10*time.Millisecond), crash)
		_ = t.Close()
	case tunnelCut, tunnelCutAndHang:
		_ = sleep(ctx, time.Second)
		_ = t.Close()
		res.Reason = invoke.ReasonRouterGone
	}
	select {
	case <-t.done:
	case <-end.C:
		_ = t.Close()
		return res, timedOut
	}
	if f == tunnelCutAndHang {
		<-ctx.Done()
		return res, ctx.Err()
	}
	return res, died
}

// reply is what became of one request.
type reply struct {
	at   time.Time // when it was sent
	took time.Duration
	err  error
}

// clients send one request after another, each of which takes a while, until
// the context ends. Who gets an error comes back a second later.
type clients struct {
	wg sync.WaitGroup

	mu      sync.Mutex
	replies []reply
	forget  bool
	served  int
}

func (c *clients) run(ctx context.Context, p *Pool, n int, service time.Duration) {
	for range n {
		c.wg.Go(func() {
			for ctx.Err() == nil {
				begin := time.Now()
				err := ask(ctx, p, service)
				if ctx.Err() != nil {
					return
				}
				c.mu.Lock()
				if !c.forget {
					c.replies = append(c.replies, reply{begin, time.Since(begin), err})
				}
				if err == nil {
					c.served++
				}
				c.mu.Unlock()
				if err != nil {
					_ = sleep(ctx, time.Second)
				}
			}
		})
	}
}

func ask(ctx context.Context, p *Pool, service time.Duration) error {
	l, err := p.Enter()
	if err != nil {
		return err
	}
	defer l.Release()
	if err := l.Wait(ctx); err != nil {
		return err
	}
	resp, err := l.RoundTrip(request(http.MethodPost, nil).WithContext(ctx))
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	return sleep(ctx, service)
}

func (c *clients) since(t time.Time) (all []reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.replies {
		if !r.at.Before(t) {
			all = append(all, r)
		}
	}
	return all
}

// disaster plays a test in a bubble with a pool on a faulty Lambda.
func disaster(t *testing.T, l *faultyLambda, set Settings, act func(t *testing.T, ctx context.Context, p *Pool, c *clients)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		set.Invoker, set.Callback = l, l
		p := New("p", zap.NewNop(), nil)
		p.Configure(set)
		ctx, cancel := context.WithCancel(t.Context())
		c := &clients{}
		act(t, ctx, p, c)
		cancel()
		c.wg.Wait()
		closing, done := context.WithTimeout(t.Context(), time.Minute)
		defer done()
		_ = p.Close(closing)
		if n := len(p.Snapshot().Instances); n != 0 {
			t.Errorf("%d instances are left after Close", n)
		}
	})
}

// excessStarts returns by how many the starts exceed the bound in the worst
// stretch of time, of all that begin and end with a start.
func excessStarts(c scale.Config, starts []time.Time) int {
	burst := float64(c.MaxStarts(0))
	perSecond := (float64(c.MaxStarts(time.Hour)) - burst) / time.Hour.Seconds()
	most, least := 0.0, math.Inf(1)
	for i, at := range starts {
		free := perSecond * at.Sub(starts[0]).Seconds()
		least = min(least, float64(i)-free)
		most = max(most, float64(i+1)-free-least)
	}
	return int(math.Floor(most - 1e-3 - burst))
}

// busiestMinute returns the most starts in any 60 s from the time on.
func busiestMinute(starts []time.Time, from time.Time) (most int) {
	for i, at := range starts {
		if at.Before(from) {
			continue
		}
		n := 0
		for _, other := range starts[i:] {
			if other.Sub(at) >= time.Minute {
				break
			}
			n++
		}
		most = max(most, n)
	}
	return most
}

// The bound that nothing may break: 100 invocations at once and 600 a minute,
// whatever happens, for ten hours of everything that can go wrong, in any
// mixture and order, with reloads in between. And in each stretch in which no
// instance answers a request: after its first minute 40 a minute.
func TestInvocationsAreBoundedWhateverHappens(t *testing.T) {
	const silentMost = 40
	total, seeds := 10*time.Hour, 2
	if testing.Short() {
		total, seeds = time.Hour, 1
	}
	for seed := range seeds {
		l := newFaultyLambda(noFault)
		rnd := rand.New(rand.NewPCG(uint64(seed), 7)) //nolint:gosec // not negative
		set := settings()
		disaster(t, l, set, func(t *testing.T, ctx context.Context, p *Pool, c *clients) {
			c.forget = true
			c.run(ctx, p, 60, 3*time.Second)
			begin := time.Now()
			var bounded scale.Config
			silent := 0
			for time.Since(begin) < total {
				var weights [faultCount]float64
				answers := false
				for range 1 + rnd.IntN(4) {
					f := fault(rnd.IntN(int(faultCount)))
					weights[f] = 0.05 + rnd.Float64()
					answers = answers || f.answers()
				}
				draws := rand.New(rand.NewPCG(rnd.Uint64(), 8)) // its own: it is used by invocations
				l.set(func() fault { return draw(draws, weights) })
				phase := time.Duration(1+rnd.IntN(15)) * time.Minute
				from := time.Now()
				before := served(c)
				for time.Since(from) < phase {
					if rnd.IntN(3) == 0 {
						set := settings()
						set.Invoker, set.Callback = l, l
						set.Scale = scale.Config{
							MaxConcurrent: 1 + rnd.IntN(4), MaxInstances: []int{1, 20, 100}[rnd.IntN(3)],
							MinInstances: rnd.IntN(3), IdleTimeout: time.Minute,
						}
						bounded = set.Scale
						p.Configure(set)
					}
					time.Sleep(time.Duration(1 + rnd.Int64N(int64(2*time.Minute))))
				}
				if !answers && served(c) == before {
					n := busiestMinute(l.starts(), from.Add(time.Minute))
					silent = max(silent, n)
					if n > silentMost {
						t.Errorf("%d starts in a minute although nothing answers: weights %v", n, weights)
					}
				}
			}
			starts := l.starts()
			t.Logf("seed %d: %d invocations in %v, %d in the worst minute, %d where nothing answers; %d requests served",
				seed, len(starts), total, busiestMinute(starts, begin), silent, served(c))
			if n := excessStarts(bounded, starts); n > 0 {
				t.Errorf("%d starts more than the bound", n)
			}
			l.become(noFault)
			repaired := time.Now()
			for before := served(c); served(c) == before; time.Sleep(100 * time.Millisecond) {
				if time.Since(repaired) > recoveryMost+3*time.Second { // and a request takes 3 s
					t.Errorf("nothing is served %v after everything works", time.Since(repaired))
					break
				}
			}
		})
	}
}

func draw(rnd *rand.Rand, weights [faultCount]float64) fault {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	x := rnd.Float64() * sum
	for f, w := range weights {
		if x -= w; x < 0 {
			return fault(f)
		}
	}
	return noFault
}

func served(c *clients) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served
}

// recoveryMost is how long after the cause is gone requests are served again.
const recoveryMost = 15 * time.Second

// Each fault alone, long and short, on a pool that knows nothing and on one
// that has worked: clients are told at once, invocations are few, and it is
// over soon after the fault is.
func TestRecoveryFromEachFault(t *testing.T) {
	lengths := []time.Duration{20 * time.Second, 10 * time.Minute}
	if testing.Short() {
		lengths = lengths[:1]
	}
	for f := throttled; f < faultCount; f++ {
		for _, length := range lengths {
			for _, learnt := range []bool{false, true} {
				name := f.String() + " for " + length.String()
				if learnt {
					name += " on a pool that has worked"
				}
				t.Run(name, func(t *testing.T) { recoverFrom(t, f, length, learnt) })
			}
		}
	}
}

func recoverFrom(t *testing.T, f fault, length time.Duration, learnt bool) {
	l := newFaultyLambda(f)
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 2, MaxInstances: 20, IdleTimeout: 5 * time.Second}
	disaster(t, l, set, func(t *testing.T, ctx context.Context, p *Pool, c *clients) {
		if learnt {
			l.become(noFault)
			if err := ask(ctx, p, time.Second); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			l.become(f)
		}
		begin := time.Now()
		c.run(ctx, p, 10, 100*time.Millisecond)
		time.Sleep(length)
		l.become(noFault)
		repaired := time.Now()
		during := c.since(begin)
		before := served(c)
		for served(c) == before {
			time.Sleep(10 * time.Millisecond)
			if time.Since(repaired) > 5*time.Minute {
				break
			}
		}
		took := time.Since(repaired)
		time.Sleep(20 * time.Second)
		settled := time.Now()
		time.Sleep(20 * time.Second)
		for _, r := range c.since(settled) {
			if r.err != nil || r.took > time.Second {
				t.Errorf("a request took %v, %v, %v after the repair", r.took, r.err, r.at.Sub(repaired))
				break
			}
		}

		starts := l.starts()
		first := 0
		for first < len(starts) && starts[first].Sub(begin) < time.Minute {
			first++
		}
		slow, failed := 0, 0
		var longest time.Duration
		for _, r := range during {
			if r.err == nil || r.at.Sub(begin) < length/2 {
				continue
			}
			failed++
			longest = max(longest, r.took)
			if r.took > 100*time.Millisecond {
				slow++
			}
		}
		most := busiestMinute(starts[:slices.IndexFunc(starts, func(s time.Time) bool { return s.After(repaired) })], begin.Add(time.Minute))
		t.Logf("%d starts in the first minute, then at most %d in one; of %d failed requests %d waited, at most %v; served %v after the repair",
			first, most, failed, slow, longest, took)
		if took > recoveryMost {
			t.Errorf("served %v after the repair", took)
		}
		if !f.answers() && (first > 60 || most > 40) {
			t.Errorf("%d starts in the first minute, later at most %d in one", first, most)
		}
		if length < time.Minute || f == throttled || f.answers() {
			return // not failing is what is wanted of these
		}
		if failed == 0 || slow > failed/5 || longest > recoveryMost {
			t.Errorf("of %d failed requests %d waited, at most %v", failed, slow, longest)
		}
	})
}

// Whatever happens to new invocations, requests on instances that are ready do
// not notice.
func TestFaultsDoNotDisturbReadyInstances(t *testing.T) {
	for f := throttled; f < faultCount; f++ {
		switch f {
		case crashWhenReady, crashOnFirstRequest, refusesRequests, tunnelCut, tunnelCutAndHang:
			continue // these take requests
		}
		t.Run(f.String(), func(t *testing.T) {
			l := newFaultyLambda(noFault)
			set := settings()
			set.Scale = scale.Config{MaxConcurrent: 10, MaxInstances: 20, MinInstances: 2, IdleTimeout: time.Minute}
			disaster(t, l, set, func(t *testing.T, ctx context.Context, p *Pool, c *clients) {
				time.Sleep(5 * time.Second)
				l.become(f)
				c.run(ctx, p, 18, 100*time.Millisecond) // more than the target of 10, so that more are wanted
				time.Sleep(time.Minute)
				for _, r := range c.since(time.Time{}) {
					if r.err != nil || r.took > 110*time.Millisecond {
						t.Errorf("a request took %v: %v", r.took, r.err)
						break
					}
				}
				if n := len(l.starts()); n < 5 {
					t.Errorf("only %d starts: nothing was tried", n)
				}
			})
		})
	}
}
