package tests

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A function timeout of 10 s under load, with requests of 10 ms to 1.6 s: each
// instance is replaced before its deadline, no request fails, none is cut, and
// the slots that are ready do not become fewer. The same with 60 s and 900 s, in
// virtual time, is internal/pool's TestRotationUnderLoad.
func TestRotationUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two lifetimes of 10 s")
	}
	const (
		instances = 3
		clients   = 8
		longest   = 1600 // ms; what a lifetime of 10 s allows to wait for
		most      = 500 * time.Millisecond
	)
	r := startCaddy(t, dispatch("max_concurrent 4", "target_concurrent 4",
		fmt.Sprintf("min_instances %d", instances), fmt.Sprintf("max_instances %d", instances),
		local("command "+demoBin, "timeout 10s", "cold_start 500ms")))
	r.await("all instances", func() bool { return r.pool().in("ready") == instances })

	quit := make(chan struct{})
	var mu sync.Mutex // guards the following
	served, slowest := 0, time.Duration(0)
	var wg sync.WaitGroup
	for i := range clients {
		rnd := rand.New(rand.NewPCG(uint64(i), 1))
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				delay := 10 + rnd.IntN(200)
				if rnd.IntN(10) == 0 {
					delay = longest
				}
				begin := time.Now()
				resp, body, err := r.do(http.MethodGet, fmt.Sprintf("/delay?delay=%d", delay), nil)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("a request of %d ms: %v, %v, body %q", delay, resp, err, body)
					return
				}
				mu.Lock()
				served++
				slowest = max(slowest, time.Since(begin)-time.Duration(delay)*time.Millisecond)
				mu.Unlock()
			}
		})
	}

	// A replacement that a loaded machine starts much more slowly than those
	// before may come a little late.
	var fewer time.Duration
	fewest, looked := instances, time.Now()
	r.await("every instance to be replaced twice", func() bool {
		p := r.pool()
		now := time.Now()
		if n := p.in("ready"); n < instances {
			fewest = min(fewest, n)
			fewer += now.Sub(looked)
		}
		looked = now
		return len(r.logs.lines("instance closed")) >= 2*instances
	})
	close(quit)
	wg.Wait()
	t.Logf("%d requests, at most %v slower than the app; %d invocations; at least %d of %d instances ready, fewer than %d for %v",
		served, slowest, len(r.logs.lines("instance starting")), fewest, instances, instances, fewer)
	if fewer > most {
		t.Errorf("capacity dipped to %d of %d instances for %v", fewest, instances, fewer)
	}
	for _, e := range r.logs.lines("instance closed") {
		if e["result"] != "drained" {
			t.Errorf("an invocation ended with %v", e)
		}
	}
}
