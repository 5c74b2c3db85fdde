package pool

import (
	"net/http"
	"testing"

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
