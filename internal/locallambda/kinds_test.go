//go:build unix

package locallambda

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// event invokes asynchronously.
func (b *bench) event(o order) {
	b.t.Helper()
	out, err := b.client.Invoke(b.t.Context(), input(func(in *lambda.InvokeInput) {
		in.InvocationType, in.Payload = types.InvocationTypeEvent, marshal(o)
	}))
	if err != nil || out.StatusCode != http.StatusAccepted {
		b.t.Fatalf("%+v, %v", out, err)
	}
}

func TestKindsExcludeEachOther(t *testing.T) {
	for want, change := range map[string]func(*Function){
		"SnapStart and tenant isolation exclude": func(f *Function) { f.SnapStart, f.TenantIsolation = true, true },
		"SnapStart and several":                  func(f *Function) { f.SnapStart, f.MaxConcurrency = true, 2 },
		"SnapStart and provisioned concurrency":  func(f *Function) { f.SnapStart, f.Provisioned = true, true },
		"must not be negative":                   func(f *Function) { f.MaxConcurrency = -1 },
		"6 layers":                               func(f *Function) { f.Layers = make([]string, 6) },
	} {
		f := testFunction()
		change(&f)
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestProvisioned(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.Provisioned = true })
	if got := b.invoke(order{Do: "vars"}).Vars["AWS_LAMBDA_INITIALIZATION_TYPE"]; got != "provisioned-concurrency" {
		t.Errorf("initialisation type is %q", got)
	}
}

func (b *bench) invokeAs(tenant string, o order) (answer, error) {
	return b.invokeWith(o, func(in *lambda.InvokeInput) {
		if tenant != "" {
			in.TenantId = &tenant
		}
	})
}

func TestTenantsShareNoEnvironment(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.TenantIsolation, f.MaxEnvironments = true, 2 })
	pids := make(map[string]int)
	for _, tenant := range []string{"blue", "green", "blue", "green"} {
		a, err := b.invokeAs(tenant, order{Do: "header"})
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Header.Get("Lambda-Runtime-Aws-Tenant-Id"); got != tenant {
			t.Errorf("the runtime hears of tenant %q, want %q", got, tenant)
		}
		if pids[tenant] != 0 && pids[tenant] != a.PID {
			t.Errorf("%s ran in %d and %d", tenant, pids[tenant], a.PID)
		}
		pids[tenant] = a.PID
	}
	if pids["blue"] == pids["green"] {
		t.Error("two tenants ran in one environment")
	}
	for _, info := range b.Environments("app") {
		if info.PID != pids[info.Tenant] {
			t.Errorf("environment %+v, processes %v", info, pids)
		}
	}

	if _, err := b.invokeAs("", order{}); !isA[*types.InvalidParameterValueException](err) {
		t.Errorf("no tenant: %v", err)
	}
	// Five for every two that may be in use at once, idle ones included.
	for _, tenant := range []string{"c", "d", "e"} {
		if _, err := b.invokeAs(tenant, order{}); err != nil {
			t.Errorf("tenant %s: %v", tenant, err)
		}
	}
	if _, err := b.invokeAs("f", order{}); !isA[*types.TooManyRequestsException](err) {
		t.Errorf("one tenant too many: %v", err)
	}
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func TestSnapStart(t *testing.T) {
	b := newBench(t)
	g := newGate(t)
	b.deploy(env("RESTORE=ok", "SNAPSHOT_GATE="+g.address()), func(f *Function) { f.SnapStart = true })
	a := b.invoke(order{Do: "vars"})
	if got := a.Vars["AWS_LAMBDA_INITIALIZATION_TYPE"]; got != "snap-start" || a.Count != 1 {
		t.Errorf("initialisation type is %q, invocation %d", got, a.Count)
	}
	g.next().waitEnd(t) // the hooks have run
	if again := b.invoke(order{}); again.PID != a.PID {
		t.Errorf("ran in %d and %d", a.PID, again.PID)
	}

	b.deploy(func(f *Function) { f.SnapStart = true }) // a runtime that knows nothing of it
	b.invoke(order{})
}

func TestSnapStartFailures(t *testing.T) {
	for how, check := range map[string]func(error) bool{
		"error": isA[*types.SnapStartException],
		"crash": isA[*types.SnapStartException],
		"hang":  isA[*types.SnapStartTimeoutException],
	} {
		t.Run(how, func(t *testing.T) {
			b := newBench(t)
			g := newGate(t)
			b.deploy(env("RESTORE="+how, "SNAPSHOT_GATE="+g.address()), func(f *Function) {
				f.SnapStart, f.RestoreTimeout = true, 5*time.Second
				if how == "hang" {
					f.RestoreTimeout = 300 * time.Millisecond
				}
			})
			_, err := b.call(order{})
			if !check(err) {
				t.Errorf("got %v", err)
			}
			if how == "error" && !strings.Contains(err.Error(), "no database") {
				t.Errorf("got %v", err)
			}
			g.next().waitEnd(t)
			eventually(t, "the environment is gone", func() bool { return len(b.Environments("app")) == 0 })
			if len(g.arrived) > 0 {
				t.Error("it was tried again")
			}
		})
	}
}

// What the processes go through, and when.
func TestSnapStartPhases(t *testing.T) {
	hooks := func(before, after time.Duration) func(*fake) {
		return func(f *fake) {
			f.sleep(before)
			if err := f.ses.restoreNext(f.ctx); err != nil {
				return
			}
			f.stage.log("restored")
			f.sleep(after)
			f.serve(time.Second)
		}
	}
	bubble(t, "in time", hooks(time.Minute, 9999*time.Millisecond), func(t *testing.T, s *stage) {
		s.deploy(t, Function{SnapStart: true, Timeout: 3 * time.Second})
		s.invoke()
		s.expect(t, "200 at 1m10.999s", "0s start", "1m0s freeze", "1m0s thaw", "1m0s restored", "1m10.999s freeze")
	})
	bubble(t, "slow hooks", hooks(time.Minute, 11*time.Second), func(t *testing.T, s *stage) {
		s.deploy(t, Function{SnapStart: true})
		s.invoke()
		s.expect(t, "408 at 1m10s", "0s start", "1m0s freeze", "1m0s thaw", "1m0s restored", "1m10s kill")
	})
	bubble(t, "slow init", hooks(20*time.Minute, 0), func(t *testing.T, s *stage) {
		s.deploy(t, Function{SnapStart: true})
		if got := s.invoke(); !strings.Contains(got, "Init phase timed out after 900.00 seconds") {
			t.Error(got)
		}
		s.expect(t, "200 at 15m0s", "0s start", "15m0s kill")
	})
}

func TestRestoreOutOfTurn(t *testing.T) {
	s := newSession(sessionConfig{names: []string{"ext"}, snapStart: true})
	h := newProcessAPI(s, reference{name: "app"}, "")
	mustRegister(t, s, "ext")
	refused := func(what string, code int, path, kind string) {
		t.Helper()
		method := "POST"
		if strings.HasSuffix(path, "/next") {
			method = "GET"
		}
		w := call(h, method, path, "{}", headerExtensionName, "late")
		if w.Code != code || !strings.Contains(w.Body.String(), kind) {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	refused("an error before the snapshot", 403, runtimeBase+"/restore/error", "InvalidStateTransition")
	var waits sync.WaitGroup
	waits.Go(func() {
		if w := call(h, "GET", runtimeBase+"/restore/next", ""); w.Code != 200 {
			t.Errorf("restored with %d", w.Code)
		}
	})
	<-s.changed // the extension
	for !func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.restoring }() {
		<-s.changed
	}
	refused("an init error after the init phase", 403, runtimeBase+"/init/error", "InvalidStateTransition")
	refused("registration after the init phase", 403, extensionBase+"/register", "Extension.RegistrationClosed")
	s.resume()
	waits.Wait()
	refused("a second restore", 403, runtimeBase+"/restore/next", "InvalidStateTransition")
	if w := call(h, "POST", runtimeBase+"/restore/error", "{}", headerFunctionError, "Hook.Failed"); w.Code != http.StatusAccepted {
		t.Errorf("the hooks' error: %d %s", w.Code, w.Body)
	}
	if f := s.failed(); f == nil || f.kind != "Hook.Failed" {
		t.Errorf("failure is %v", f)
	}
}

// invokeWith is invoke with changes to the request.
func (b *bench) invokeWith(o order, change func(*lambda.InvokeInput)) (answer, error) {
	b.t.Helper()
	out, err := b.client.Invoke(b.t.Context(), input(func(in *lambda.InvokeInput) {
		in.Payload = marshal(o)
		change(in)
	}))
	if err != nil {
		return answer{}, err
	}
	var a answer
	if out.FunctionError != nil {
		b.t.Errorf("function error %s: %s", aws.ToString(out.FunctionError), out.Payload)
		return a, nil
	}
	return a, unmarshal(out.Payload, &a)
}
