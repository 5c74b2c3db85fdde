//go:build unix

package locallambda

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
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
	b.deploy(env("MY_TOKEN=given", "PLAIN=function", "AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_NAME=forged"),
		func(f *Function) { f.Dir, f.Memory, f.Handler = dir, 512<<20, "main.handler" })
	vars := b.invoke(order{Do: "vars"}).Vars
	info := b.only()
	port := strconv.Itoa(info.AppPort)
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
