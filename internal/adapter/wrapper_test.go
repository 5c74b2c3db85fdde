package adapter

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// self is this binary as a command, in one of its roles.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// wrap starts an adapter that starts an app.
func (w *world) wrap(role string) {
	w.t.Helper()
	w.freePort()
	w.adapt(time.Now(), []string{"--", self(w.t)}, roleVariable+"="+role)
}

// marked waits for the app to have got a signal and returns its process ID.
func (w *world) marked(sig os.Signal) int {
	w.t.Helper()
	path := filepath.Join(w.marks, sig.String())
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 { //nolint:gosec // of this test
			pid, _ := strconv.Atoi(string(text))
			return pid
		}
	}
	w.t.Fatalf("the app did not get %v", sig)
	return 0
}

func (w *world) pid(tun tunnel.Tunnel) int {
	w.t.Helper()
	resp, err := roundTrip(w.t, tun, "GET", "/", nil)
	pid, err := strconv.Atoi(read(w.t, resp, err))
	if err != nil {
		w.t.Fatal(err)
	}
	return pid
}

func TestWrapper(t *testing.T) {
	w := newWorld(t)
	w.route(tunnel.ListenerConfig{})
	w.wrap("app")
	tun := w.tunnel(w.invoke(time.Minute))
	pid := w.pid(tun)
	if pid == os.Getpid() {
		t.Error("the app is not a process of its own")
	}
	if pgid, err := syscall.Getpgid(pid); err != nil || pgid != pid {
		t.Errorf("process group %d of process %d, %v", pgid, pid, err)
	}
	w.signals <- syscall.SIGHUP
	if got := w.marked(syscall.SIGHUP); got != pid {
		t.Errorf("process %d got SIGHUP, want %d", got, pid)
	}
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
	w.lambda.mu.Lock()
	if len(w.lambda.registered) != 1 || w.lambda.registered[0] != wrapperName+` {"events":[]}` {
		t.Errorf("registered %q", w.lambda.registered)
	}
	w.lambda.mu.Unlock()
	w.signals <- syscall.SIGTERM
	w.marked(syscall.SIGTERM)
	w.wantExit(0)
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("the app is still there")
	}
}

// TestWrappedAppForAWSsRuntimes starts an app that listens where AWS's own
// runtimes for web apps tell it to.
func TestWrappedAppForAWSsRuntimes(t *testing.T) {
	w := newWorld(t)
	w.route(tunnel.ListenerConfig{})
	port := strconv.Itoa(w.freePort())
	w.adapt(time.Now(), []string{"--", self(t)}, roleVariable+"=endpoint", "PORT=", "AWS_LWA_PORT="+port)
	tun := w.tunnel(w.invoke(time.Minute))
	if w.pid(tun) == os.Getpid() {
		t.Error("the app is not a process of its own")
	}
}

func TestWrapperRestartsTheApp(t *testing.T) {
	w := newWorld(t)
	w.route(tunnel.ListenerConfig{})
	w.wrap("app")
	tun := w.tunnel(w.invoke(time.Minute))
	before := w.pid(tun)
	if resp, err := roundTrip(t, tun, "GET", "/crash", nil); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a crash answered %d", resp.StatusCode)
	}
	receive(t, tun.Draining(), "the adapter to announce it")
	if r := w.wantReason(invoke.ReasonAppUnavailable); r.Error != "app exited with status 3" {
		t.Errorf("error %q", r.Error)
	}
	tun = w.tunnel(w.invoke(time.Minute))
	if after := w.pid(tun); after == before {
		t.Error("the app was not restarted")
	}
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
}

func TestWrappedAppKilled(t *testing.T) {
	w := newWorld(t)
	w.route(tunnel.ListenerConfig{})
	w.wrap("app")
	tun := w.tunnel(w.invoke(time.Minute))
	if err := syscall.Kill(w.pid(tun), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := w.wantReason(invoke.ReasonAppUnavailable); !strings.Contains(r.Error, "killed") {
		t.Errorf("error %q", r.Error)
	}
}

func TestWrappedAppExitsInTheInit(t *testing.T) {
	for role, want := range map[string]struct {
		message string
		status  int
	}{
		"exit5":   {"app exited with status 5", 5},
		"exit0":   {"app exited with status 0", 1}, // a success of the app's, but a failure of the function
		"sigkill": {"app was ended by signal: killed", 128 + 9},
	} {
		w := newWorld(t)
		w.wrap(role)
		w.wantExit(want.status)
		if e := receive(t, w.lambda.initErrors, "the error"); e.Message != want.message || e.Type != "LambdaDispatch.AppNotReady" {
			t.Errorf("error %+v, want %q", e, want.message)
		}
	}
}

func TestWrappedAppCannotBeStarted(t *testing.T) {
	w := newWorld(t)
	w.freePort()
	w.adapt(time.Now(), []string{"--", "/no/such/app"})
	w.wantExit(127)
	e := receive(t, w.lambda.initErrors, "the error")
	if !strings.HasPrefix(e.Message, "app cannot be started: ") || !strings.Contains(e.Message, "/no/such/app") {
		t.Errorf("error %+v", e)
	}
}

// TestAppDoesNotOutliveTheAdapter kills an adapter that cannot clean up.
func TestAppDoesNotOutliveTheAdapter(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux only")
	}
	w := newWorld(t)
	w.route(tunnel.ListenerConfig{})
	w.freePort()
	cmd := exec.Command(self(t), "--", self(t))
	cmd.Env = w.environ(roleVariable + "=adapter")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tun := w.tunnel(w.invoke(time.Minute))
	pid := w.pid(tun)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("the app is still there; adapter's log:\n%s", log.String())
		}
	}
	receive(t, tun.Done(), "the tunnel's end")
}

// zombie reports whether a process has ended without anybody taking note, as
// happens to orphans in a container without an init process.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestWrapperWithoutLambdaIsTheApp(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Unix only")
	}
	cmd := exec.Command(self(t), "--", "sh", "-c", "echo $$; exit 7")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), roleVariable + "=adapter"}
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 7 || strings.TrimSpace(string(out)) != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("output %q, %v; want the process ID %d and status 7", out, err, cmd.Process.Pid)
	}
}
