package pool

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// A hole of some seconds, in which invocations are accepted and nothing comes
// of them, costs some seconds.
func TestShortHoleInTheInvokeAPI(t *testing.T) {
	l := newFaultyLambda(noFault)
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, MaxInstances: 20, IdleTimeout: time.Second}
	disaster(t, l, set, func(t *testing.T, ctx context.Context, p *Pool, c *clients) {
		if err := ask(ctx, p, time.Second); err != nil { // start times are learnt
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		l.become(invokeHangs)
		before := len(l.starts())
		begin := time.Now()
		c.run(ctx, p, 20, time.Second)
		time.Sleep(2 * time.Second)
		l.become(noFault)
		synctest.Wait()
		hung := len(l.starts()) - before
		for served(c) < 20 && time.Since(begin) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(begin)
		time.Sleep(10 * time.Second)
		t.Logf("%d invocations fell into the hole of 2 s; all requests were served after %v, with %d more invocations",
			hung, took, len(l.starts())-before-hung)
		if took > 9*time.Second {
			t.Errorf("took %v", took)
		}
		if hung < 20 || len(l.starts())-before > 2*hung+5 {
			t.Errorf("%d starts into the hole, then %d", hung, len(l.starts())-before-hung)
		}
		for _, r := range c.since(begin) {
			if r.err != nil {
				t.Error(r.err)
			}
		}
	})
}

// An app that starts more slowly than ever is not started once more for each
// instance, and what is late is used.
func TestSlowStartIsNotDoubled(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = 25 * time.Second
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, MaxInstances: 100, MinInstances: 20, IdleTimeout: time.Minute}
	play(t, set, f, func(s *scene) {
		time.Sleep(26 * time.Second)
		if n := s.instances(StateReady); n != 20 {
			s.Errorf("%d instances are ready, want 20", n)
		}
		time.Sleep(time.Minute)
		if n := f.invocations(); n > 23 {
			s.Errorf("%d invocations for 20 instances", n)
		}
	})
}

// Overdue instances whose places were taken meanwhile get no requests: the
// maximum holds.
func TestOverdueInstancesDoNotExceedTheMaximum(t *testing.T) {
	const most = 10
	l := newFaultyLambda(noFault)
	l.coldStart = 14 * time.Second
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, MaxInstances: most, IdleTimeout: time.Minute}
	disaster(t, l, set, func(t *testing.T, ctx context.Context, p *Pool, c *clients) {
		time.AfterFunc(5*time.Second, func() {
			l.set(func() fault { l.coldStart = time.Second; return noFault })
		})
		c.run(ctx, p, 2*most, 100*time.Millisecond)
		for begin := time.Now(); time.Since(begin) < 20*time.Second; time.Sleep(10 * time.Millisecond) {
			ready := 0
			for _, in := range p.Snapshot().Instances {
				if in.State == StateReady.String() {
					ready++
				}
			}
			if ready > most {
				t.Errorf("%d instances are ready after %v", ready, time.Since(begin))
				break
			}
		}
		if n := len(l.starts()); n != 2*most {
			t.Errorf("%d invocations, want each of %d once more", n, most)
		}
	})
}

// What comes late after all is used, and the requests that wait are served.
func TestOverdueInstanceIsUsed(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = 20 * time.Second
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, MaxInstances: 1, IdleTimeout: time.Minute}
	play(t, set, f, func(s *scene) {
		time.AfterFunc(5*time.Second, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.mute = true // all others
		})
		l := s.lease()
		if l.Waited() != 20*time.Second {
			s.Errorf("waited %v", l.Waited())
		}
		l.Release()
	})
}

// The errors of instances that were overdue say nothing about a pool that has
// recovered.
func TestLateErrorsDoNotDisturb(t *testing.T) {
	l := newFaultyLambda(neverCallsBack)
	l.timeout = 100 * time.Second
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, MaxInstances: 20, IdleTimeout: 10 * time.Second}
	disaster(t, l, set, func(t *testing.T, ctx context.Context, p *Pool, c *clients) {
		begin := time.Now()
		c.run(ctx, p, 5, time.Second)
		time.Sleep(15 * time.Second)
		l.become(noFault)
		time.Sleep(time.Until(begin.Add(l.timeout - 2*time.Second)))
		from := time.Now()
		c.run(ctx, p, 5, time.Second) // more are wanted just when the first five time out
		time.Sleep(5 * time.Second)
		for _, r := range c.since(from) {
			if r.err != nil || r.took > 3*time.Second {
				t.Errorf("request took %v: %v", r.took, r.err)
			}
		}
	})
}

// An instance that refuses a request gets no more of them, although it has free
// slots and its tunnel lives.
func TestInstanceThatRefusesGetsNoMoreRequests(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 4, TargetConcurrent: 4, MaxInstances: 4, IdleTimeout: time.Minute}
	f := newFakeLambda()
	play(t, set, f, func(s *scene) {
		running := s.lease() // so that it stays
		first := f.tunnel(0)
		first.serve(func(*http.Request) (*http.Response, error) {
			return nil, &tunnel.RoundTripError{Err: tunnel.ErrDraining}
		})
		for range 3 {
			l := s.lease()
			if _, err := l.RoundTrip(request(http.MethodPost, nil)); err != nil {
				s.Error(err)
			}
			l.Release()
		}
		if first.requests != 1 {
			s.Errorf("%d requests were sent to an instance that refuses them", first.requests)
		}
		running.Release()
	})
}

// A request whose instance refused it is told at once if no other can be
// started, though the instance has not gone yet.
func TestRefusedRequestDoesNotWaitForWhatCannotStart(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 2, TargetConcurrent: 1, MaxInstances: 4, IdleTimeout: time.Minute}
	f := newFakeLambda()
	denied := &invoke.Error{Kind: invoke.KindDenied, Code: "AccessDeniedException"}
	play(t, set, f, func(s *scene) {
		running := s.lease()
		time.Sleep(time.Minute) // so that it is not to blame
		f.mu.Lock()
		f.fail = denied
		f.mu.Unlock()
		l := s.lease()
		third, err := s.pool.Enter() // wants another instance
		if err != nil || !third.Queued() {
			s.Fatal("the third request got a slot", err)
		}
		synctest.Wait()
		f.tunnel(0).serve(func(*http.Request) (*http.Response, error) {
			return nil, &tunnel.RoundTripError{Err: tunnel.ErrDraining}
		})
		begin := time.Now()
		_, err = l.RoundTrip(request(http.MethodPost, nil))
		if _, ok := errors.AsType[*UnavailableError](err); !ok || !errors.Is(err, denied) || time.Since(begin) > 0 {
			s.Errorf("after %v: %v", time.Since(begin), err)
		}
		third.Release()
		l.Release()
		running.Release()
	})
}

// Once an instance has become ready, an old failure is nobody's cause any more.
func TestOldFailureIsForgotten(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, MaxInstances: 4, IdleTimeout: time.Second}
	f := newFakeLambda()
	f.fail = &invoke.Error{Kind: invoke.KindDenied, Code: "AccessDeniedException"}
	play(t, set, f, func(s *scene) {
		l, err := s.pool.Enter()
		if err == nil {
			err = l.Wait(s.Context())
		}
		u, ok := errors.AsType[*UnavailableError](err)
		if !ok {
			s.Fatal(err)
		}
		f.mu.Lock()
		f.fail, f.coldStart = nil, time.Second
		f.mu.Unlock()
		time.Sleep(time.Until(u.RetryAt))
		s.lease().Release() // without a request: the breaker is still open
		time.Sleep(scale.ProvingTime + time.Second)
		if n := len(s.pool.Snapshot().Instances); n != 0 {
			s.Fatalf("%d instances are left", n)
		}
		first, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		synctest.Wait()
		second, err := s.pool.Enter()
		if err != nil {
			s.Fatalf("the attempt is being made, and yet: %v", err)
		}
		second.Release()
		first.Release()
	})
}

// A tunnel that comes when its instance has just been given up is closed, and
// so is one that comes later.
func TestTunnelOfAnInstanceThatWasGivenUpIsClosed(t *testing.T) {
	in := &instance{pool: &Pool{}, tunnels: make(chan tunnel.Tunnel, 1)}
	var both [2]*fakeTunnel
	for i := range both {
		both[i] = &fakeTunnel{drain: make(chan struct{}), done: make(chan struct{})}
	}
	in.offer(both[0])
	in.giveUp()
	in.offer(both[1])
	for i, t2 := range both {
		if !t2.closed() {
			t.Errorf("tunnel %d is left open", i)
		}
	}
}
