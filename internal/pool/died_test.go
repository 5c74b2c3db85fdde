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

var errKilled = &invoke.Error{Kind: invoke.KindFunction, Code: "Runtime.ExitError", Message: "signal: killed"}

// mortal makes the instance answer quick requests at once, and take all others
// with it when it dies.
func (t *fakeTunnel) mortal() {
	t.serve(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/quick" {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		}
		<-t.done
		return nil, &tunnel.RoundTripError{Err: tunnel.ErrPeerClosed, Processed: true}
	})
}

// quick is a request that a mortal instance answers.
func quick() *http.Request {
	r := request(http.MethodGet, nil)
	r.URL.Path = "/quick"
	return r
}

// become makes all invocations from now on fail with the error; nil is none.
func (f *fakeLambda) become(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// servesOnce leases the pool's first instance, lets it answer one request, and
// returns it.
func (s *scene) servesOnce() *fakeTunnel {
	s.Helper()
	l := s.lease()
	defer l.Release()
	first := fakeOf(l)
	first.mortal()
	if _, err := l.RoundTrip(quick()); err != nil {
		s.Fatal(err)
	}
	return first
}

// get sends one request through the pool.
func get(ctx context.Context, p *Pool) error {
	l, err := p.Enter()
	if err != nil {
		return err
	}
	defer l.Release()
	if err := l.Wait(ctx); err != nil {
		return err
	}
	_, err = l.RoundTrip(request(http.MethodGet, nil).WithContext(ctx))
	return err
}

// One instance serves; whatever kills it kills those as well that are to
// replace it, for some seconds. Who waits is served once that is over, and so
// is who comes meanwhile.
func TestLossOfTheLastInstanceFailsNoRequest(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 2, TargetConcurrent: 2, MaxInstances: 4, IdleTimeout: 10 * time.Minute}
	for _, age := range []time.Duration{time.Second, time.Minute} {
		t.Run("after "+age.String(), func(t *testing.T) {
			f := newFakeLambda()
			play(t, set, f, func(s *scene) {
				first := s.servesOnce()
				time.Sleep(age)
				running := make(chan error, 1)
				go func() { running <- get(s.Context(), s.pool) }()
				synctest.Wait()
				f.become(errKilled)
				_ = first.Close()
				for begin := time.Now(); f.invocations() < 4 && time.Since(begin) < time.Minute; {
					time.Sleep(100 * time.Millisecond) // until three rounds have failed, so that the breaker is open
				}
				meanwhile := make(chan error, 1)
				go func() { meanwhile <- get(s.Context(), s.pool) }()
				synctest.Wait()
				f.become(nil)
				if err := <-running; err != nil {
					s.Errorf("the request that had been running: %v", err)
				}
				if err := <-meanwhile; err != nil {
					s.Errorf("a request that came meanwhile: %v", err)
				}
			})
		})
	}
}

// Instances that die one after another while they serve are no reason to start
// others one at a time.
func TestInstancesThatDieWhileTheyServeAreReplaced(t *testing.T) {
	const n = 4
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: n, IdleTimeout: time.Minute}
	f := newFakeLambda()
	f.coldStart = 9 * time.Second
	play(t, set, f, func(s *scene) {
		results := make(chan error, n)
		for i := range n {
			go func() {
				l, err := s.pool.Enter()
				if err == nil {
					err = l.Wait(s.Context())
				}
				if err != nil {
					results <- err
					return
				}
				fakeOf(l).mortal()
				defer l.Release()
				if _, err := l.RoundTrip(quick()); err != nil {
					results <- err
					return
				}
				time.Sleep(time.Duration(i) * 600 * time.Millisecond)
				_ = fakeOf(l).Close()
				results <- get(s.Context(), s.pool)
			}()
		}
		time.Sleep(f.coldStart + 8*time.Second) // backoffs are over, and no start is
		if got := s.instances(StateStarting); got != n {
			s.Errorf("%d instances are starting for %d requests", got, n)
		}
		for range n {
			if err := <-results; err != nil {
				s.Error(err)
			}
		}
	})
}

// A function that cannot be started any more fails its requests at once all the
// same: soon after it was lost, at once if Lambda refuses to start it, and if
// it had only been let go.
func TestFunctionThatCannotBeStartedAnyMore(t *testing.T) {
	denied := &invoke.Error{Kind: invoke.KindDenied, Code: "AccessDeniedException"}
	for _, tc := range []struct {
		name  string
		fault error
		letGo bool          // the instance has gone because nobody needed it
		most  time.Duration // until requests fail at once
	}{
		{"lost", errKilled, false, 30 * time.Second},
		{"lost and denied", denied, false, 3 * time.Second},
		{"let go", errKilled, true, 5 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := settings()
			set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 4, IdleTimeout: 5 * time.Second}
			f := newFakeLambda()
			play(t, set, f, func(s *scene) {
				first := s.servesOnce()
				f.become(tc.fault)
				if tc.letGo {
					time.Sleep(7 * time.Second)
					if n := len(s.pool.Snapshot().Instances); n != 0 {
						s.Fatalf("%d instances are left", n)
					}
				} else {
					_ = first.Close()
				}
				synctest.Wait()
				begin := time.Now()
				if err := get(s.Context(), s.pool); !isUnavailable(err) || time.Since(begin) > tc.most {
					s.Fatalf("the first request: %v after %v", err, time.Since(begin))
				}
				before := f.invocations()
				for time.Since(begin) < time.Hour {
					sent := time.Now()
					if err := get(s.Context(), s.pool); !isUnavailable(err) || time.Since(sent) > time.Second {
						s.Fatalf("%v after %v", err, time.Since(sent))
					}
					time.Sleep(10 * time.Second)
				}
				if n := f.invocations() - before; n > 400 {
					s.Errorf("%d invocations for 360 requests", n)
				}
			})
		})
	}
}

// isUnavailable reports whether the request was told that the function cannot
// be started.
func isUnavailable(err error) bool {
	_, ok := errors.AsType[*UnavailableError](err)
	return ok
}
