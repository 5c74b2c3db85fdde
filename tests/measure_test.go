package tests

import (
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// rss returns the memory of a process in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// peak watches the memory of a process until stop is called.
func peak(t *testing.T, pid int) (stop func() int) {
	quit, most := make(chan struct{}), 0
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, rss(t, pid))
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() int {
		close(quit)
		wg.Wait()
		return most
	}
}

// timed sends n requests one after the other and returns how long they took,
// sorted.
func (r *router) timed(path string, n int) []time.Duration {
	r.t.Helper()
	took := make([]time.Duration, 0, n)
	for range n {
		took = r.timeOne(path, took)
	}
	slices.Sort(took)
	return took
}

func (r *router) timeOne(path string, took []time.Duration) []time.Duration {
	begin := time.Now()
	resp, body, err := r.do(http.MethodGet, path, nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		r.t.Errorf("a request failed: %v, body %q, error %v", resp, body, err)
	}
	return append(took, time.Since(begin))
}

// latencies is timed for as many requests as it takes until stop is called.
func (r *router) latencies(path string) (stop func() []time.Duration) {
	quit := make(chan struct{})
	var took []time.Duration
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
				took = r.timeOne(path, took)
			}
		}
	})
	return func() []time.Duration {
		close(quit)
		wg.Wait()
		slices.Sort(took)
		return took
	}
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(100 * time.Microsecond)
}
