package pool

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// fakeLambda stands for everything outside the router: it is the invoker and
// the callback listener of a pool, and makes environments that behave as a
// test wants. Within a synctest bubble its cold starts take virtual time.
type fakeLambda struct {
	coldStart time.Duration
	timeout   time.Duration // of the function; 0 is 15 minutes
	fail      error         // of every invocation while it is set
	mute      bool          // environments never call back
	deaf      bool          // invocations do not end with their tunnels
	zone      string        // of the next environments

	mu      sync.Mutex
	accept  map[string]func(tunnel.Tunnel)
	tunnels []*fakeTunnel
	invoked int
}

func newFakeLambda() *fakeLambda {
	return &fakeLambda{timeout: maxInvocation, accept: make(map[string]func(tunnel.Tunnel))}
}

func (f *fakeLambda) Advertise() string { return "router:1" }
func (f *fakeLambda) Pin() string       { return "" }

func (f *fakeLambda) Expect(id string, _ []byte, accept func(tunnel.Tunnel)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accept[id] = accept
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.accept, id)
	}
}

func (f *fakeLambda) Invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	f.mu.Lock()
	f.invoked++
	fail, mute, deaf, zone, started := f.fail, f.mute, f.deaf, f.zone, time.Now()
	f.mu.Unlock()
	if fail != nil {
		return invoke.Result{}, fail
	}
	if err := sleep(ctx, f.coldStart); err != nil {
		return invoke.Result{}, err
	}
	f.mu.Lock()
	accept := f.accept[ev.Instance]
	f.mu.Unlock()
	res := invoke.Result{Instance: ev.Instance}
	switch {
	case mute:
		<-ctx.Done()
		return res, ctx.Err()
	case accept == nil:
		res.Reason = invoke.ReasonRouterRefused
		return res, nil
	}
	t := &fakeTunnel{
		ready: tunnel.Ready{MaxConcurrent: ev.MaxConcurrent, Deadline: started.Add(f.timeout), Environment: "env", Zone: zone},
		drain: make(chan struct{}), done: make(chan struct{}),
		lost: make(chan error, 1),
	}
	f.mu.Lock()
	f.tunnels = append(f.tunnels, t)
	f.mu.Unlock()
	accept(t)
	end := time.NewTimer(f.timeout)
	defer end.Stop()
	select {
	case <-t.done:
		res.Reason = invoke.ReasonDrained
	case err := <-t.lost:
		return res, err
	case <-end.C:
		return res, &invoke.Error{Kind: invoke.KindFunction, Code: "Sandbox.Timedout", Message: "timed out"}
	}
	if deaf {
		<-ctx.Done()
		return res, ctx.Err()
	}
	return res, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeLambda) invocations() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.invoked
}

func (f *fakeLambda) tunnel(i int) *fakeTunnel {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tunnels[i]
}

// fakeTunnel answers requests as its test says.
type fakeTunnel struct {
	ready tunnel.Ready
	lost  chan error // fails the invocation, not the tunnel

	mu       sync.Mutex
	handle   func(*http.Request) (*http.Response, error)
	drain    chan struct{}
	drained  bool
	done     chan struct{}
	finished bool
	requests int
	in, out  uint64
}

func (t *fakeTunnel) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	t.requests++
	handle, finished := t.handle, t.finished
	t.mu.Unlock()
	if finished {
		return nil, &tunnel.RoundTripError{Err: tunnel.ErrClosed}
	}
	if handle != nil {
		return handle(r)
	}
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("ok"))}, nil
}

func (t *fakeTunnel) serve(handle func(*http.Request) (*http.Response, error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handle = handle
}

func (t *fakeTunnel) Ready() tunnel.Ready       { return t.ready }
func (t *fakeTunnel) Slots() int                { return t.ready.MaxConcurrent }
func (t *fakeTunnel) Drain(string)              { _ = t.Close() }
func (t *fakeTunnel) Draining() <-chan struct{} { return t.drain }
func (t *fakeTunnel) Done() <-chan struct{}     { return t.done }

func (t *fakeTunnel) Bytes() (in, out uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.in, t.out
}

// carry makes the tunnel have carried so much more.
func (t *fakeTunnel) carry(in, out uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.in += in
	t.out += out
}

func (t *fakeTunnel) Err() error {
	if t.closed() {
		return tunnel.ErrPeerClosed
	}
	return nil
}

// announce is the adapter saying that it takes no more.
func (t *fakeTunnel) announce() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.drained {
		t.drained = true
		close(t.drain)
	}
}

func (t *fakeTunnel) Close() error {
	t.announce()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.finished {
		t.finished = true
		close(t.done)
	}
	return nil
}

func (t *fakeTunnel) closed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// scene is a pool with a fake Lambda in a synctest bubble.
type scene struct {
	*testing.T
	pool   *Pool
	lambda *fakeLambda
	logs   *observer.ObservedLogs
	set    Settings
}

// play runs the test in a bubble with virtual time. Afterwards the pool is
// closed, and must leave nothing running: the bubble would not end.
func play(t *testing.T, set Settings, f *fakeLambda, act func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		if set.Scale.MaxConcurrent == 0 {
			set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 10, IdleTimeout: time.Minute}
		}
		set.Invoker, set.Callback = f, f
		s := &scene{T: t, pool: New("p", zap.New(core), nil), lambda: f, logs: logs, set: set}
		s.pool.Configure(set)
		act(s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.pool.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closing: %v", err)
		}
		if n := len(s.pool.Snapshot().Instances); n != 0 {
			t.Errorf("%d instances are left after Close", n)
		}
	})
}

// lease gets a slot or fails the test.
func (s *scene) lease() *Lease {
	s.Helper()
	l, err := s.pool.Enter()
	if err == nil {
		err = l.Wait(s.Context())
	}
	if err != nil {
		s.Fatalf("no slot: %v", err)
	}
	return l
}

func (s *scene) instances(state State) (n int) {
	for _, in := range s.pool.Snapshot().Instances {
		if in.State == state.String() {
			n++
		}
	}
	return n
}

func request(method string, body io.Reader) *http.Request {
	r, err := http.NewRequest(method, "http://app/", body)
	if err != nil {
		panic(err)
	}
	return r
}

// fakeOf returns the tunnel of the instance that the lease has a slot of.
func fakeOf(l *Lease) *fakeTunnel { return l.in.tunnel.(*provingTunnel).Tunnel.(*fakeTunnel) }
