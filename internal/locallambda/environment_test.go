//go:build unix

package locallambda

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestVariables(t *testing.T) {
	t.Setenv("AWS_PROFILE", "mine")
	t.Setenv("CADDY_ADMIN", "localhost:2019")
	t.Setenv("CF_API_TOKEN", "hidden")
	t.Setenv("db_password", "hidden")
	t.Setenv("PORT", "1")
	t.Setenv("PLAIN", "host")
	b := newBench(t)
	dir := t.TempDir()
	b.deploy(env("MY_TOKEN=given", "PORT=2", "PLAIN=function", "AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_NAME=forged"),
		func(f *Function) { f.Dir, f.Memory, f.Handler = dir, 512<<20, "main.handler" })
	vars := b.invoke(order{Do: "vars"}).Vars
	info := b.only()
	port := fmt.Sprint(info.AppPort)
	for name, want := range map[string]string{
		"AWS_LAMBDA_FUNCTION_NAME":        "app",
		"AWS_LAMBDA_FUNCTION_VERSION":     "$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
		"AWS_LAMBDA_LOG_GROUP_NAME":       "/aws/lambda/app",
		"AWS_LAMBDA_LOG_STREAM_NAME":      info.ID,
		"AWS_LAMBDA_INITIALIZATION_TYPE":  "on-demand",
		"AWS_REGION":                      "eu-west-1",
		"AWS_DEFAULT_REGION":              "us-east-1",
		"LAMBDA_TASK_ROOT":                dir,
		"PWD":                             dir,
		"_HANDLER":                        "main.handler",
		"PORT":                            port,
		"AWS_LWA_PORT":                    port,
		"MY_TOKEN":                        "given",
		"PLAIN":                           "function",
		"PATH":                            os.Getenv("PATH"),
	} {
		if vars[name] != want {
			t.Errorf("%s is %q, want %q", name, vars[name], want)
		}
	}
	for _, name := range []string{"AWS_PROFILE", "CADDY_ADMIN", "CF_API_TOKEN", "db_password", guardVariable} {
		if v, ok := vars[name]; ok {
			t.Errorf("%s=%s is passed on", name, v)
		}
	}
	if !strings.HasPrefix(vars["AWS_LAMBDA_RUNTIME_API"], "127.0.0.1:") {
		t.Errorf("Runtime API is at %s", vars["AWS_LAMBDA_RUNTIME_API"])
	}
	var date, id string
	if n, err := fmt.Sscanf(strings.NewReplacer("[$LATEST]", " ").Replace(info.ID), "%10s/ %32s", &date, &id); err != nil || n != 2 {
		t.Errorf("log stream is %q: %v", info.ID, err)
	}
}

func TestConcurrentInvocations(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.MaxEnvironments = 50; f.AppPort = 23456 })
	g := newGate(t)
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		answers []answer
	)
	for i := range 50 {
		all.Go(func() {
			a := b.invoke(order{Do: "gate", Arg: g.address(), N: i})
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, a)
		})
	}
	visitors := make([]visitor, 50)
	for i := range visitors {
		visitors[i] = g.next()
	}
	infos := b.Environments("app")
	if len(infos) != 50 {
		t.Fatalf("%d environments run 50 invocations", len(infos))
	}
	ports := make(map[int]bool)
	for _, info := range infos {
		if info.State != StateInvoking || info.AppPort < 23456 || ports[info.AppPort] {
			t.Errorf("environment is %+v", info)
		}
		ports[info.AppPort] = true
	}
	for i, v := range visitors {
		if _, err := fmt.Fprintf(v.conn, "word %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	texts := make(map[string]bool)
	for _, a := range answers {
		texts[a.Text] = true
	}
	if len(answers) != 50 || len(texts) != 50 {
		t.Errorf("%d answers, %d of them different", len(answers), len(texts))
	}
	eventually(t, "all are idle", func() bool {
		return !slices.ContainsFunc(b.Environments("app"), func(e EnvironmentInfo) bool { return e.State != StateIdle })
	})
	// What comes next runs in the environment that was used last.
	a, c := b.invoke(order{}), b.invoke(order{})
	if a.PID != c.PID {
		t.Errorf("two invocations in a row ran in processes %d and %d", a.PID, c.PID)
	}
}

// processState reads the state letter of /proc/<pid>/stat.
func processState(t *testing.T, pid int) byte {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	return stat[strings.LastIndexByte(string(stat), ')')+2]
}

func needProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("needs /proc")
	}
}

func (v visitor) pid(t *testing.T) int {
	t.Helper()
	var name string
	var pid int
	if _, err := fmt.Sscan(v.line, &name, &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestFrozenBetweenInvocations(t *testing.T) {
	needProc(t)
	b := newBench(t)
	family := newGate(t)
	b.deploy(extensions(t, "one"), env("EXT_EVENTS=INVOKE,SHUTDOWN", "INIT=child", "CHILD_GATE="+family.address()))
	runtime := b.invoke(order{}).PID
	pids := []int{runtime}
	for range 2 {
		pids = append(pids, family.next().pid(t)) // the child and the grandchild
	}
	eventually(t, "the environment is idle", func() bool { return b.only().State == StateIdle })
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d is stopped", pid), func() bool { return processState(t, pid) == 'T' })
	}

	work := newGate(t)
	var done sync.WaitGroup
	done.Go(func() { b.invoke(order{Do: "gate", Arg: work.address()}) })
	v := work.next()
	for _, pid := range pids {
		if s := processState(t, pid); s == 'T' || s == 0 {
			t.Errorf("process %d is in state %q during an invocation", pid, s)
		}
	}
	v.let(t)
	done.Wait()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d is stopped again", pid), func() bool { return processState(t, pid) == 'T' })
	}
}

// The environment is not frozen before its extensions are done, but its caller
// need not wait for them.
func TestExtensionsGetTheirTime(t *testing.T) {
	b := newBench(t)
	g := newGate(t)
	b.deploy(extensions(t, "one", "two"), env("EXT_EVENTS=INVOKE,SHUTDOWN", "EXT_GATE="+g.address()))
	b.invoke(order{})
	visitors := []visitor{g.next(), g.next()}
	names := []string{visitors[0].name(), visitors[1].name()}
	slices.Sort(names)
	if fmt.Sprint(names) != "[ext-one ext-two]" {
		t.Errorf("%v got the event", names)
	}
	if info := b.only(); info.State != StateInvoking {
		t.Errorf("environment is %s while its extensions work", info.State)
	}
	for _, v := range visitors {
		if !strings.Contains(v.line, " INVOKE ") {
			t.Errorf("event is %q", v.line)
		}
		v.let(t)
	}
	eventually(t, "the environment is idle", func() bool { return b.only().State == StateIdle })
}

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

// lines collects whole writes.
type lines struct {
	mu  sync.Mutex
	got []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, string(b))
	return len(b), nil
}

func TestOutputLineByLine(t *testing.T) {
	var out lines
	b := newBench(t)
	b.deploy(func(f *Function) { f.Output = &out })
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { b.invoke(order{Do: "print", Arg: "hello", N: 100}) })
	}
	both.Wait()
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(out.got); n != 200 || slices.ContainsFunc(out.got, func(s string) bool { return s != "hello\n" }) {
		t.Errorf("%d writes", n)
	}
}
