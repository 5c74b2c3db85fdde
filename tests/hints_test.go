package tests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// advice is a failure that a new user meets, and what the log says about it.
type advice struct {
	name   string
	answer http.HandlerFunc // of the Invoke API
	says   []string
}

func advices() []advice {
	return []advice{
		{"denied", awsError(403, "AccessDeniedException",
			`{"Message":"User: arn:aws:sts::123456789012:assumed-role/router/0123 is not authorized to perform: lambda:InvokeFunction on resource: arn:aws:lambda:us-east-1:123456789012:function:denied because no identity-based policy allows the lambda:InvokeFunction action"}`),
			[]string{"lambda:InvokeFunction on denied", "task role"}},
		{"endpoint", awsError(403, "AccessDeniedException",
			`{"Message":"User: arn:aws:sts::123456789012:assumed-role/router/0123 is not authorized to perform: lambda:InvokeFunction on resource: arn:aws:lambda:us-east-1:123456789012:function:endpoint because no VPC endpoint policy allows the lambda:InvokeFunction action"}`),
			[]string{"lambda:InvokeFunction on endpoint", "policy of the VPC endpoint for com.amazonaws.us-east-1.lambda"}},
		{"missing", awsError(404, "ResourceNotFoundException",
			`{"Type":"User","Message":"Function not found: arn:aws:lambda:us-east-1:123456789012:function:missing"}`),
			[]string{"region", "us-east-1"}},
		{"pending", awsError(409, "ResourceConflictException",
			`{"Type":"User","message":"The operation cannot be performed at this time. The function is currently in the following state: Pending"}`),
			[]string{"network interface", "get-function-configuration"}},
		{"reserved", awsError(429, "TooManyRequestsException",
			`{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}`),
			[]string{"reserved concurrency is 0 or used up"}},
		{"throttled", awsError(429, "TooManyRequestsException",
			`{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}`),
			[]string{"account's concurrency"}},
		{"processor", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			_, _ = io.WriteString(w, `{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: 1 Error: fork/exec /lambdaadapter: exec format error"}`)
		}, []string{"another processor", "architectures"}},
		{"timeout", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			_, _ = io.WriteString(w, `{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: 1 Error: Task timed out after 3.00 seconds"}`)
		}, []string{"--timeout 900"}},
	}
}

// Each failure of AWS is met again and again, and yields one line that says what
// to change.
func TestOneLineSaysWhatToChange(t *testing.T) {
	all := advices()
	answers := make(map[string]http.HandlerFunc)
	for _, a := range all {
		answers[a.name] = a.answer
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answers[strings.Split(r.URL.Path, "/")[3]](w, r)
	}))
	t.Cleanup(api.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	var site strings.Builder
	for _, a := range all {
		fmt.Fprintf(&site, "handle_path /%[1]s/* {\n lambda_dispatch %[1]s {\n max_instances 4\n max_concurrent 1\n queue_timeout 4s\n"+
			" callback {\n listen 127.0.0.1:0\n }\n invoker aws {\n region us-east-1\n endpoint %[2]s\n }\n }\n}\n", a.name, api.URL)
	}
	r := startCaddy(t, site.String())
	var clients sync.WaitGroup
	for _, a := range all {
		for range 4 {
			clients.Go(func() { _, _, _ = r.do(http.MethodGet, "/"+a.name+"/ping", nil) })
		}
	}
	clients.Wait()
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) {
			// The first failure of some is reason enough to start no other for a
			// while.
			r.await("a second failure", func() bool {
				_, _, _ = r.do(http.MethodGet, "/"+a.name+"/ping", nil)
				return r.closed(a.name) >= 2
			})
			checkAdvice(t, r, a.name, a.says)
		})
	}
}

// closed counts the instances of a pool that have been closed.
func (r *router) closed(pool string) (n int) {
	for _, e := range r.logs.lines("instance closed") {
		if e["pool"] == pool {
			n++
		}
	}
	return n
}

// checkAdvice wants one line about the pool with all of that.
func checkAdvice(t *testing.T, r *router, pool string, says []string) {
	t.Helper()
	var hints []string
	for _, e := range r.logs.lines("invocations fail") {
		if pool == "" || e["pool"] == pool {
			hint, _ := e["hint"].(string)
			hints = append(hints, hint)
		}
	}
	if len(hints) != 1 {
		t.Fatalf("%d lines say what to change: %q", len(hints), hints)
	}
	for _, s := range says {
		if !strings.Contains(hints[0], s) {
			t.Errorf("hint %q does not say %q", hints[0], s)
		}
	}
}

// deafAddress returns an address where packets vanish, as where a security group
// lets nothing through or a network leads nowhere. On Linux a socket whose
// queue is full hears nothing.
func deafAddress(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux drops what a full queue cannot take")
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for {
		c, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// Environments that behave as those that new users have.
func TestEnvironmentsThatCannotServe(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for timeouts of seconds")
	}
	alien := filepath.Join(t.TempDir(), "server") // starts as a program for arm64 does, and ends there
	if err := os.WriteFile(alien, append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...), 0o700); err != nil {
		t.Fatal(err)
	}
	deaf := deafAddress(t)
	for _, tc := range []struct {
		name string
		site []string
		says []string
	}{
		{"security group closed, or another VPC", []string{"callback {\n advertise " + deaf + "\n}", local("command " + demoBin)},
			[]string{deaf, "VPC", "security group"}},
		{"nobody listens there", []string{"callback {\n advertise 127.0.0.1:1\n}", local("command " + demoBin)},
			[]string{"127.0.0.1:1", "advertise"}},
		{"function timeout too short", []string{local(`command sh -c "sleep 30"`, "timeout 1s")},
			[]string{"not before the function's timeout", "900 s"}},
		{"adapter for another processor", []string{"invoker local {\n command " + demoBin + "\n adapter " + alien + "\n}"},
			[]string{"another processor"}},
		{"app crashes", []string{local(`command sh -c "exit 3"`)}, []string{"see what it printed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startCaddy(t, dispatch(append(tc.site, "min_instances 1")...))
			r.await("advice", func() bool { return len(r.logs.lines("invocations fail")) > 0 })
			checkAdvice(t, r, "", tc.says)
		})
	}
}

// Which part of the traffic crosses zones can be seen, and one line says where
// environments call back to.
func TestCrossZoneTrafficIsCounted(t *testing.T) {
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/2026-01-15/metadata/execution-environment" || r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"AvailabilityZoneID":"euc1-az3"}`)
	}))
	t.Cleanup(metadata.Close)
	r := startCaddy(t, dispatch("callback {\n zone euc1-az2\n}", local("command "+demoBin,
		"env AWS_LAMBDA_METADATA_API "+metadata.Listener.Addr().String(), "env AWS_LAMBDA_METADATA_TOKEN t0ken")))
	if status, body := r.get("/ping"); status != 200 {
		t.Fatalf("status %d, %s", status, body)
	}
	// The answer may be quicker than the line.
	r.await("the line about the instance", func() bool { return len(r.logs.lines("instance ready")) > 0 })
	if ready := r.logs.lines("instance ready"); len(ready) != 1 || ready[0]["zone"] != "euc1-az3" {
		t.Errorf("lines are %v", ready)
	}
	here := r.logs.lines("environments will call back here")
	if len(here) != 1 || here[0]["source"] != "listen" || here[0]["zone_id"] != "euc1-az2" || here[0]["address"] == "" {
		t.Errorf("lines are %v", here)
	}
	values := r.metrics()
	for _, direction := range []string{"in", "out"} {
		for zone, some := range map[string]bool{"cross": true, "same": false, "unknown": false} {
			name := fmt.Sprintf("tunnel_bytes_total{direction=%q,pool=\"app\",zone=%q}", direction, zone)
			if v, ok := values[name]; !ok || (v > 0) != some {
				t.Errorf("%s is %v (%v)", name, v, ok)
			}
		}
	}
}

// A router on Fargate tells environments the address of its task.
func TestAdvertiseAutoOnFargate(t *testing.T) {
	task := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"LaunchType":"FARGATE","AvailabilityZone":"eu-central-1b","Containers":[{"Networks":[
			{"NetworkMode":"awsvpc","IPv4Addresses":["10.0.1.117"],"IPv4SubnetCIDRBlock":"10.0.1.0/24"}]}]}`)
	}))
	t.Cleanup(task.Close)
	events := make(chan string, 10)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		events <- string(b)
		awsError(403, "AccessDeniedException", `{"Message":"no"}`)(w, r)
	}))
	t.Cleanup(api.Close)
	t.Setenv("ECS_CONTAINER_METADATA_URI_V4", task.URL+"/v4/id")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	r := startCaddy(t, dispatch("min_instances 1", "callback {\n listen :0\n zone eu-central-1b=euc1-az3\n}",
		"invoker aws {\n region eu-central-1\n endpoint "+api.URL+"\n}"))
	select {
	case ev := <-events:
		if !strings.Contains(ev, `"router":"10.0.1.117:`) {
			t.Error("the event does not name the task's address")
		}
	case <-time.After(patience):
		t.Fatal("no invocation")
	}
	here := r.logs.lines("environments will call back here")
	if len(here) != 1 || here[0]["source"] != "ecs" || here[0]["zone"] != "eu-central-1b" || here[0]["zone_id"] != "euc1-az3" {
		t.Errorf("lines are %v", here)
	}
}
