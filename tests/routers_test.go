package tests

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The numbers of a service with three routers. They keep the rules of
// deploy/cloudformation (SHUTDOWN, DRAIN and CALLS), in a tenth of the time.
const (
	serviceRouters      = 3
	serviceInstances    = 2 // max_instances, of each router
	shutdownDelay       = 2 * time.Second
	shutdownGrace       = 9 * time.Second
	deregistrationDelay = 9 * time.Second

	// A deployment doubles the routers, and each may have max_instances: 12. A
	// quarter more is left for replacements, as in the template's sizes.
	serviceConcurrency = serviceRouters * serviceInstances * 2 * 5 / 4

	// Here the routers of one generation could have one more instance than there may be,
	// and those of two have to wait for each other. With less than this a router
	// could be left without any: the others have all that they may have, and keep
	// it as long as they are busy.
	tightConcurrency = (serviceRouters-1)*serviceInstances + 1
)

// service is routers behind a load balancer, with one function.
type service struct {
	t        *testing.T
	lambda   *localLambda
	gate     *gate
	balancer *balancer
	client   *http.Client // to the load balancer
	ledger   string

	posts, gets, streams, longs tally
	sent                        [4]atomic.Int64 // of each kind, in this order
	all                         []*router
	stopLoad                    func()
}

func startService(t *testing.T, concurrency int) *service {
	t.Helper()
	dir := shortTempDir(t)
	s := &service{t: t, balancer: newBalancer(t), ledger: filepath.Join(dir, "ledger")}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.lambda = startLocalLambdaOf(t, nil, self, "--listen", "127.0.0.1:0",
		"--max-environments", strconv.Itoa(concurrency), "--env", ledgerVar+"="+s.ledger,
		"--env", "LAMBDA_DISPATCH_LOG_FORMAT=json")
	invokeAPI, err := url.Parse(s.lambda.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	s.gate = &gate{proxy: httputil.NewSingleHostReverseProxy(invokeAPI)}
	s.gate.proxy.ModifyResponse = s.gate.count
	gateServer := httptest.NewServer(s.gate)
	t.Cleanup(gateServer.Close)
	s.lambda.endpoint = gateServer.URL

	front := filepath.Join(dir, "front.sock")
	ln, err := net.Listen("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: ln, Config: &http.Server{Handler: s.balancer, ReadHeaderTimeout: patience}}
	server.Start()
	t.Cleanup(server.Close)
	s.client = unixClient(front)
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// start starts a router and registers it. Its health check is the template's.
func (s *service) start() *target {
	s.t.Helper()
	site := "handle " + healthPath + ` {
	log_skip
	@draining vars {http.shutting_down} true
	respond @draining "draining" 503
	respond "ok" 200
}
handle {
` + dispatch("max_concurrent 4", fmt.Sprintf("max_instances %d", serviceInstances),
		"callback {\n listen 127.0.0.1:0\n}", s.lambda.invoker()) + `
}`
	r := startCaddy(s.t, strings.Replace(withGrace(shutdownGrace.String(), site), "grace_period",
		"shutdown_delay "+shutdownDelay.String()+"\n\tgrace_period", 1))
	s.all = append(s.all, r)
	return s.balancer.register(r)
}

// startAll starts as many routers as the service has, and returns when they
// are healthy and have been given requests.
func (s *service) startAll() []*target {
	s.t.Helper()
	var started []*target
	for range serviceRouters {
		started = append(started, s.start())
	}
	for _, tg := range started {
		await(s.t, "a new router to be healthy", s.balancer.is(tg, func(tg *target) bool { return tg.healthy }))
	}
	return started
}

// load has clients send requests, one after another.
func (s *service) load() {
	var clients sync.WaitGroup
	quit := make(chan struct{})
	each := func(n int, kind string, i int, c *tally, method string, chunked bool, delay int) {
		for range n {
			clients.Go(func() {
				for {
					select {
					case <-quit:
						return
					default:
						id := fmt.Sprintf("%s%d", kind, s.sent[i].Add(1))
						c.work(s.client, method, id, chunked, 20_000, delay)
					}
				}
			})
		}
	}
	each(6, "post", 0, &s.posts, http.MethodPost, false, 20)
	each(6, "get", 1, &s.gets, http.MethodGet, false, 20)
	each(3, "stream", 2, &s.streams, http.MethodGet, true, 400)
	s.stopLoad = sync.OnceFunc(func() {
		close(quit)
		clients.Wait()
	})
	s.t.Cleanup(s.stopLoad)
}

// send sends requests that outlast the shutdown delay, to all routers alike.
func (s *service) send(n int) (wait func()) {
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			id := fmt.Sprintf("long%d", s.sent[3].Add(1))
			s.longs.work(s.client, http.MethodPost, id, true, 20_000, int(shutdownDelay.Milliseconds()))
		})
	}
	return all.Wait
}

// remove is what ECS does with a router that a deployment or scaling in has
// ended: out of the load balancer, and SIGTERM when nothing runs there any more.
func (s *service) remove(tg *target) {
	s.balancer.deregister(tg)
	idle := s.balancer.is(tg, func(tg *target) bool { return tg.outstanding == 0 })
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(deregistrationDelay); !idle(); {
		select {
		case <-tick.C:
			continue
		case <-limit:
		}
		break
	}
	s.terminate(tg)
}

// terminate sends SIGTERM and waits for the end.
func (s *service) terminate(tg *target) {
	if err := tg.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Error(err)
	}
	begin := time.Now()
	select {
	case <-tg.exited:
	case <-time.After(patience):
		s.t.Error("a router does not exit")
		return
	}
	if took, most := time.Since(begin), shutdownDelay+shutdownGrace+6*time.Second; tg.exitErr != nil || took > most {
		s.t.Errorf("a router ended with %v after %v, StopTimeout would be %v", tg.exitErr, took, most)
	}
}

// answersFrom waits until each of the routers has answered so many requests.
func (s *service) answersFrom(n int, targets ...*target) {
	s.t.Helper()
	for _, tg := range targets {
		await(s.t, "a router to answer", s.balancer.is(tg, func(tg *target) bool { return tg.answered >= n }))
	}
}

// Three routers share a function. A deployment replaces all of them, Spot takes
// one, and another is scaled in, all of it under load. Nothing is lost, and no
// more environments are asked for than the function may have; or if they are, the
// routers wait for each other.
func TestRoutersAreReplacedUnderLoad(t *testing.T) {
	for _, tc := range []struct {
		name        string
		concurrency int
		throttles   bool
	}{
		{"enough for two generations", serviceConcurrency, false},
		{"not enough for one", tightConcurrency, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			s := startService(t, tc.concurrency)
			old := s.startAll()
			s.load()
			s.answersFrom(20, old...)
			begin := time.Now()

			// A deployment, minimumHealthyPercent 100 and maximumPercent 200: all new
			// routers are healthy before the old ones go.
			young := s.startAll()
			for _, tg := range young {
				await(t, "requests for a new router", s.balancer.is(tg, func(tg *target) bool { return tg.given > 0 }))
			}
			var removed sync.WaitGroup
			for _, tg := range old {
				removed.Go(func() { s.remove(tg) })
			}
			removed.Wait()
			s.answersFrom(20, young...)
			deployed := time.Since(begin)

			// Spot takes a router: SIGTERM, and only the health check tells the load
			// balancer. Its replacement comes when it comes.
			victim := young[0]
			sent := s.send(2 * serviceRouters)
			await(t, "long requests", s.balancer.is(victim, func(tg *target) bool { return tg.long > 0 }))
			var taken sync.WaitGroup
			given := s.balancer.given(victim)
			taken.Go(func() { s.terminate(victim) })
			await(t, "the load balancer to notice", s.balancer.is(victim, func(tg *target) bool { return !tg.healthy }))
			if n := s.balancer.given(victim) - given; n == 0 {
				t.Error("the router got no request after SIGTERM: this shows nothing")
			}
			select {
			case <-victim.exited:
				t.Error("the router did not wait until the load balancer had noticed")
			default:
			}
			young[0] = s.start()
			taken.Wait()
			s.balancer.deregister(victim) // ECS learns that it is gone
			s.answersFrom(20, young...)
			sent()

			// Scaling in: fewer routers, and what the last ones held is free.
			s.remove(young[1])
			s.stopLoad()
			for _, tg := range []*target{young[0], young[2]} {
				removed.Go(func() { s.remove(tg) })
			}
			removed.Wait()

			s.checkNothingIsLost()
			s.checkInvocations(tc.concurrency, tc.throttles)
			s.checkEachHasItsOwn()
			t.Logf("the deployment took %v", deployed.Round(time.Millisecond))
		})
	}
}

// checkNothingIsLost checks that each request was answered in full, and that no
// POST was executed twice.
func (s *service) checkNothingIsLost() {
	s.t.Helper()
	executed := readLedger(s.t, s.ledger)
	for i, kind := range []struct {
		name   string
		tally  *tally
		posted bool
	}{{"post", &s.posts, true}, {"get", &s.gets, false}, {"stream", &s.streams, false}, {"long", &s.longs, true}} {
		sent, c := int(s.sent[i].Load()), kind.tally
		s.t.Logf("%s: %v", kind.name, c)
		if c.whole != sent || sent == 0 || c.wrong != "" {
			s.t.Errorf("%s: %d of %d were answered whole; %s %s", kind.name, c.whole, sent, c.firstFailure, c.wrong)
		}
		for id := range sent {
			// A GET may be sent again, which is none of this test's business.
			if n := executed[fmt.Sprintf("%s%d", kind.name, id+1)]; n > 1 && kind.posted {
				s.t.Errorf("%s%d was executed %d times", kind.name, id+1, n)
			}
		}
	}
	s.balancer.mu.Lock()
	defer s.balancer.mu.Unlock()
	if f := s.balancer.failures; len(f) > 0 {
		s.t.Errorf("%d times no response from a router, first %s", len(f), f[0])
	}
}

// checkInvocations checks that the function's concurrency was kept to and that no
// invocation is left.
func (s *service) checkInvocations(concurrency int, throttles bool) {
	s.t.Helper()
	await(s.t, "the last invocation to end", func() bool {
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
		return s.gate.open == 0
	})
	results := []string{"drained"}
	if throttles {
		results = append(results, "throttled")
	}
	for _, r := range s.all {
		r.checkEnded(results...)
	}
	g := s.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	busy := s.lambda.mostInstances(s.t)
	s.t.Logf("limit %d: %d instances at once, %d invocations, %d throttled, %d open at once",
		concurrency, busy, g.accepted, g.throttled, g.most)
	if busy > concurrency || busy < serviceRouters {
		s.t.Errorf("%d environments had an instance at the same time", busy)
	}
	if !throttles && busy <= serviceRouters*serviceInstances {
		s.t.Errorf("%d instances are not more than one generation may have: this shows nothing about two", busy)
	}
	if !throttles && (g.most > concurrency || g.throttled > 0) {
		s.t.Errorf("%d invocations were open at the same time, and %d throttled", g.most, g.throttled)
	}
	if throttles && g.throttled == 0 {
		s.t.Error("nothing was throttled: this shows nothing")
	}
}

// checkEachHasItsOwn checks that no instance served two routers, and that
// max_instances held for each of them.
func (s *service) checkEachHasItsOwn() {
	s.t.Helper()
	owner := make(map[string]int)
	for i, r := range s.all {
		used, most := make(map[string]bool), 0
		for _, e := range r.logs.instanceLines() {
			id, _ := e["instance"].(string)
			if e["msg"] != "instance ready" {
				delete(used, id)
				continue
			}
			if other, taken := owner[id]; taken {
				s.t.Errorf("instance %s is router %d's and router %d's", id, other, i)
			}
			owner[id], used[id] = i, true
			most = max(most, len(used))
		}
		if most == 0 || most > serviceInstances {
			s.t.Errorf("router %d had %d instances at the same time, and may have %d", i, most, serviceInstances)
		}
	}
}

// instanceLines returns what the log says of instances that take requests, and
// that no longer do, in order.
func (b *logBuffer) instanceLines() []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(b.String()) {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		switch e["msg"] {
		case "instance ready", "instance draining", "instance closed":
			found = append(found, e)
		}
	}
	return found
}
