package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

// request does what the handler does for a request that takes d.
func request(ctx context.Context, pools *requestedPools, name string, d time.Duration) error {
	p, err := pools.use(ctx, name)
	if err != nil {
		return err
	}
	defer p.release()
	lease, err := p.shared.pool.Enter()
	if err != nil {
		return err
	}
	defer lease.Release()
	if err := lease.Wait(ctx); err != nil {
		return err
	}
	time.Sleep(d) //nolint:forbidigo // it stands for work, mostly in virtual time
	return nil
}

// checkNothingIsLeft closes the pools and checks that no trace of them is left.
func checkNothingIsLeft(t *testing.T, d *requestedPools, prefix string) {
	t.Helper()
	if err := d.close(); err != nil {
		t.Error(err)
	}
	draining.Wait()
	for name, v := range allPools() {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			t.Errorf("pool %s is left: %+v", name, v.pool.Snapshot())
		}
	}
	allSeriesMu.Lock()
	defer allSeriesMu.Unlock()
	for name := range allSeries {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			t.Errorf("series of pool %s are left", name)
		}
	}
}

func allPools() map[string]*sharedPool {
	all := make(map[string]*sharedPool)
	pools.Range(func(k, v any) bool { all[k.(string)] = v.(*sharedPool); return true })
	closing.Range(func(k, _ any) bool { all[k.(*sharedPool).name] = k.(*sharedPool); return true })
	return all
}

// Pools are removed all the time, and no request that comes at that moment is
// harmed.
func TestRequestsArriveWhilePoolsAreRemoved(t *testing.T) {
	d, f, _ := newRegion(t, 4, PoolConfig{IdleTimeout: caddy.Duration(time.Millisecond)})
	f.lifetime = time.Millisecond
	quit := make(chan struct{})
	var sweeper, clients sync.WaitGroup
	sweeper.Go(func() {
		often := time.NewTicker(200 * time.Microsecond)
		defer often.Stop()
		for {
			select {
			case <-quit:
				return
			case <-often.C:
				d.sweep(time.Now().Add(time.Hour))
			}
		}
	})
	var served atomic.Int64
	for c := range 8 {
		clients.Go(func() {
			for i := range 40 {
				err := request(t.Context(), d, fmt.Sprintf("race-%d", c%4), time.Duration(i%3)*time.Millisecond)
				if _, ok := errors.AsType[*pool.UnavailableError](err); err != nil && !ok {
					t.Error(err)
				} else if err == nil {
					served.Add(1)
				}
				time.Sleep(time.Duration(i%7) * time.Millisecond) //nolint:forbidigo // until its pool may be unused
			}
		})
	}
	clients.Wait()
	close(quit)
	sweeper.Wait()
	_, invocations := f.invocations("")
	t.Logf("%d requests served by %d pools with one instance after the other", served.Load(), invocations)
	// Instances that end at once can be taken for a function that does not work.
	if served.Load() < 160 || invocations < 40 {
		t.Errorf("%d requests, %d instances: pools were hardly removed", served.Load(), invocations)
	}
	checkNothingIsLeft(t, d, "race-")
}

// A request keeps its pool from the moment that it has asked for it, before it
// has a place in the queue.
func TestPoolIsKeptForARequestThatIsAboutToEnter(t *testing.T) {
	d, _, _ := newRegion(t, 1, PoolConfig{})
	p, err := d.use(t.Context(), "kept-a")
	if err != nil {
		t.Fatal(err)
	}
	d.sweep(time.Now().Add(time.Hour))
	knownToRun.add("kept-b") // so that nothing else refuses it
	if err := request(t.Context(), d, "kept-b", 0); err == nil {
		t.Error("it was evicted")
	}
	lease, err := p.shared.pool.Enter()
	if err != nil {
		t.Fatalf("it was removed: %v", err)
	}
	lease.Release()
	p.release()
	checkNothingIsLeft(t, d, "kept-")
}

// A client that asks for ever new names causes max_functions attempts at once
// and as many per minute, and is refused at once beyond that. Functions that
// are known to run are served as if nothing were.
func TestFloodOfNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, minutes = 10, 30
		d, f, logs := newRegion(t, most, PoolConfig{})
		f.missing = func(name string) bool { return name != "flood-real" }
		if err := request(t.Context(), d, "flood-real", 0); err != nil {
			t.Fatal(err)
		}
		var refused, missing int
		largest := 0
		for i := range minutes * 600 { // ten new names a second
			err := request(t.Context(), d, fmt.Sprintf("flood-%d", i), 0)
			_, tooMany := errors.AsType[*tooManyError](err)
			switch {
			case tooMany:
				refused++
			case isMissing(err):
				missing++
			default:
				t.Fatalf("request %d: %v", i, err)
			}
			if i%500 == 0 { // more rarely than idle_timeout: it is evicted and comes back
				if err := request(t.Context(), d, "flood-real", 0); err != nil {
					t.Fatalf("the function that runs: %v", err)
				}
			}
			d.mu.Lock()
			largest = max(largest, len(d.live), len(d.refused))
			d.mu.Unlock()
			time.Sleep(100 * time.Millisecond)
		}
		ofReal, all := f.invocations("flood-real")
		t.Logf("%d requests refused, %d found missing, %d invocations of missing functions in %d minutes, at most %d pools or refusals in memory",
			refused, missing, all-ofReal, minutes, largest)
		if n := all - ofReal; n > most+most*minutes {
			t.Errorf("%d invocations of functions that do not exist, bound is %d", n, most+most*minutes)
		}
		if missing < most*minutes/2 {
			t.Errorf("only %d names were tried at all", missing)
		}
		if largest > 3*most {
			t.Errorf("%d pools or refusals at once", largest)
		}
		if n := logs.FilterMessage("requests are refused: too many functions").Len(); n == 0 || n > minutes+1 {
			t.Errorf("%d warnings", n)
		}
		checkNothingIsLeft(t, d, "flood-")
	})
}

// However many requests ask for a function that does not exist, it is tried
// once in a while.
func TestOneMissingFunctionIsTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := newRegion(t, 10, PoolConfig{})
		deployed := false
		f.missing = func(string) bool { return !deployed }
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if err := request(t.Context(), d, "once-a", 0); !isMissing(err) {
					t.Errorf("error is %v", err)
				}
			})
		}
		wg.Wait()
		if n, _ := f.invocations("once-a"); n != 1 {
			t.Errorf("%d invocations for 1000 requests at once", n)
		}
		for range 60 { // for a minute
			_ = request(t.Context(), d, "once-a", 0)
			time.Sleep(time.Second)
		}
		if n, _ := f.invocations("once-a"); n < 4 || n > 7 {
			t.Errorf("%d invocations within a minute, want one each 10 s", n)
		}
		f.mu.Lock()
		deployed = true
		f.mu.Unlock()
		time.Sleep(refusedFor)
		if err := request(t.Context(), d, "once-a", 0); err != nil {
			t.Errorf("after it was deployed: %v", err)
		}
		checkNothingIsLeft(t, d, "once-")
	})
}

// A function that is not known to run is started once; as soon as it has called
// back it is scaled like any other, and the next time at once.
func TestFirstStartIsAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := newRegion(t, 10, PoolConfig{MaxConcurrent: 1, IdleTimeout: caddy.Duration(10 * time.Second)})
		f.coldStart = time.Second
		burst := func() (wg *sync.WaitGroup) {
			wg = new(sync.WaitGroup)
			for range 20 {
				wg.Go(func() {
					if err := request(t.Context(), d, "first-a", 10*time.Second); err != nil {
						t.Error(err)
					}
				})
			}
			return wg
		}
		wg := burst()
		time.Sleep(900 * time.Millisecond)
		if n, _ := f.invocations("first-a"); n != 1 {
			t.Errorf("%d invocations of a function that is not known to run", n)
		}
		time.Sleep(200 * time.Millisecond)
		first, _ := f.invocations("first-a")
		if first < 15 {
			t.Errorf("%d invocations once it is, for 20 requests", first)
		}
		wg.Wait()

		time.Sleep(time.Minute)
		synctest.Wait()
		if _, ok := allPools()["first-a"]; ok {
			t.Error("the pool is still there after a minute without a request")
		}
		wg = burst()
		time.Sleep(900 * time.Millisecond)
		if n, _ := f.invocations("first-a"); n < first+15 {
			t.Errorf("%d invocations for the second burst of 20 requests", n-first)
		}
		wg.Wait()
		checkNothingIsLeft(t, d, "first-")
	})
}

// At the limit an unused pool makes room, and one that is in use does not.
func TestMaxFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := newRegion(t, 2, PoolConfig{IdleTimeout: caddy.Duration(2 * time.Minute)}, time.Hour)
		var wg sync.WaitGroup
		for _, name := range []string{"most-a", "most-b"} {
			wg.Go(func() {
				if err := request(t.Context(), d, name, time.Minute); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(30 * time.Second)
		err := request(t.Context(), d, "most-c", 0)
		tooMany, ok := errors.AsType[*tooManyError](err)
		if !ok || !tooMany.retryAt.After(time.Now()) {
			t.Errorf("with two of two in use: %v", err)
		}
		wg.Wait()
		if err := request(t.Context(), d, "most-c", 0); err == nil {
			t.Error("a pool with an instance was evicted")
		}
		time.Sleep(3 * time.Minute)
		if err := request(t.Context(), d, "most-c", 0); err != nil {
			t.Errorf("with one of two unused: %v", err)
		}
		checkNothingIsLeft(t, d, "most-")
	})
}

// After its configuration has gone, a handler's last requests find the pools
// that there are and make no new ones.
func TestRequestsAfterTheConfigurationHasGone(t *testing.T) {
	d, _, _ := newRegion(t, 5, PoolConfig{})
	p, err := d.use(t.Context(), "gone-a")
	if err != nil {
		t.Fatal(err)
	}
	lease, err := p.shared.pool.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
	if err := request(t.Context(), d, "gone-a", 0); err != nil {
		t.Errorf("pool that still serves: %v", err)
	}
	other, _, _ := newRegion(t, 5, PoolConfig{})
	if err := request(t.Context(), other, "gone-c", 0); err != nil {
		t.Fatal(err)
	}
	if err := request(t.Context(), d, "gone-c", 0); err != nil {
		t.Errorf("pool of another configuration: %v", err)
	}
	if err := other.close(); err != nil {
		t.Error(err)
	}
	if err := request(t.Context(), d, "gone-b", 0); !errors.Is(err, pool.ErrClosed) {
		t.Errorf("another: %v", err)
	}
	lease.Release()
	p.release()
	checkNothingIsLeft(t, d, "gone-")
}

func TestRunningFunctionsAreForgottenInTurn(t *testing.T) {
	for i := range maxKnownToRun + 10 {
		knownToRun.add(fmt.Sprintf("known-%d", i))
	}
	if knownToRun.has("known-9") || !knownToRun.has("known-10") || len(knownToRun.known) != maxKnownToRun || knownToRun.order.Len() != maxKnownToRun {
		t.Errorf("%d functions are known", len(knownToRun.known))
	}
	for i := range maxKnownToRun + 10 {
		knownToRun.forget(fmt.Sprintf("known-%d", i))
	}
	if knownToRun.order.Len() != 0 {
		t.Errorf("%d are left", knownToRun.order.Len())
	}
}

// Handlers that can come by the same function must have the same settings:
// found when the configuration is loaded, whatever comes first.
func TestSettingsOfOneFunctionMustAgree(t *testing.T) {
	type handler struct {
		function, allow string
		conf            PoolConfig
	}
	five, six := PoolConfig{MaxConcurrent: 5}, PoolConfig{MaxConcurrent: 6}
	for _, tc := range []struct {
		name string
		a, b handler
		want bool
	}{
		{"globs that overlap", handler{"{x}", "a-*", five}, handler{"{y}", "*-b", six}, false},
		{"the same settings", handler{"{x}", "a-*", five}, handler{"{y}", "*-b", five}, true},
		{"globs that do not overlap", handler{"{x}", "a-*", five}, handler{"{y}", "b-*", six}, true},
		{"a function that is named", handler{"{x}", "match-*", five}, handler{"match-a", "", six}, false},
		{"one that is not allowed", handler{"{x}", "match-*", five}, handler{"other-a", "", six}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, order := range [][]handler{{tc.a, tc.b}, {tc.b, tc.a}} {
				app := &App{logger: zap.NewNop(), uses: make(map[string]*use)}
				var err error
				for _, c := range order {
					h := &Handler{Function: c.function, PoolConfig: c.conf, app: app, logger: zap.NewNop()}
					if c.allow != "" {
						h.AllowFunctions = []string{c.allow}
					}
					if perr := h.PoolConfig.provision(); perr != nil {
						t.Fatal(perr)
					}
					err = errors.Join(err, h.provisionFunction())
				}
				if (err == nil) != tc.want {
					t.Errorf("error is %v", err)
				}
				if err := app.Cleanup(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	draining.Wait()
}
