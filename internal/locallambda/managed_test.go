//go:build unix

package locallambda

import (
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func managed(n int) func(*Function) {
	return func(f *Function) {
		f.MaxConcurrency = n
		f.Env = append(f.Env, "LOOPS="+strconv.Itoa(n))
	}
}

// crowd has invocations run at once, up to a gate.
type crowd struct {
	b    *bench
	gate *gate
	all  sync.WaitGroup

	mu   sync.Mutex // guards what follows
	pids []int
}

func (c *crowd) add(n int) []visitor {
	c.b.t.Helper()
	for range n {
		c.all.Go(func() {
			a := c.b.invoke(order{Do: "gate", Arg: c.gate.address()})
			c.mu.Lock()
			defer c.mu.Unlock()
			c.pids = append(c.pids, a.PID)
		})
	}
	visitors := make([]visitor, n)
	for i := range visitors {
		visitors[i] = c.gate.next()
	}
	return visitors
}

func (c *crowd) letAll(visitors []visitor) {
	for _, v := range visitors {
		v.let(c.b.t)
	}
	c.all.Wait()
}

func TestSeveralInvocationsInOneEnvironment(t *testing.T) {
	b := newBench(t)
	b.deploy(managed(4), func(f *Function) { f.MaxEnvironments = 2 })
	c := &crowd{b: b, gate: newGate(t)}
	visitors := c.add(4) // one after the other or at once, they share one that is still starting
	if info := b.only(); info.State != StateInvoking || info.Running != 4 || info.Invocations != 4 {
		t.Errorf("environment is %+v", info)
	}
	visitors = append(visitors, c.add(4)...)
	if infos := b.Environments("app"); len(infos) != 2 || infos[0].Running != 4 || infos[1].Running != 4 {
		t.Errorf("environments are %+v", infos)
	}
	if _, err := b.call(order{}); err == nil {
		t.Error("the ninth invocation is not throttled")
	}
	c.letAll(visitors)
	slices.Sort(c.pids)
	if c.pids[0] != c.pids[3] || c.pids[4] != c.pids[7] || c.pids[3] == c.pids[4] {
		t.Errorf("invocations ran in %v", c.pids)
	}
	eventually(t, "both are idle", func() bool {
		return !slices.ContainsFunc(b.Environments("app"), func(e EnvironmentInfo) bool { return e.State != StateIdle || e.Running != 0 })
	})
	vars := b.invoke(order{Do: "vars"}).Vars
	if vars["AWS_LAMBDA_MAX_CONCURRENCY"] != "4" || vars["AWS_LAMBDA_INITIALIZATION_TYPE"] != "lambda-managed-instances" {
		t.Errorf("concurrency %q, type %q", vars["AWS_LAMBDA_MAX_CONCURRENCY"], vars["AWS_LAMBDA_INITIALIZATION_TYPE"])
	}
}

func TestManagedEnvironmentsAreNotFrozen(t *testing.T) {
	needProc(t)
	b := newBench(t)
	b.deploy(managed(2))
	pid := b.invoke(order{}).PID
	eventually(t, "the environment is idle", func() bool { return b.only().State == StateIdle })
	if s := processState(t, pid); s == 'T' || s == 0 {
		t.Errorf("the runtime is in state %q", s)
	}
}

// An invocation whose time is up fails alone.
func TestTimeoutsAmongOthers(t *testing.T) {
	b := newBench(t)
	b.deploy(managed(2), func(f *Function) { f.Timeout = 2 * time.Second })
	slow := newGate(t)
	late := make(chan string, 1)
	go func() {
		kind, _ := b.fail(order{Do: "gate", Arg: slow.address()})
		late <- kind
	}()
	v := slow.next()
	pid := b.invoke(order{}).PID // beside it
	if kind := <-late; kind != "Sandbox.Timedout" {
		t.Errorf("error type is %s", kind)
	}
	if info := b.only(); info.PID != pid || info.State != StateInvoking || info.Running != 1 {
		t.Errorf("environment is %+v", info)
	}
	if a := b.invoke(order{}); a.PID != pid {
		t.Errorf("ran in %d, want %d", a.PID, pid)
	}
	v.let(t) // it answers after all
	eventually(t, "its place is free", func() bool { return b.only().State == StateIdle })
}

func TestDeathAmongOthers(t *testing.T) {
	b := newBench(t)
	b.deploy(managed(2))
	g := newGate(t)
	other := make(chan string, 1)
	go func() {
		kind, _ := b.fail(order{Do: "gate", Arg: g.address()})
		other <- kind
	}()
	g.next()
	if kind, _ := b.fail(order{Do: "exit", N: 3}); kind != "Runtime.ExitError" {
		t.Errorf("error type is %s", kind)
	}
	if kind := <-other; kind != "Runtime.ExitError" {
		t.Errorf("error type of the other is %s", kind)
	}
	eventually(t, "the environment is gone", func() bool { return len(b.Environments("app")) == 0 })
	b.invoke(order{})
}

func TestManagedInitFailures(t *testing.T) {
	b := newBench(t)
	b.deploy(managed(4), env("INIT=crash"))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if kind, _ := b.fail(order{}); kind != "Runtime.ExitError" {
				t.Errorf("error type is %s", kind)
			}
		})
	}
	all.Wait()
	eventually(t, "the environment is gone", func() bool { return len(b.Environments("app")) == 0 })

	b.deploy(managed(4), env("INIT=hang"), func(f *Function) { f.InitTimeout = 300 * time.Millisecond })
	if kind, message := b.fail(order{}); kind != "Sandbox.Timedout" || message == "" {
		t.Errorf("%s: %s", kind, message)
	}
}

func TestManagedDeployAgain(t *testing.T) {
	b := newBench(t)
	b.deploy(managed(2), env("V=1"))
	c := &crowd{b: b, gate: newGate(t)}
	visitors := c.add(1)
	b.deploy(managed(2), env("V=2"))
	if a := b.invoke(order{Do: "vars"}); a.Vars["V"] != "2" {
		t.Errorf("V is %q", a.Vars["V"])
	}
	c.letAll(visitors)
	eventually(t, "the old environment is gone", func() bool { return len(b.Environments("app")) == 1 })
	b.Remove("app")
	eventually(t, "the new one too", func() bool { return len(b.Environments("app")) == 0 })
}

// Events wait for a place, not for an environment.
func TestEventsWaitForAPlace(t *testing.T) {
	b := newBench(t)
	b.deploy(managed(2), func(f *Function) { f.MaxEnvironments = 1 })
	g := newGate(t)
	for range 3 {
		b.event(order{Do: "gate", Arg: g.address()})
	}
	first := g.next()
	g.next()
	if info := b.only(); info.Running != 2 {
		t.Errorf("environment is %+v", info)
	}
	first.let(t)
	g.next().let(t)
}

func TestManagedLife(t *testing.T) {
	loops := func(n int, took time.Duration) func(*fake) {
		return func(f *fake) {
			for range n {
				f.work.Go(func() { f.serve(took) })
			}
		}
	}
	bubble(t, "reclaimed", loops(2, time.Second), func(t *testing.T, s *stage) {
		s.deploy(t, Function{MaxConcurrency: 2, Extensions: []string{"ext"}})
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { s.invoke() })
		}
		both.Wait()
		time.Sleep(4 * time.Minute)
		s.invoke()
		time.Sleep(6 * time.Minute)
		s.expect(t, "200 at 1s, 200 at 1s, 200 at 4m2s", "0s start", "9m2s terminate", "9m2.3s kill runtime",
			"9m2.3s ext hears SHUTDOWN spindown", "9m2.8s kill")
	})
	bubble(t, "not kept", loops(2, time.Second), func(t *testing.T, s *stage) {
		s.deploy(t, Function{MaxConcurrency: 2, WarmFor: -1})
		s.invoke()
		s.expect(t, "200 at 1s", "0s start", "1s kill")
	})
	// A runtime with fewer loops than its concurrency lets an invocation wait
	// until its time is up, and does not get it then.
	bubble(t, "too few loops", loops(1, 3*time.Second), func(t *testing.T, s *stage) {
		s.deploy(t, Function{MaxConcurrency: 2, Timeout: 2 * time.Second})
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { s.invoke() })
		}
		both.Wait()
		s.expect(t, "200 at 2s, 200 at 2s", "0s start")
		time.Sleep(time.Second)
		synctest.Wait()
		if info := s.Environments("app"); len(info) != 1 || info[0].State != StateIdle {
			t.Errorf("environments are %+v", info)
		}
	})
	bubble(t, "a minute to start", func(f *fake) {
		f.sleep(time.Minute)
		f.serve(time.Second)
	}, func(t *testing.T, s *stage) {
		s.deploy(t, Function{MaxConcurrency: 2, Timeout: 3 * time.Second})
		s.invoke()
		s.expect(t, "200 at 1m1s", "0s start")
	})
	bubble(t, "never ready", func(f *fake) { f.sleep(time.Hour) }, func(t *testing.T, s *stage) {
		s.deploy(t, Function{MaxConcurrency: 2, Timeout: 3 * time.Second})
		s.invoke()
		s.expect(t, "200 at 2m10s", "0s start", "2m10s kill")
	})
}

func TestManagedExtensionsHearOfNoInvocation(t *testing.T) {
	s := newSession(sessionConfig{names: []string{"ext"}, concurrency: 2})
	for _, name := range []string{"ext", "internal"} {
		if _, err := s.register(name, []string{eventInvoke}); kindOf(err) != "Extension.InvalidEventType" {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustRegister(t, s, "ext", eventShutdown)
}

// A runtime with as many invocations as it may have gets no further poll.
func TestTooManyPolls(t *testing.T) {
	s := newSession(sessionConfig{concurrency: 2})
	for i := range 2 {
		s.begin(testInvocation(strconv.Itoa(i)), time.Now())
		if _, err := s.next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.next(t.Context()); kindOf(err) != "InvalidStateTransition" {
		t.Error(err)
	}
	for i := range 2 {
		d, err := s.claim(strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		s.settle(d, result{})
	}
}
