package pool

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func settings() Settings { return Settings{QueueSize: 100, QueueTimeout: time.Minute} }

func TestRequestStartsAnInstanceAndWaitsForIt(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = 3 * time.Second
	play(t, settings(), f, func(s *scene) {
		l := s.lease()
		if l.Waited() < f.coldStart || l.Waited() > f.coldStart+time.Second {
			s.Errorf("waited %v for a cold start of %v", l.Waited(), f.coldStart)
		}
		resp, err := l.RoundTrip(request("GET", nil))
		if err != nil || resp.StatusCode != 200 {
			s.Fatalf("got %v, %v", resp, err)
		}
		l.Release()
		if n := s.pool.Snapshot().InFlight; n != 0 {
			s.Errorf("%d in flight after release", n)
		}
	})
}

func TestQueueIsServedInOrder(t *testing.T) {
	f := newFakeLambda()
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 1, IdleTimeout: time.Minute}
	play(t, set, f, func(s *scene) {
		first := s.lease()
		var order []int
		done := make(chan struct{})
		for i := range 5 {
			l, err := s.pool.Enter()
			if err != nil || !l.Queued() {
				s.Fatalf("queued %v, error %v", l.Queued(), err)
			}
			go func() {
				if l.Wait(s.Context()) == nil {
					order = append(order, i) // one at a time: there is one slot
					l.Release()
				}
				done <- struct{}{}
			}()
		}
		first.Release()
		for range 5 {
			<-done
		}
		if !slices.IsSorted(order) || len(order) != 5 {
			s.Errorf("served in the order %v", order)
		}
	})
}

func TestFullQueueRejects(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = time.Second
	set := settings()
	set.QueueSize = 1
	play(t, set, f, func(s *scene) {
		l, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		if _, err := s.pool.Enter(); !errors.Is(err, ErrQueueFull) {
			s.Errorf("error is %v", err)
		}
		l.Release()
	})
}

func TestQueueTimeout(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = time.Minute
	set := settings()
	set.QueueTimeout = 2 * time.Second
	play(t, set, f, func(s *scene) {
		l, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		begin := time.Now()
		if err := l.Wait(s.Context()); !errors.Is(err, ErrQueueTimeout) {
			s.Errorf("error is %v", err)
		}
		if d := time.Since(begin); d != 2*time.Second {
			s.Errorf("waited %v", d)
		}
		if n := s.pool.Snapshot().Queued; n != 0 {
			s.Errorf("%d still queued", n)
		}
	})
}

func TestClientThatLeavesLeavesTheQueue(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = 10 * time.Second
	play(t, settings(), f, func(s *scene) {
		l, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		if err := l.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("error is %v", err)
		}
		if n := s.pool.Snapshot().Queued; n != 0 {
			s.Errorf("%d still queued", n)
		}
	})
}

// A slot that comes to a client at the moment it leaves goes to the next.
func TestSlotOfAClientThatLeavesIsNotLost(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 1, IdleTimeout: time.Minute}
	play(t, set, newFakeLambda(), func(s *scene) {
		first := s.lease()
		leaver, err := s.pool.Enter()
		if err != nil || !leaver.Queued() {
			s.Fatalf("queued %v, error %v", leaver.Queued(), err)
		}
		first.Release() // the slot is the leaver's now, who does not look
		leaver.Release()
		if n := s.pool.Snapshot().InFlight; n != 0 {
			s.Errorf("%d in flight", n)
		}
		s.lease().Release()
	})
}

// Throttling passes as other invocations end, so requests wait for it.
func TestThrottlingFailsNoRequests(t *testing.T) {
	f := newFakeLambda()
	f.fail = &invoke.Error{Kind: invoke.KindThrottled, Message: "rate exceeded"}
	play(t, settings(), f, func(s *scene) {
		time.AfterFunc(20*time.Second, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fail = nil
		})
		s.lease().Release()
	})
}

// Requests that find the queue full are demand, too.
func TestRefusedRequestStartsAnInstance(t *testing.T) {
	set := settings()
	set.QueueSize = 0
	play(t, set, newFakeLambda(), func(s *scene) {
		if _, err := s.pool.Enter(); !errors.Is(err, ErrQueueFull) {
			s.Fatalf("error is %v", err)
		}
		synctest.Wait()
		if n := s.instances(StateReady); n != 1 {
			s.Errorf("%d instances ready", n)
		}
		s.lease().Release()
	})
}

func TestFunctionThatCannotStartFailsRequestsAtOnce(t *testing.T) {
	denied := &invoke.Error{Kind: invoke.KindDenied, Code: "AccessDeniedException", Message: "no"}
	f := newFakeLambda()
	f.fail = denied
	play(t, settings(), f, func(s *scene) {
		begin := time.Now()
		for range 3 { // the first finds out, the others are told
			l, err := s.pool.Enter()
			if err == nil {
				err = l.Wait(s.Context())
			}
			u, ok := errors.AsType[*UnavailableError](err)
			if !ok || !errors.Is(u, denied) {
				s.Fatalf("error is %v", err)
			}
			if !u.RetryAt.After(time.Now()) {
				s.Errorf("retry at %v, now %v", u.RetryAt, time.Now())
			}
		}
		if d := time.Since(begin); d > time.Second {
			s.Errorf("took %v", d)
		}
	})
}

func TestPoolRecoversOnceTheFunctionStarts(t *testing.T) {
	f := newFakeLambda()
	f.fail = &invoke.Error{Kind: invoke.KindMissing, Message: "no such function"}
	play(t, settings(), f, func(s *scene) {
		l, err := s.pool.Enter()
		if err == nil {
			err = l.Wait(s.Context())
		}
		u, ok := errors.AsType[*UnavailableError](err)
		if !ok {
			s.Fatalf("error is %v", err)
		}
		f.mu.Lock()
		f.fail = nil
		f.mu.Unlock()
		time.Sleep(time.Until(u.RetryAt) + time.Second)
		s.lease().Release()
	})
}

func TestRetries(t *testing.T) {
	refused := &tunnel.RoundTripError{Err: tunnel.ErrDraining}
	broken := &tunnel.RoundTripError{Err: tunnel.ErrPeerClosed, Processed: true}
	malformed := &tunnel.RoundTripError{Err: tunnel.ErrBadRequest}
	tooLarge := &tunnel.RoundTripError{Err: tunnel.ErrHeadersTooLarge}
	for _, tc := range []struct {
		name     string
		method   string
		body     string
		keep     bool // the pool was given the body
		readBody bool // the failing instance has read of it
		err      error
		attempts int
	}{
		{"GET not taken", "GET", "", false, false, refused, 2},
		{"GET with headers that are too large", "GET", "", false, false, tooLarge, 1},
		{"GET that cannot be sent", "GET", "", false, false, malformed, 1},
		{"GET broken", "GET", "", false, false, broken, 2},
		{"POST not taken", "POST", "body", false, false, refused, 2},
		{"POST not taken but read", "POST", "body", false, true, refused, 1},
		{"POST not taken, read, but kept", "POST", "body", true, true, refused, 2},
		{"POST broken", "POST", "body", false, false, broken, 1},
		{"POST broken, kept", "POST", "body", true, true, broken, 1},
		{"PUT broken, kept", "PUT", "body", true, true, broken, 2},
		{"PUT broken, read", "PUT", "body", false, true, broken, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := settings()
			set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MinInstances: 2, MaxInstances: 4, IdleTimeout: time.Minute}
			play(t, set, newFakeLambda(), func(s *scene) {
				synctest.Wait()
				l := s.lease()
				defer l.Release()
				var seen string
				answer := func(r *http.Request) (*http.Response, error) {
					if r.Body != nil {
						b, _ := io.ReadAll(r.Body)
						seen = string(b)
					}
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				}
				for i := range s.lambda.tunnels {
					s.lambda.tunnel(i).serve(answer)
				}
				bad := fakeOf(l)
				failures := 0
				bad.serve(func(r *http.Request) (*http.Response, error) {
					if failures++; failures > 1 {
						return answer(r)
					}
					if tc.readBody {
						_, _ = r.Body.Read(make([]byte, 2))
					}
					return nil, tc.err
				})
				var body io.Reader
				if tc.body != "" {
					body = strings.NewReader(tc.body)
				}
				if tc.keep {
					l.KeepBody([]byte(tc.body))
				}
				resp, err := l.RoundTrip(request(tc.method, body))
				if l.Attempts() != tc.attempts {
					s.Errorf("%d attempts, want %d (%v)", l.Attempts(), tc.attempts, err)
				}
				if tc.attempts > 1 && (err != nil || resp.StatusCode != 200 || seen != tc.body) {
					s.Errorf("second instance: %v, %v, saw body %q", resp, err, seen)
				}
				if tc.attempts == 1 && !errors.Is(err, tc.err) {
					s.Errorf("error is %v", err)
				}
			})
		})
	}
}

// A request that nobody answers is not sent to instance after instance, though
// there are enough: it may be what they fail of.
func TestInstancesThatOneRequestIsSentTo(t *testing.T) {
	failed := &tunnel.RoundTripError{Err: &tunnel.AdapterError{Code: tunnel.CodeAppFailed}, Processed: true}
	for _, tc := range []struct {
		name   string
		ended  bool // the app has, which the adapter says
		method string
		err    error
		most   int
	}{
		{"refused", false, "GET", &tunnel.RoundTripError{Err: tunnel.ErrDraining}, 10},
		{"POST refused", false, "POST", &tunnel.RoundTripError{Err: tunnel.ErrDraining}, 10},
		{"tunnel lost", false, "GET", &tunnel.RoundTripError{Err: tunnel.ErrPeerClosed, Processed: true}, 5},
		{"app killed", true, "GET", failed, 5},
		{"failed by instances that go on", false, "GET", failed, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := settings()
			set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MinInstances: 12, MaxInstances: 20, IdleTimeout: time.Minute}
			play(t, set, newFakeLambda(), func(s *scene) {
				synctest.Wait()
				for i := range s.lambda.tunnels {
					bad := s.lambda.tunnel(i)
					bad.serve(func(*http.Request) (*http.Response, error) {
						if tc.ended {
							bad.announce()
							synctest.Wait()
						}
						return nil, tc.err
					})
				}
				l := s.lease()
				defer l.Release()
				if _, err := l.RoundTrip(request(tc.method, nil)); !errors.Is(err, tc.err) || l.Attempts() != tc.most {
					s.Errorf("%d attempts, want %d; %v", l.Attempts(), tc.most, err)
				}
			})
		})
	}
}

func TestLostTunnelIsReplacedAndGetsNothingMore(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MinInstances: 1, MaxInstances: 4, IdleTimeout: time.Minute}
	play(t, set, newFakeLambda(), func(s *scene) {
		synctest.Wait()
		first := s.lambda.tunnel(0)
		_ = first.Close()
		synctest.Wait()
		time.Sleep(time.Minute) // however long the scaler takes its time
		l := s.lease()
		defer l.Release()
		if fakeOf(l) == first {
			s.Error("request went to the lost tunnel")
		}
	})
}

func TestInstanceIsReplacedBeforeItsDeadline(t *testing.T) {
	for _, timeout := range []time.Duration{10 * time.Second, time.Minute, 15 * time.Minute} {
		t.Run(timeout.String(), func(t *testing.T) {
			f := newFakeLambda()
			f.timeout = timeout
			f.coldStart = time.Second
			set := settings()
			set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MinInstances: 1, MaxInstances: 4, IdleTimeout: time.Minute}
			play(t, set, f, func(s *scene) {
				s.lease().Release()
				for begin := time.Now(); time.Since(begin) < 5*timeout; time.Sleep(timeout / 100) {
					if s.instances(StateReady) == 0 {
						s.Fatalf("capacity dipped after %v", time.Since(begin))
					}
				}
				for _, e := range s.logs.FilterMessage("instance closed").All() {
					if got := e.ContextMap()["result"]; got != string(invoke.ReasonDrained) {
						s.Errorf("an invocation ended with %v", got)
					}
				}
				if n := s.lambda.invocations(); n < 5 || n > 12 {
					s.Errorf("%d invocations in 5 lifetimes", n)
				}
			})
		})
	}
}

func TestAdapterThatAnnouncesDrainingGetsNoMoreRequests(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 2, TargetConcurrent: 2, MinInstances: 1, MaxInstances: 4, IdleTimeout: time.Minute}
	play(t, set, newFakeLambda(), func(s *scene) {
		running := s.lease()
		first := s.lambda.tunnel(0)
		first.announce()
		synctest.Wait()
		if n := s.instances(StateDraining); n != 1 {
			s.Fatalf("%d instances drain", n)
		}
		other := s.lease()
		if other.in == running.in {
			s.Error("the draining instance got a request")
		}
		other.Release()
		if first.closed() {
			s.Error("tunnel was closed under a running request")
		}
		running.Release()
		synctest.Wait()
		if !first.closed() {
			s.Error("adapter was not told to go when its last request ended")
		}
	})
}

func TestEnvironmentThatNeverCallsBack(t *testing.T) {
	f := newFakeLambda()
	f.mute = true
	set := settings()
	set.QueueTimeout = 0
	play(t, set, f, func(s *scene) {
		l, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		err = l.Wait(s.Context())
		if !errors.Is(err, errNoCallBack) {
			s.Errorf("error is %v", err)
		}
	})
}

func TestInstanceOutlivesItsConnectionToTheInvokeAPI(t *testing.T) {
	play(t, settings(), newFakeLambda(), func(s *scene) {
		l := s.lease()
		s.lambda.tunnel(0).lost <- &invoke.Error{Kind: invoke.KindUnreachable, Message: "connection reset"}
		synctest.Wait()
		if _, err := l.RoundTrip(request("GET", nil)); err != nil || l.Attempts() != 1 {
			s.Errorf("%d attempts, error %v", l.Attempts(), err)
		}
		l.Release()
		if n := s.instances(StateReady); n != 1 {
			s.Errorf("%d instances ready", n)
		}
	})
}

func TestResultThatNeverComes(t *testing.T) {
	f := newFakeLambda()
	f.deaf = true
	play(t, settings(), f, func(s *scene) {
		s.lease().Release()
		_ = f.tunnel(0).Close()
		time.Sleep(resultTimeout + time.Second)
		synctest.Wait()
		closed := s.logs.FilterMessage("instance closed").All()
		if len(closed) != 1 || closed[0].ContextMap()["result"] != OutcomeNoResult {
			s.Errorf("log says %v", closed)
		}
	})
}

func TestIdlePoolLetsItsInstancesGo(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 10, IdleTimeout: 10 * time.Second}
	play(t, set, newFakeLambda(), func(s *scene) {
		var held []*Lease
		for range 5 {
			held = append(held, s.lease())
		}
		for _, l := range held {
			l.Release()
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := len(s.pool.Snapshot().Instances); n != 0 {
			s.Errorf("%d instances are left", n)
		}
	})
}

func TestNewLimitsApplyToLiveInstances(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 4, TargetConcurrent: 4, MaxInstances: 4, IdleTimeout: time.Minute}
	play(t, set, newFakeLambda(), func(s *scene) {
		first := s.lease()
		if free := s.pool.Snapshot().FreeSlots; free != 3 {
			s.Fatalf("%d slots are free", free)
		}
		set := s.set
		set.Scale.MaxConcurrent, set.Scale.TargetConcurrent = 1, 1
		s.pool.Configure(set)
		second := s.lease()
		if second.in == first.in {
			s.Error("an instance with one slot got two requests")
		}
		first.Release()
		second.Release()
	})
}

func TestCloseServesTheQueueFirst(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = 2 * time.Second
	play(t, settings(), f, func(s *scene) {
		l, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			err := l.Wait(s.Context())
			if err == nil {
				_, err = l.RoundTrip(request("GET", nil))
				l.Release()
			}
			served <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
		defer cancel()
		if err := s.pool.Close(ctx); err != nil {
			s.Error(err)
		}
		if err := <-served; err != nil {
			s.Errorf("waiting request: %v", err)
		}
		if _, err := s.pool.Enter(); !errors.Is(err, ErrClosed) {
			s.Errorf("closed pool says %v", err)
		}
	})
}
