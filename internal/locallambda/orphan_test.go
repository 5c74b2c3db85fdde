//go:build unix

package locallambda

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/zap"
)

// serviceMain is a service with one invocation that does not end.
func serviceMain() {
	s := New(zap.NewNop())
	f := testFunction()
	f.Env = append(f.Env, "INIT="+os.Getenv("INIT"), "CHILD_GATE="+os.Getenv("GATE"), "RUNTIME_GATE="+os.Getenv("GATE"))
	must(0, s.Deploy(f))
	invoke := func(o order) {
		r := httptest.NewRequest("POST", "/2015-03-31/functions/app/invocations", bytes.NewReader(marshal(o)))
		s.ServeHTTP(httptest.NewRecorder(), r)
	}
	if os.Getenv("KILL_GUARD") != "" {
		invoke(order{})
		must(0, s.host.watch.cmd.Process.Kill())
		must(s.host.watch.cmd.Process.Wait())
	}
	invoke(order{Do: os.Getenv("DO"), Arg: os.Getenv("GATE")})
	meet(os.Getenv("GATE"), "invoked")
	select {}
}

func (g *gate) startService(env ...string) *exec.Cmd {
	g.t.Helper()
	self, err := os.Executable()
	if err != nil {
		g.t.Fatal(err)
	}
	cmd := exec.CommandContext(g.t.Context(), self)
	cmd.Env = append(append(os.Environ(), roleVariable+"=service", "GATE="+g.address()), env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	return cmd
}

// Whatever becomes of the service, nobody outlives it: not the runtime, not
// the child in a session of its own, not the grandchild that remembers nothing.
func TestNobodyOutlivesTheService(t *testing.T) {
	needProc(t)
	for _, c := range []struct{ name, do, last string }{
		{"while invoking", "gate", "invocation"},
		{"while frozen", "", "invoked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGate(t)
			cmd := g.startService("INIT=child", "DO="+c.do)
			seen := make(map[string]visitor)
			for len(seen) < 4 {
				v := g.next()
				seen[v.name()] = v
			}
			for _, name := range []string{"runtime", "child", "grandchild", c.last} {
				if _, ok := seen[name]; !ok {
					t.Fatalf("%s is missing: %v", name, fmt.Sprint(seen))
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			for _, v := range seen {
				v.waitEnd(t)
			}
		})
	}
}

// Even if somebody has killed the guard before, the kernel kills what the
// service itself has started.
func TestRuntimeDiesWithTheServiceWithoutGuard(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs parent death signals")
	}
	g := newGate(t)
	cmd := g.startService("KILL_GUARD=1", "DO=gate")
	visitors := []visitor{g.next(), g.next()} // the runtime, and again when the guard is dead
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, v := range visitors {
		v.waitEnd(t)
	}
}

// Orphans are found by their group, or by their mark, or by an ancestor that
// is found by its own.
func TestTreeFindsOrphans(t *testing.T) {
	needProc(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ how, mark string }{
		{"group", ""},
		{"session", "tree/" + newUUID()},
	} {
		t.Run(c.how, func(t *testing.T) {
			g := newGate(t)
			tr := newTree(c.mark)
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = []string{roleVariable + "=orphans", "HOW=" + c.how, "GATE=" + g.address(), streamVariable + "=" + c.mark, "GORACE=atexit_sleep_ms=0"}
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Run(); err != nil { // it leaves its child behind
				t.Fatal(err)
			}
			tr.add(cmd.Process.Pid)
			orphan := g.next()
			members, _ := tr.walk()
			if !slices.Equal(members, []int{orphan.pid(t)}) {
				t.Errorf("found %v, want the orphan %s", members, orphan.line)
			}
			if left := tr.kill(); len(left) > 0 {
				t.Errorf("%v cannot be killed", left)
			}
			orphan.waitEnd(t)
		})
	}
}

// orphansMain leaves a process behind that has only its group, or only its
// mark.
func orphansMain() {
	cmd := exec.Command(must(os.Executable()))
	cmd.Env = []string{roleVariable + "=child", "CHILD_NAME=orphan", "CHILD_GATE=" + os.Getenv("GATE")}
	if os.Getenv("HOW") == "session" {
		cmd.Env = append(cmd.Env, streamVariable+"="+os.Getenv(streamVariable))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	r, w, err := os.Pipe()
	cmd.ExtraFiles = []*os.File{must(w, err)}
	must(0, cmd.Start())
	must(r.Read(make([]byte, 1)))
}
