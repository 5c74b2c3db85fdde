package pool

import (
	"net/http"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// The requests of a tunnel that breaks learn of it before the pool may. None of
// them is given to the same instance once more.
func TestRequestOfALostTunnelGoesToAnotherInstance(t *testing.T) {
	for _, lost := range []error{tunnel.ErrPeerLost, tunnel.ErrPeerClosed, tunnel.ErrProtocol} {
		t.Run(lost.Error(), func(t *testing.T) {
			set := Settings{QueueSize: 10, Scale: scale.Config{MaxConcurrent: 2, TargetConcurrent: 2, MaxInstances: 2}}
			f := newFakeLambda()
			play(t, set, f, func(s *scene) {
				l := s.lease()
				defer l.Release()
				dead := f.tunnel(0)
				dead.serve(func(*http.Request) (*http.Response, error) {
					return nil, &tunnel.RoundTripError{Err: lost, Processed: true}
				})
				resp, err := l.RoundTrip(request(http.MethodGet, nil))
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if dead.requests != 1 || l.Attempts() != 2 {
					t.Errorf("%d attempts, %d of them on the lost tunnel", l.Attempts(), dead.requests)
				}
			})
		})
	}
}

// What a request did before it has to wait again is no time in the queue.
func TestQueueTimeoutCountsWaitingOnly(t *testing.T) {
	set := settings()
	set.QueueTimeout = 5 * time.Second
	set.Scale = scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 1, IdleTimeout: time.Minute}
	f := newFakeLambda()
	f.coldStart = time.Second
	play(t, set, f, func(s *scene) {
		l := s.lease()
		defer l.Release()
		f.tunnel(0).serve(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Minute) // longer than the queue's timeout
			_ = f.tunnel(0).Close()
			return nil, &tunnel.RoundTripError{Err: tunnel.ErrPeerClosed, Processed: true}
		})
		if _, err := l.RoundTrip(request(http.MethodGet, nil)); err != nil {
			s.Errorf("on the second instance: %v", err)
		}
		if w := l.Waited(); w < 2*f.coldStart || w > 4*f.coldStart {
			s.Errorf("waited %v for two cold starts", w)
		}
	})
}
