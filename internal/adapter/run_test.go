package adapter

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

func (w *world) wantExit(want int) {
	w.t.Helper()
	if got := receive(w.t, w.exit, "the adapter's end"); got != want {
		w.t.Errorf("exit status %d, want %d", got, want)
	}
}

// TestExtensionRegistersAndShutsDown: Lambda knows an external extension by the
// name of its file, whatever that is.
func TestExtensionRegistersAndShutsDown(t *testing.T) {
	for _, name := range []string{"lambdaadapter", "lambda-adapter"} {
		w := newWorld(t)
		w.name = "/opt/extensions/" + name
		w.serveApp(http.HandlerFunc(hello))
		w.adapt(time.Now(), nil)
		receive(t, w.lambda.waiting, "the adapter")
		w.lambda.mu.Lock()
		if want := []string{name + ` {"events":["SHUTDOWN"]}`}; !slices.Equal(w.lambda.registered, want) {
			t.Errorf("registered %q, want %q", w.lambda.registered, want)
		}
		w.lambda.mu.Unlock()
		w.lambda.shutdown <- "" // events that were not asked for are none of our business
		w.lambda.shutdown <- "spindown"
		w.wantExit(0)
		if log := w.log(); !strings.Contains(log, `msg="shutting down" reason=spindown`) {
			t.Errorf("log %q", log)
		}
	}
}

func TestShutdownWithinAnInvocation(t *testing.T) {
	for _, how := range []string{"event", "signal"} {
		w := newWorld(t)
		w.serveApp(http.HandlerFunc(hello))
		w.route(tunnel.ListenerConfig{})
		w.adapt(time.Now(), nil)
		tun := w.tunnel(w.invoke(time.Minute))
		if how == "event" {
			w.lambda.shutdown <- "timeout"
		} else {
			w.signals <- syscall.SIGTERM
		}
		receive(t, tun.Draining(), "the adapter to announce it")
		w.wantReason(invoke.ReasonShutdown)
		w.wantExit(0)
	}
}

func TestShutdownWhileWaitingForTheApp(t *testing.T) {
	w := newWorld(t)
	w.freePort()
	w.adapt(time.Now(), nil)
	w.lambda.shutdown <- "spindown"
	w.wantExit(0)
}

func TestShutdownBeforeTheTunnel(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{}, 1000)
	w.serveApp(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		rw.WriteHeader(http.StatusBadGateway)
	}))
	w.adapt(time.Now().Add(-asyncInit), nil)
	w.invoke(time.Minute)
	receive(t, w.lambda.waiting, "the adapter")
	receive(t, asked, "the invocation to wait for the app")
	w.lambda.shutdown <- "timeout"
	if r := w.wantReason(invoke.ReasonShutdown); r.Error != "" {
		t.Errorf("result %+v", r)
	}
	w.wantExit(0)
}

func TestInternalExtensionMayNotAskForEvents(t *testing.T) {
	w := newWorld(t)
	w.lambda.refuse[`lambdaadapter {"events":["SHUTDOWN"]}`] = lambdaapi.TypeInvalidEventType
	w.serveApp(http.HandlerFunc(hello))
	w.adapt(time.Now(), nil)
	receive(t, w.lambda.waiting, "the adapter")
	w.signals <- os.Signal(syscall.SIGTERM)
	w.wantExit(0)
	if want := `lambdaadapter {"events":[]}`; w.lambda.registered[1] != want {
		t.Errorf("registered %q, want %q second", w.lambda.registered, want)
	}
}

func TestRegistrationFails(t *testing.T) {
	w := newWorld(t)
	w.lambda.refuse[`lambdaadapter {"events":["SHUTDOWN"]}`] = lambdaapi.TypeRegistrationClosed
	w.freePort()
	w.adapt(time.Now(), nil)
	w.wantExit(1)
	if e := receive(t, w.lambda.initErrors, "the error"); !strings.Contains(e.Message, lambdaapi.TypeRegistrationClosed) {
		t.Errorf("error %+v", e)
	}
}

func TestBadConfiguration(t *testing.T) {
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(hello))
	w.adapt(time.Now(), nil, "LAMBDA_DISPATCH_PORT=http", "LAMBDA_DISPATCH_READINESS_PROTOCOL=icmp", "LAMBDA_DISPATCH_PROT=1")
	w.wantExit(1)
	e := receive(t, w.lambda.initErrors, "the error")
	for _, want := range []string{`LAMBDA_DISPATCH_PORT is "http"`, "65535", `LAMBDA_DISPATCH_READINESS_PROTOCOL is "icmp"`, "http or tcp"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("error %q should contain %q", e.Message, want)
		}
	}
	log := w.log()
	if strings.Count(log, "level=ERROR") != 1 {
		t.Errorf("want one error line in:\n%s", log)
	}
	if !strings.Contains(log, "level=WARN") || !strings.Contains(log, "name=LAMBDA_DISPATCH_PROT did_you_mean=LAMBDA_DISPATCH_PORT\n") {
		t.Errorf("no warning of an unknown name in:\n%s", log)
	}
}

func TestAppInThePlaceOfTheRuntimeAPI(t *testing.T) {
	w := newWorld(t)
	_, port, _ := strings.Cut(w.lambda.srv.Listener.Addr().String(), ":")
	w.adapt(time.Now(), nil, "AWS_LWA_PORT="+port)
	w.wantExit(1)
	if e := receive(t, w.lambda.initErrors, "the error"); !strings.Contains(e.Message, port+" is Lambda's own Runtime API") {
		t.Errorf("error %+v", e)
	}
}

func TestOutsideLambda(t *testing.T) {
	w := newWorld(t)
	w.adapt(time.Now(), nil, apiVariable+"=")
	w.wantExit(1)
	if log := w.log(); !strings.Contains(log, apiVariable) {
		t.Errorf("log %q", log)
	}
}

func TestArguments(t *testing.T) {
	tests := []struct {
		args    string
		command string
		status  int
		done    bool
	}{
		{"", "", 0, false},
		{"-- node server.js", "node server.js", 0, false},
		{"node --inspect", "node --inspect", 0, false},
		{"-- node -- x", "node -- x", 0, false},
		{"--", "", 2, true},
		{"--help", "", 0, true},
		{"--version", "", 0, true},
		{"--nonsense", "", 2, true},
	}
	for _, tt := range tests {
		var out strings.Builder
		command, status, done := parseArgs(strings.Fields(tt.args), &out, &out)
		if strings.Join(command, " ") != tt.command || status != tt.status || done != tt.done {
			t.Errorf("%q: %q %d %v", tt.args, command, status, done)
		}
		if done == (out.Len() == 0) {
			t.Errorf("%q prints %q", tt.args, out.String())
		}
	}
}
