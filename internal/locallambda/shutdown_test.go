//go:build unix

package locallambda

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// SIGTERM to the runtime, then SIGKILL, then SHUTDOWN to those who want it.
func TestShutdownOrder(t *testing.T) {
	b := newBench(t)
	g, terms := newGate(t), newGate(t)
	b.deploy(extensions(t, "one"), func(f *Function) { f.WarmFor = time.Millisecond },
		env("EXT_EVENTS=SHUTDOWN", "EXT_GATE="+g.address(), "TERM_GATE="+terms.address()))
	b.invoke(order{})
	term := terms.next()
	if info := b.only(); info.State != StateShuttingDown {
		t.Errorf("environment is %s", info.State)
	}
	term.waitEnd(t) // it does not leave by itself
	shutdown := g.next()
	var (
		name, event, reason string
		pid, left           int
	)
	if _, err := fmt.Sscan(shutdown.line, &name, &pid, &event, &reason, &left); err != nil {
		t.Fatal(err)
	}
	if event != "SHUTDOWN" || reason != "spindown" || left <= 0 || left > 1700 {
		t.Errorf("the extension heard %q", shutdown.line)
	}
	shutdown.let(t)
	eventually(t, "the environment is gone", func() bool { return len(b.Environments("app")) == 0 })
}

func TestTimeoutTellsExtensions(t *testing.T) {
	b := newBench(t)
	g, work := newGate(t), newGate(t)
	b.deploy(extensions(t, "one"), func(f *Function) { f.Timeout = 300 * time.Millisecond },
		env("EXT_EVENTS=SHUTDOWN", "EXT_GATE="+g.address()))
	if kind, _ := b.fail(order{Do: "gate", Arg: work.address()}); kind != "Sandbox.Timedout" {
		t.Errorf("error type is %s", kind)
	}
	v := g.next()
	if !strings.Contains(v.line, " SHUTDOWN timeout ") {
		t.Errorf("the extension heard %q", v.line)
	}
	// The place is free while the old environment is still shutting down.
	if a := b.invoke(order{}); a.Count != 1 {
		t.Errorf("got %+v", a)
	}
	v.let(t)
}

func TestDeployAgain(t *testing.T) {
	b := newBench(t)
	b.deploy(env("V=1"))
	pid := b.invoke(order{}).PID
	b.deploy(env("V=1"), func(f *Function) { f.Output = os.Stderr })
	if a := b.invoke(order{}); a.PID != pid {
		t.Error("equal settings cost the warm environment")
	}

	work := newGate(t)
	var old sync.WaitGroup
	old.Go(func() {
		if a := b.invoke(order{Do: "gate", Arg: work.address()}); a.PID != pid {
			t.Errorf("ran in %d, want %d", a.PID, pid)
		}
	})
	v := work.next()
	b.deploy(env("V=2"))
	if a := b.invoke(order{Do: "vars"}); a.Vars["V"] != "2" || a.PID == pid {
		t.Errorf("V is %q in process %d", a.Vars["V"], a.PID)
	}
	v.let(t)
	old.Wait()
	eventually(t, "the old environment is gone", func() bool {
		infos := b.Environments("app")
		return len(infos) == 1 && infos[0].PID != pid
	})

	b.deploy(env("V=3"))
	eventually(t, "idle environments are gone", func() bool { return len(b.Environments("app")) == 0 })
}

func TestRemove(t *testing.T) {
	b := newBench(t)
	b.deploy()
	work := newGate(t)
	var last sync.WaitGroup
	last.Go(func() { b.invoke(order{Do: "gate", Arg: work.address()}) })
	v := work.next()
	b.Remove("app")
	if _, err := b.call(order{}); err == nil || !strings.Contains(err.Error(), "ResourceNotFoundException") {
		t.Errorf("a removed function answers: %v", err)
	}
	v.let(t)
	last.Wait()
	eventually(t, "its environment is gone", func() bool { return len(b.Environments("app")) == 0 })
	b.deploy()
	b.invoke(order{})
}

// Close takes down a whole family, frozen or not.
func TestCloseLeavesNobody(t *testing.T) {
	needProc(t)
	b := newBench(t)
	family, work := newGate(t), newGate(t)
	b.deploy(env("INIT=child", "CHILD_GATE="+family.address(), "RUNTIME_GATE="+family.address()))
	b.invoke(order{})
	var running sync.WaitGroup
	running.Go(func() {
		b.invoke(order{}) // one of the two stays idle
	})
	running.Wait()
	running.Go(func() {
		if _, err := b.call(order{Do: "gate", Arg: work.address()}); err == nil {
			t.Error("an invocation survived the service")
		}
	})
	work.next()
	var visitors []visitor
	for range 3 {
		visitors = append(visitors, family.next())
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, v := range visitors {
		if pid := v.pid(t); syscall.Kill(pid, 0) == nil && processState(t, pid) != 'Z' {
			t.Errorf("%s lives on", v.line)
		}
	}
	running.Wait()
}
