package tests

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// checkServesDirectly sends a few events and looks at what comes back.
func (l *localLambda) checkServesDirectly(t *testing.T) {
	t.Helper()
	for i := range 3 {
		body := fmt.Sprintf("message %d", i)
		result, failed := l.invoke(t, urlEvent(http.MethodPost, "/echo", "", []byte(body)))
		if got := proxyResultOf(t, result); failed != "" || got.StatusCode != 200 || got.Body != body {
			t.Fatalf("event %d: %s%s", i, failed, result)
		}
	}
}

// In a container image: the adapter is a file in /opt/extensions, Lambda starts
// both, and the app is the function's process.
func TestAdapterAsExtension(t *testing.T) {
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--no-adapter", "--extension", adapterBin)
	l.checkServesDirectly(t)
}

// The adapter is in front of the app's command, and starts it again when it ends.
func TestAdapterAsWrapper(t *testing.T) {
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--max-environments", "1")
	l.checkServesDirectly(t)
	before := l.logs.count("listening on")
	var app int
	_, pid, _ := strings.Cut(l.logs.String(), "demo app: pid ")
	if _, err := fmt.Sscan(pid, &app); err != nil {
		t.Fatalf("no app in the log: %v", err)
	}
	if err := syscall.Kill(app, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// An event that reaches an app while it dies may have been worked on, so it
	// fails; those after it must not.
	await(t, "the app's death", func() bool { return isDead(app) })
	l.checkServesDirectly(t)
	if after := l.logs.count("listening on"); after != before+1 {
		t.Errorf("the app was started %d times after it was killed", after-before)
	}
}

// isDead reports whether nothing of a process is left but what its parent has
// to collect, so that its sockets are closed. The parent may be frozen.
func isDead(pid int) bool {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || len(tasks) == 1 && bytes.Contains(stat, []byte(") Z "))
}

// The layer that cmd/dist builds, for a zip function with a managed runtime,
// alone and behind another wrapper.
func TestAdapterAsLayer(t *testing.T) {
	dir := t.TempDir()
	dist := exec.Command("go", "run", "./cmd/dist", "-o", dir, "-arch", runtime.GOARCH)
	dist.Dir = root
	if out, err := dist.CombinedOutput(); err != nil {
		t.Fatalf("building the layer: %v\n%s", err, out)
	}
	code := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(code, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // a program of the test's
			t.Fatal(err)
		}
		return path
	}
	write("run.sh", "#!/bin/sh\nexec "+demoBin+"\n")
	other := write("other-wrapper", "#!/bin/sh\necho 'the other wrapper was here' >&2\nexec \"$@\"\n")

	flags := []string{"--listen", "127.0.0.1:0", "--no-adapter", "--layer", filepath.Join(dir, "lambdaadapter-layer-"+runtime.GOARCH+".zip"),
		"--dir", code, "--handler", "run.sh", "--env", "AWS_LAMBDA_EXEC_WRAPPER=/opt/bootstrap"}
	t.Run("alone", func(t *testing.T) {
		startLocalLambda(t, nil, flags...).checkServesDirectly(t)
	})
	t.Run("behind another wrapper", func(t *testing.T) {
		l := startLocalLambda(t, nil, append(flags, "--env", "LAMBDA_DISPATCH_EXEC_WRAPPER="+other)...)
		l.checkServesDirectly(t)
		if n := l.logs.count("the other wrapper was here"); n != 1 {
			t.Errorf("the other wrapper ran %d times", n)
		}
	})
	t.Run("dispatched to", func(t *testing.T) {
		l := startLocalLambda(t, nil, flags...)
		r := startCaddy(t, dispatch("callback {\n listen 127.0.0.1:0\n}", l.invoker()))
		checkAll(t, r.burst(20, "/delay?delay=10"))
	})
}

// An environment of Managed Instances takes several invocations at once.
func TestSeveralDirectEventsInOneEnvironment(t *testing.T) {
	const n = 4
	app := startRawApp(t)
	var together sync.WaitGroup // no request is answered before all are there
	together.Add(n)
	app.on("", func(x *appExchange) {
		x.readBody()
		together.Done()
		together.Wait()
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--max-environments", "1", "--max-concurrency", "4",
		"--env", fmt.Sprintf("LAMBDA_DISPATCH_PORT=%d", app.port()), "--env", "LAMBDA_DISPATCH_READINESS_PROTOCOL=tcp")
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			result, failed := l.invoke(t, urlEvent(http.MethodGet, fmt.Sprintf("/%d", i), "", nil))
			if got := proxyResultOf(t, result); failed != "" || got.Body != "ok" {
				t.Errorf("event %d: %s%s", i, failed, result)
			}
		})
	}
	all.Wait()
	if seen := app.saw(""); len(seen) != n {
		t.Errorf("the app saw %d of %d requests", len(seen), n)
	}
}

// SnapStart: the app is asked before the snapshot and after the restore, and
// nobody outside can do that in Lambda's place.
func TestSnapStartHooks(t *testing.T) {
	app := startRawApp(t)
	app.on("", reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--snap-start",
		"--env", fmt.Sprintf("LAMBDA_DISPATCH_PORT=%d", app.port()), "--env", "LAMBDA_DISPATCH_READINESS_PROTOCOL=tcp",
		"--env", "AWS_LWA_SNAPSTART_BEFORE_CHECKPOINT_PATH=/hooks/before", "--env", "AWS_LWA_SNAPSTART_AFTER_RESTORE_PATH=/hooks/after")
	result, failed := l.invoke(t, urlEvent(http.MethodGet, "/hello", "", nil))
	if got := proxyResultOf(t, result); failed != "" || got.Body != "ok" {
		t.Fatalf("%s%s", failed, result)
	}
	var starts []string
	for _, m := range app.saw("") {
		starts = append(starts, m.Start)
	}
	if got, want := strings.Join(starts, ", "), "POST /hooks/before, POST /hooks/after, GET /hello"; got != want {
		t.Errorf("the app saw %s, want %s", got, want)
	}
	for _, path := range []string{"/hooks/before", "/hooks/%61fter", "/hooks//before", "/x/../hooks/before", "/HOOKS/before", "/hooks/before;x=1"} {
		result, _ := l.invoke(t, urlEvent(http.MethodPost, path, "", nil))
		if got := proxyResultOf(t, result); got.StatusCode != http.StatusForbidden {
			t.Errorf("%s from outside: %s", path, result)
		}
	}
	if n := len(app.saw("")); n != 3 {
		t.Errorf("the app saw %d requests in the end", n)
	}
}

// Each tenant has environments of its own, and the app hears whose request it is.
func TestTenantsReachTheApp(t *testing.T) {
	app := startRawApp(t)
	app.on("", reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--tenant-isolation",
		"--env", fmt.Sprintf("LAMBDA_DISPATCH_PORT=%d", app.port()), "--env", "LAMBDA_DISPATCH_READINESS_PROTOCOL=tcp")
	for _, tenant := range []string{"blue", "green", "blue"} {
		out, err := l.sdk().Invoke(t.Context(), &lambda.InvokeInput{
			FunctionName: aws.String("app"), TenantId: aws.String(tenant),
			Payload: urlEvent(http.MethodGet, "/", "", nil, "X-Amz-Tenant-Id", "somebody-else"),
		})
		if err != nil || out.FunctionError != nil {
			t.Fatalf("%v, %s", err, out.Payload)
		}
		seen := app.saw("")
		if got := fieldValue(seen[len(seen)-1].Fields, "X-Amz-Tenant-Id"); got != tenant {
			t.Errorf("the app was told tenant %q, want %q", got, tenant)
		}
	}
	if _, err := l.sdk().Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("app"), Payload: []byte("{}")}); err == nil {
		t.Error("an invocation without a tenant was accepted")
	}
}

// A function that was configured for Lambda Web Adapter needs no change.
func TestDropInForLambdaWebAdapter(t *testing.T) {
	app := startRawApp(t)
	app.on("", func(x *appExchange) {
		x.readBody()
		if strings.HasPrefix(x.msg.Start, "GET /bad") {
			x.write("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad")
			return
		}
		x.write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
	})
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--no-adapter", "--extension", adapterBin,
		"--env", "AWS_LWA_READINESS_CHECK_PROTOCOL=TCP", "--env", fmt.Sprintf("AWS_LWA_READINESS_CHECK_PORT=%d", app.port()),
		"--env", "AWS_LWA_REMOVE_BASE_PATH=/prod/", "--env", "AWS_LWA_PASS_THROUGH_PATH=/jobs", "--env", "AWS_LWA_ASYNC_INIT=true",
		"--env", "AWS_LWA_AUTHORIZATION_SOURCE=x-auth", "--env", "AWS_LWA_ERROR_STATUS_CODES=500-504", "--env", "AWS_LWA_INVOKE_MODE=BUFFERED",
		"--env", "AWS_LWA_NO_SUCH_THING=1", "--env", fmt.Sprintf("LAMBDA_DISPATCH_PORT=%d", app.port()))

	result, failed := l.invoke(t, urlEvent(http.MethodGet, "/prod/orders", "a=1", nil, "X-Auth", "Bearer 1", "Authorization", "AWS4-HMAC-SHA256"))
	if got := proxyResultOf(t, result); failed != "" || got.Body != "ok" {
		t.Errorf("%s%s", failed, result)
	}
	result, failed = l.invoke(t, urlEvent(http.MethodGet, "/prod/bad", "", nil, "X-Auth", "Bearer 1"))
	if failed == "" || !strings.Contains(result, `{\"statusCode\":502,\"body\":\"bad\"}`) {
		t.Errorf("a status that is an error: %s%s", failed, result)
	}
	if result, failed = l.invoke(t, []byte(`{"Records":[{"eventSource":"aws:sqs"}]}`)); failed != "" {
		t.Errorf("%s%s", failed, result)
	}
	seen := app.saw("")
	if len(seen) != 3 || seen[0].Start != "GET /orders?a=1" || fieldValue(seen[0].Fields, "Authorization") != "Bearer 1" || seen[2].Start != "POST /jobs" {
		t.Errorf("the app saw %+v", seen)
	}
	if l.logs.count("AWS_LWA_NO_SUCH_THING") != 1 {
		t.Error("the unknown variable is not reported once")
	}
}
