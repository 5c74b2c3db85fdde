package tunnel

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestDrainByTheRouter(t *testing.T) {
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		release := make(chan struct{})
		started := make(chan struct{})
		p := connectPair(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(started)
			<-release
			_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
		}))
		result := make(chan error, 1)
		go func() {
			resp, err := p.RoundTrip(request(t, "GET", "/"))
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			result <- err
		}()
		wait(t, started)

		p.Drain("scale_down")
		wait(t, p.session.Requested())
		if p.Slots() == 0 {
			t.Error("asking for a drain is not draining yet")
		}
		p.session.Drain("router asked")
		p.session.Drain("again")
		wait(t, p.Draining())
		if got := p.Tunnel.(Reporter).DrainReason(); got != "router asked" {
			t.Errorf("reason is %q", got)
		}
		if p.Slots() != 0 {
			t.Error("a draining tunnel has slots")
		}
		_, err := p.RoundTrip(request(t, "GET", "/"))
		if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed || !errors.Is(err, ErrDraining) {
			t.Errorf("got %v", err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := p.session.WaitIdle(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("idle with a request in flight: %v", err)
		}
		close(release)
		if err := p.session.WaitIdle(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = p.session.Close()
		if err := receive(t, result); err != nil {
			t.Errorf("request in flight: %v", err)
		}
		wait(t, p.Done())
		if !errors.Is(p.Err(), ErrPeerClosed) || !errors.Is(p.session.Err(), ErrClosed) {
			t.Errorf("ended with %v and %v", p.Err(), p.session.Err())
		}
	})
}

// A request that was sent before the router knew of the draining is refused by
// the adapter; the app does not see it.
func TestDrainRace(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("request reached the app")
	}))
	p.session.draining.Store(true) // announced, but still on its way
	_, err := p.RoundTrip(request(t, "POST", "/"))
	ae, _ := errors.AsType[*AdapterError](err)
	rt, ok := errors.AsType[*RoundTripError](err)
	if !ok || rt.Processed || ae == nil || ae.Code != CodeDraining {
		t.Errorf("got %v", err)
	}
	if p.session.Requests() != 0 {
		t.Error("a refused request was counted")
	}
}

// Under load, a drain followed by a close at the first idle moment must not
// harm a request: each is answered in full or certainly not processed.
func TestDrainUnderLoad(t *testing.T) {
	for range 20 {
		var processed atomic.Int64
		p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			processed.Add(1)
			_, _ = io.WriteString(w, strings.Repeat("x", 5000))
		}))
		var wg sync.WaitGroup
		var complete atomic.Int64
		begun := make(chan struct{}, 1)
		for range 8 {
			wg.Go(func() {
				for {
					resp, err := p.RoundTrip(request(t, "POST", "/"))
					if err != nil {
						if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed {
							t.Errorf("request failed: %v", err)
						}
						return
					}
					n, err := io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if err != nil || n != 5000 {
						t.Errorf("got %d bytes, %v", n, err)
					}
					if complete.Add(1) == 50 {
						begun <- struct{}{}
					}
				}
			})
		}
		wait(t, begun)
		p.session.Drain("deadline")
		if err := p.session.WaitIdle(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = p.session.Close()
		wg.Wait()
		if processed.Load() != complete.Load() {
			t.Errorf("app served %d requests, clients got %d", processed.Load(), complete.Load())
		}
	}
}

// A client that reads slowly does not keep the environment: idle means that
// the router has the response, not that somebody has read it.
func TestIdleBeforeTheClientHasRead(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
	}))
	resp, err := p.RoundTrip(request(t, "GET", "/"))
	if err != nil {
		t.Fatal(err)
	}
	p.session.Drain("deadline")
	if err := p.session.WaitIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = p.session.Close()
	wait(t, p.Done())
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 100<<10 {
		t.Errorf("read %d bytes, %v after the tunnel had ended", n, err)
	}
	_ = resp.Body.Close()
}

func TestStats(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.NotFoundHandler())
	want := Stats{InFlight: 3, Requests: 17}
	p.session.Report(want)
	p.session.Drain("") // what comes after it has been read after it
	wait(t, p.Draining())
	rep := p.Tunnel.(Reporter)
	if got := rep.Stats(); got != want {
		t.Errorf("got %+v", got)
	}
	if rep.RemoteAddr().String() != p.session.conn.LocalAddr().String() {
		t.Errorf("remote address is %v", rep.RemoteAddr())
	}
}

// With the tunnel gone, RoundTrip says so and that nothing was processed.
func TestRoundTripAfterTheEnd(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.NotFoundHandler())
	_ = p.session.Close()
	wait(t, p.Done())
	wait(t, p.Draining())
	_, err := p.RoundTrip(request(t, "POST", "/"))
	if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed || !errors.Is(err, ErrPeerClosed) {
		t.Errorf("got %v", err)
	}
	if p.Slots() != 0 {
		t.Error("a closed tunnel has slots")
	}
}
