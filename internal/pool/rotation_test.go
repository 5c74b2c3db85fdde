package pool

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// slowly answers after the time that the request asks for, unless the tunnel
// ends before: so it is cut by the function's timeout.
func slowly(t *fakeTunnel) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		d, err := time.ParseDuration(r.Header.Get("Takes"))
		if err != nil {
			return nil, err
		}
		done := time.NewTimer(d)
		defer done.Stop()
		select {
		case <-done.C:
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("ok"))}, nil
		case <-t.done:
			return nil, &tunnel.RoundTripError{Err: tunnel.ErrPeerClosed, Processed: true}
		}
	}
}

// Function timeouts of 10, 60 and 900 s: instances are replaced under load, with
// requests of mixed length, no request fails or waits, and never are fewer slots
// ready than before the first replacement. Long requests are as long as the
// scaler says that it can wait for.
func TestRotationUnderLoad(t *testing.T) {
	for _, tc := range []struct {
		timeout, coldStart, longest time.Duration
	}{
		{10 * time.Second, 500 * time.Millisecond, 1600 * time.Millisecond},
		{10 * time.Second, 2 * time.Second, 1600 * time.Millisecond},
		{time.Minute, 2 * time.Second, 9 * time.Second},
		{time.Minute, 8 * time.Second, 9 * time.Second},
		{15 * time.Minute, 2 * time.Second, 20 * time.Second},
		{15 * time.Minute, 8 * time.Second, 2 * time.Minute},
	} {
		t.Run(tc.timeout.String()+", start "+tc.coldStart.String(), func(t *testing.T) {
			const instances, slots, busy = 6, 4, 16
			l := newFaultyLambda(noFault)
			l.timeout, l.coldStart, l.answer = tc.timeout, tc.coldStart, slowly
			set := settings()
			set.Scale = scale.Config{
				MaxConcurrent: slots, TargetConcurrent: slots - 1, IdleTimeout: time.Minute,
				MinInstances: instances, MaxInstances: instances,
			}
			disaster(t, l, set, func(t *testing.T, ctx context.Context, p *Pool, _ *clients) {
				time.Sleep(tc.coldStart + 100*time.Millisecond)
				var all [busy]struct {
					served int
					waited time.Duration
					failed error
				}
				done := make(chan struct{})
				end := time.Now().Add(4 * tc.timeout)
				for i := range all {
					rnd := rand.New(rand.NewPCG(uint64(i), 11)) //nolint:gosec // not negative
					go func() {
						defer func() { done <- struct{}{} }()
						for time.Now().Before(end) {
							takes := time.Duration(rnd.ExpFloat64() * float64(tc.longest/20))
							if rnd.IntN(10) == 0 {
								takes = tc.longest
							}
							waited, err := askFor(ctx, p, min(takes, tc.longest))
							if err != nil {
								all[i].failed = errors.Join(all[i].failed, err)
								return
							}
							all[i].waited = max(all[i].waited, waited)
							all[i].served++
						}
					}()
				}
				fewest := instances
				for time.Now().Before(end) {
					ready := 0
					for _, in := range p.Snapshot().Instances {
						if in.State == StateReady.String() {
							ready++
						}
					}
					fewest = min(fewest, ready)
					time.Sleep(tc.timeout / 2000)
				}
				var waited time.Duration
				served := 0
				for range all {
					<-done
				}
				for _, c := range all {
					if c.failed != nil {
						t.Error(c.failed)
					}
					served += c.served
					waited = max(waited, c.waited)
				}
				t.Logf("%d requests, the longest took %v; %d invocations for %d instances in 4 lives; at least %d slots ready, longest wait %v",
					served, tc.longest, len(l.starts()), instances, fewest*slots, waited)
				if fewest < instances {
					t.Errorf("only %d instances were ready, want %d", fewest, instances)
				}
				if waited > 0 {
					t.Errorf("a request waited %v", waited)
				}
				if n := len(l.starts()); n < 4*instances || n > 11*instances {
					t.Errorf("%d invocations in 4 lives of %d instances", n, instances)
				}
			})
		})
	}
}

func askFor(ctx context.Context, p *Pool, d time.Duration) (time.Duration, error) {
	l, err := p.Enter()
	if err != nil {
		return 0, err
	}
	defer l.Release()
	if err := l.Wait(ctx); err != nil {
		return 0, err
	}
	req := request(http.MethodPost, nil).WithContext(ctx)
	req.Header.Set("Takes", d.String())
	resp, err := l.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return l.Waited(), resp.Body.Close()
}
