package tests

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The health check of the balancer: the template's, in a tenth of the time, but
// for the timeout, so that a busy machine is not taken for a dead router.
const (
	healthInterval  = 500 * time.Millisecond
	healthTimeout   = 5 * time.Second
	healthThreshold = 2
	healthPath      = "/lambda-dispatch/health"
)

// balancer is a load balancer with what an Application Load Balancer has that
// matters to routers: least outstanding requests, health checks, all
// targets when none is healthy, deregistration that lets requests end, and no
// request sent twice.
type balancer struct {
	t      *testing.T
	checks sync.WaitGroup

	mu       sync.Mutex
	targets  []*target // guarded by mu
	failures []string  // guarded by mu: requests that a router did not answer
}

// target is a router that a balancer knows.
type target struct {
	*router
	proxy *httputil.ReverseProxy
	leave context.CancelFunc // ends its health checks

	// The rest is guarded by balancer.mu.

	healthy     bool
	outstanding int // requests that it has been given and that have not ended
	long        int // of those the ones that say so in their ID
	given       int // requests that it has been given
	answered    int // of those the ones that have ended
}

func newBalancer(t *testing.T) *balancer {
	b := &balancer{t: t}
	t.Cleanup(func() {
		for _, tg := range b.all() {
			tg.leave()
		}
		b.checks.Wait()
	})
	return b
}

func (b *balancer) all() []*target {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.targets)
}

// register makes a router known. It gets requests once it is healthy.
func (b *balancer) register(r *router) *target {
	ctx, cancel := context.WithCancel(context.Background())
	tg := &target{router: r, leave: cancel}
	tg.proxy = &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", "localhost"
			p.SetXForwarded()
		},
		Transport:     r.client.Transport,
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			b.mu.Lock()
			b.failures = append(b.failures, fmt.Sprintf("%s %s: %v", req.Method, req.URL, err))
			b.mu.Unlock()
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	b.mu.Lock()
	b.targets = append(b.targets, tg)
	b.mu.Unlock()
	b.checks.Go(func() { b.check(ctx, tg) })
	return tg
}

// deregister has the balancer send nothing more to a router. What runs there goes on.
func (b *balancer) deregister(tg *target) {
	tg.leave()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.targets = slices.DeleteFunc(b.targets, func(o *target) bool { return o == tg })
}

// check asks a router for its health, until it has left.
func (b *balancer) check(ctx context.Context, tg *target) {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	client := &http.Client{Transport: tg.client.Transport, Timeout: healthTimeout}
	for same := 0; ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+healthPath, nil)
		if err != nil {
			panic(err)
		}
		resp, err := client.Do(req)
		ok := err == nil && resp.StatusCode == http.StatusOK
		if err == nil {
			_ = resp.Body.Close()
		}
		b.mu.Lock()
		if same++; ok == tg.healthy {
			same = 0
		} else if same == healthThreshold {
			tg.healthy, same = ok, 0
		}
		b.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// pick chooses the router for a request, which ends with done.
func (b *balancer) pick(long bool) (tg *target, done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	choice := slices.DeleteFunc(slices.Clone(b.targets), func(t *target) bool { return !t.healthy })
	if len(choice) == 0 {
		choice = slices.Clone(b.targets)
	}
	rand.Shuffle(len(choice), func(i, j int) { choice[i], choice[j] = choice[j], choice[i] })
	tg = slices.MinFunc(choice, func(x, y *target) int { return x.outstanding - y.outstanding })
	count := func(n int) {
		tg.outstanding += n
		if long {
			tg.long += n
		}
	}
	count(1)
	tg.given++
	return tg, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		count(-1)
		tg.answered++
	}
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	tg, done := b.pick(strings.HasPrefix(req.URL.Query().Get("id"), "long"))
	defer done()
	tg.proxy.ServeHTTP(w, req)
}

// is returns a condition on a router, to be awaited.
func (b *balancer) is(tg *target, cond func(*target) bool) func() bool {
	return func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return cond(tg)
	}
}

// given returns how many requests a router has been given.
func (b *balancer) given(tg *target) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return tg.given
}

// gate is in front of a local Lambda and counts invocations as the routers see
// them. Those that are open at the same time are never fewer than the function has.
type gate struct {
	proxy *httputil.ReverseProxy

	mu sync.Mutex // guards the following
	// open: have begun and not ended; most: of those at any time; throttled: were
	// refused; accepted: were not.
	open, most, throttled, accepted int
}

func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	g.mu.Lock()
	g.open++
	g.most = max(g.most, g.open)
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.open--
	}()
	g.proxy.ServeHTTP(w, req)
}

// count notes what became of an invocation.
func (g *gate) count(resp *http.Response) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if resp.StatusCode == http.StatusTooManyRequests {
		g.throttled++
	} else {
		g.accepted++
	}
	return nil
}

// mostInstances returns how many instances there were at the same time by
// the environments' own account, which they are part of for less time than they
// have an invocation.
func (l *localLambda) mostInstances(t *testing.T) (most int) {
	t.Helper()
	type line struct {
		At      string `json:"timestamp"` // UTC, and all of the same length
		Message string `json:"message"`
		Reason  string `json:"reason"`
	}
	var lines []line
	for text := range strings.Lines(l.logs.String()) {
		var e line
		if json.Unmarshal([]byte(text), &e) == nil && // an instance that ends otherwise was never ready
			(e.Message == "instance ready" || e.Message == "instance ended" && e.Reason == "drained") {
			lines = append(lines, e)
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { // ends before beginnings of the same millisecond
		return cmp.Or(strings.Compare(a.At, b.At), strings.Compare(a.Message, b.Message))
	})
	now := 0
	for _, e := range lines {
		if e.Message == "instance ready" {
			now++
		} else {
			now--
		}
		most = max(most, now)
	}
	if now != 0 {
		t.Errorf("%d instances have not ended", now)
	}
	return most
}
