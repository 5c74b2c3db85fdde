//go:build unix

package locallambda

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestInitialisedAgainInTheFirstInvocation(t *testing.T) {
	for mode, kind := range map[string]string{"crash": "Runtime.ExitError", "error": "Config.Missing", "hang": "Sandbox.Timedout"} {
		t.Run(mode+" once", func(t *testing.T) {
			b := newBench(t)
			b.deploy(env("INIT="+mode+":"+filepath.Join(t.TempDir(), "once")), func(f *Function) {
				if mode == "hang" {
					f.InitTimeout = 300 * time.Millisecond
				}
			})
			if a := b.invoke(order{}); a.Count != 1 {
				t.Errorf("got %+v", a)
			}
		})
		t.Run(mode+" always", func(t *testing.T) {
			b := newBench(t)
			g := newGate(t)
			b.deploy(env("INIT="+mode, "RUNTIME_GATE="+g.address()), func(f *Function) {
				f.Timeout = 20 * time.Second
				if mode == "hang" {
					f.InitTimeout, f.Timeout = 300*time.Millisecond, 400*time.Millisecond
				}
			})
			got, message := b.fail(order{})
			if got != kind {
				t.Errorf("error type is %s (%s), want %s", got, message, kind)
			}
			switch {
			case mode == "crash" && !strings.HasSuffix(message, "Error: Runtime exited with error: exit status 3"),
				mode == "error" && message != "no config",
				mode == "hang" && !strings.HasSuffix(message, "Error: Task timed out after 0.40 seconds"):
				t.Errorf("message is %q", message)
			}
			g.next().waitEnd(t)
			g.next().waitEnd(t)
			eventually(t, "the environment is gone", func() bool { return len(b.Environments("app")) == 0 })
			if len(g.arrived) > 0 {
				t.Error("the runtime was started more than twice")
			}
		})
	}
}

func TestExtensionFailures(t *testing.T) {
	for mode, kind := range map[string]string{"crash": "Extension.Crash", "init-error": "Extension.InitError"} {
		t.Run(mode, func(t *testing.T) {
			b := newBench(t)
			b.deploy(extensions(t, "one"), env("EXT_MODE="+mode))
			if got, message := b.fail(order{}); got != kind {
				t.Errorf("error type is %s (%s), want %s", got, message, kind)
			}
		})
	}
	t.Run("not executable", func(t *testing.T) {
		b := newBench(t)
		b.deploy(func(f *Function) { f.Extensions = []string{"/nonexistent/extension"} })
		if got, message := b.fail(order{}); got != "Extension.LaunchError" {
			t.Errorf("error type is %s (%s)", got, message)
		}
	})
}

func TestRuntimeFailures(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.Timeout = 500 * time.Millisecond })
	g := newGate(t)
	for _, c := range []struct {
		order         order
		kind, message string
	}{
		{order{Do: "exit", N: 9}, "Runtime.ExitError", "Runtime exited with error: exit status 9"},
		{order{Do: "exit"}, "Runtime.ExitError", "Runtime exited without providing a reason"},
		{order{Do: "gate", Arg: g.address()}, "Sandbox.Timedout", "Task timed out after 0.50 seconds"},
		{order{Do: "error"}, "App.Broken", "it broke"},
		{order{Do: "trailer"}, "App.Broken", "half way"},
	} {
		kind, message := b.fail(c.order)
		if kind != c.kind || !strings.HasSuffix(message, c.message) {
			t.Errorf("%+v: %s: %s", c.order, kind, message)
		}
		if a := b.invoke(order{}); a.PID == 0 { // the function goes on
			t.Errorf("after %+v: %+v", c.order, a)
		}
	}
	g.next().waitEnd(t)

	b.deploy(func(f *Function) { f.Command = []string{"/nonexistent/runtime"} })
	if kind, message := b.fail(order{}); kind != "Runtime.InvalidEntrypoint" {
		t.Errorf("%s: %s", kind, message)
	}
}

// An error that the runtime reports costs no environment, a crash does.
func TestReportedErrorKeepsTheEnvironment(t *testing.T) {
	b := newBench(t)
	b.deploy()
	pid := b.invoke(order{}).PID
	b.fail(order{Do: "error"})
	if a := b.invoke(order{}); a.PID != pid {
		t.Error("the environment was replaced")
	}
	b.fail(order{Do: "exit", N: 1})
	if a := b.invoke(order{}); a.PID == pid {
		t.Error("a process came back from the dead")
	}
}

func TestAnswersAreValidated(t *testing.T) {
	b := newBench(t)
	b.deploy()
	out, err := b.call(order{Do: "wrong"})
	if err != nil || out.FunctionError != nil || string(out.Payload) != `{"first":true}` {
		t.Fatalf("%s, %v", out.Payload, err)
	}
	// unknown ID; init error too late; next too early; answer; second answer; error after an answer
	if a := b.invoke(order{Do: "statuses"}); fmt.Sprint(a.Status) != "[400 403 403 202 403 403]" {
		t.Errorf("the runtime got %v", a.Status)
	}
}

func TestIdleEnvironmentThatDiesIsReplaced(t *testing.T) {
	b := newBench(t)
	b.deploy()
	pid := b.invoke(order{}).PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the environment is gone", func() bool { return len(b.Environments("app")) == 0 })
	if a := b.invoke(order{}); a.PID == pid || a.Count != 1 {
		t.Errorf("got %+v", a)
	}
}
