package tests

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// noticedWithin is how long after a network cut both ends know of it.
const noticedWithin = 15 * time.Second

// localLambda is `caddy lambda-dispatch local-lambda`: environments that do not
// die with the router.
type localLambda struct {
	endpoint string
	logs     *logBuffer // its own and those of the adapters
}

// startLocalLambda runs the demo app in a local Lambda of its own. prefix is a
// command to run it with.
func startLocalLambda(t *testing.T, prefix []string, flags ...string) *localLambda {
	t.Helper()
	return startLocalLambdaOf(t, prefix, demoBin, flags...)
}

// startLocalLambdaOf is startLocalLambda for another app.
func startLocalLambdaOf(t *testing.T, prefix []string, app string, flags ...string) *localLambda {
	t.Helper()
	args := append(prefix, caddyBin, "lambda-dispatch", "local-lambda", "--function", "app", "--adapter", adapterBin)
	args = append(append(args, flags...), "--", app)
	cmd := exec.Command(args[0], args[1:]...)
	l := &localLambda{logs: &logBuffer{}}
	cmd.Stderr = l.logs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("local lambda: %v", err)
		}
		if t.Failed() {
			t.Logf("the local lambda said:\n%s", l.logs.tail(100))
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	_, endpoint, found := strings.Cut(strings.TrimSpace(line), " at ")
	if err != nil || !found {
		t.Fatalf("first line %q, %v", line, err)
	}
	l.endpoint = endpoint
	return l
}

// ended counts the instances that ended for the reason, as the adapters say.
func (l *localLambda) ended(reason string) (n int) {
	for line := range strings.Lines(l.logs.String()) {
		if strings.Contains(line, "instance ended") && strings.Contains(line, reason) {
			n++
		}
	}
	return n
}

// invoker is the directive for a function that this local Lambda runs.
func (l *localLambda) invoker() string {
	return "invoker aws {\n region local\n endpoint " + l.endpoint + "\n}"
}

// A router that is killed leaves no invocation behind: what it pays for ends
// within seconds.
func TestKilledRouterLeavesNoInvocation(t *testing.T) {
	const instances = 5
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0")
	r := startCaddy(t, dispatch(fmt.Sprintf("min_instances %d", instances),
		"callback {\n listen 127.0.0.1:0\n}", l.invoker()))
	r.await("the instances", func() bool { return r.pool().in("ready") == instances })
	go r.burst(10, "/delay?delay=30000") // they are running when it happens
	r.await("the requests to run", func() bool { return r.pool().InFlight == 10 })

	begin := time.Now()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.exited
	await(t, "the adapters to return", func() bool { return l.ended("router_gone") == instances })
	took := time.Since(begin)
	t.Logf("all %d invocations ended %v after the router", instances, took)
	if took > 10*time.Second {
		t.Errorf("the adapters returned only after %v", took)
	}
}

// network is two hosts in network namespaces of their own: one for the router
// and one for the environments. Callbacks cross a third host, which can drop
// them silently; the Invoke API is reached over a direct link, as in AWS, where
// it is another network.
type network struct {
	t                      *testing.T
	router, lambda, middle string // namespaces
}

// The addresses of the hosts. Nothing else on the machine sees them.
const (
	routerAddr = "10.77.1.1" // for callbacks
	lambdaAddr = "10.77.2.1" // where they come from
	invokeAddr = "10.77.3.2" // of the Invoke API
)

// networks numbers them, so that several can be there at once.
var networks atomic.Int32

func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("NOT TESTED: the command ip (iproute2) is not installed")
	}
	name := fmt.Sprintf("ld%d-%d", os.Getpid(), networks.Add(1))
	n := &network{t, name + "r", name + "l", name + "m"}
	for _, ns := range []string{n.router, n.lambda, n.middle} {
		n.ip("netns add " + ns)
		t.Cleanup(func() { n.ip("netns del " + ns) })
		n.ip("-n " + ns + " link set lo up")
	}
	n.link(n.router, "callback", routerAddr, n.middle, "router", "10.77.1.254")
	n.link(n.lambda, "callback", lambdaAddr, n.middle, "lambda", "10.77.2.254")
	n.link(n.router, "invoke", "10.77.3.1", n.lambda, "invoke", invokeAddr)
	n.ip("-n " + n.router + " route add " + lambdaAddr + " via 10.77.1.254")
	n.ip("-n " + n.lambda + " route add " + routerAddr + " via 10.77.2.254")
	n.ip("netns exec "+n.middle+" tee /proc/sys/net/ipv4/ip_forward", "1")
	return n
}

// link connects two hosts.
func (n *network) link(ns1, dev1, addr1, ns2, dev2, addr2 string) {
	n.t.Helper()
	n.ip(fmt.Sprintf("link add name %s netns %s type veth peer name %s netns %s", dev1, ns1, dev2, ns2))
	for _, end := range [][3]string{{ns1, dev1, addr1}, {ns2, dev2, addr2}} {
		n.ip(fmt.Sprintf("-n %s addr add %s/24 dev %s", end[0], end[2], end[1]))
		n.ip(fmt.Sprintf("-n %s link set %s up", end[0], end[1]))
	}
}

// ip runs the command of that name.
func (n *network) ip(args string, stdin ...string) {
	n.t.Helper()
	cmd := exec.Command("ip", strings.Fields(args)...)
	cmd.Stdin = strings.NewReader(strings.Join(stdin, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// cut drops every packet to the address, without a word to its sender.
func (n *network) cut(addr string) { n.ip("-n " + n.middle + " route add blackhole " + addr) }

// mend undoes cut.
func (n *network) mend(addr string) { n.ip("-n " + n.middle + " route del blackhole " + addr) }

// in returns the command prefix that runs a program on a host.
func (n *network) in(ns string) []string { return []string{"ip", "netns", "exec", ns} }

// Packets vanish between router and environments. Both notice, no request is
// given to an instance that is not there any more, and all goes on when the
// packets flow again.
func TestCutNetworkIsNoticedOnBothSides(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for time-outs")
	}
	for _, tc := range []struct {
		name string
		to   []string
	}{
		{"to the environments", []string{lambdaAddr}},
		{"to the router", []string{routerAddr}},
		{"both ways", []string{lambdaAddr, routerAddr}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			const instances = 2
			n := newNetwork(t)
			l := startLocalLambda(t, n.in(n.lambda), "--listen", invokeAddr+":9009")
			r := startCaddyWith(t, n.in(n.router), dispatch(fmt.Sprintf("min_instances %d", instances),
				"callback {\n listen "+routerAddr+":7443\n}", l.invoker()))
			r.await("the instances", func() bool { return r.pool().in("ready") == instances })
			old := make(map[string]bool)
			for _, in := range r.pool().Instances {
				old[in.ID] = true
			}
			stillReady := func() (n int) {
				for _, in := range r.pool().Instances {
					if old[in.ID] && in.State == "ready" {
						n++
					}
				}
				return n
			}
			checkAll(t, r.burst(10, "/ping"))

			begin := time.Now()
			for _, addr := range tc.to {
				n.cut(addr)
			}
			running := make(chan []answer, 1)
			go func() { running <- r.burst(10, "/ping") }()
			r.await("the router to notice", func() bool { return stillReady() == 0 })
			atRouter := time.Since(begin)
			await(t, "the adapters to notice", func() bool { return l.ended("router_gone") >= instances })
			atAdapter := time.Since(begin)
			t.Logf("noticed by the router after %v, by the adapters after %v", atRouter, atAdapter)
			if atRouter > noticedWithin || atAdapter > noticedWithin {
				t.Errorf("more than %v", noticedWithin)
			}
			r.await("the requests to leave the dead instances", func() bool { return r.pool().InFlight == 0 })

			for _, addr := range tc.to {
				n.mend(addr)
			}
			mended := time.Now()
			// They were idempotent and unanswered, so they have waited.
			checkAll(t, <-running)
			t.Logf("the requests that it happened to were answered %v after the network was there again", time.Since(mended))
			checkAll(t, r.burst(10, "/ping"))
			if d := time.Since(mended); d > noticedWithin {
				t.Errorf("recovery took %v", d)
			}
		})
	}
}
