package adapter

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// fakeRestore is the part of the Runtime API that is about snapshots.
type fakeRestore struct {
	asked   chan struct{} // one for each call of restore/next
	restore chan struct{} // lets one return
	errors  chan lambdaapi.FunctionError
	status  int // of an answer without a snapshot; 0: there is one
}

func (f *fakeRestore) handle(mux *http.ServeMux) {
	f.asked, f.restore = make(chan struct{}, 4), make(chan struct{}, 4)
	f.errors = make(chan lambdaapi.FunctionError, 4)
	mux.HandleFunc("GET /2018-06-01/runtime/restore/next", func(w http.ResponseWriter, r *http.Request) {
		f.asked <- struct{}{}
		if f.status != 0 {
			w.WriteHeader(f.status)
			return
		}
		select {
		case <-f.restore:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("POST /2018-06-01/runtime/restore/error", func(w http.ResponseWriter, r *http.Request) {
		var e lambdaapi.FunctionError
		_ = json.NewDecoder(r.Body).Decode(&e)
		f.errors <- e
		w.WriteHeader(http.StatusAccepted)
	})
}

// hookedApp writes down what it is asked, and answers as its statuses say.
type hookedApp struct {
	mu     sync.Mutex
	asked  []string
	status map[string]int
}

func (a *hookedApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	what := r.Method + " " + r.URL.Path
	if r.ContentLength != 0 {
		what += " with a body"
	}
	a.asked = append(a.asked, what)
	if s := a.status[r.URL.Path]; s != 0 {
		w.WriteHeader(s)
	}
}

func (a *hookedApp) set(path string, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = map[string]int{path: status}
}

func (a *hookedApp) wasAsked(t *testing.T, want ...string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.asked, want) {
		t.Errorf("the app was asked %q, want %q", a.asked, want)
	}
}

// snap starts an adapter for a function with SnapStart.
func (w *world) snap(env ...string) *hookedApp {
	app := &hookedApp{}
	w.serveApp(app)
	w.adapt(time.Now(), nil, append([]string{
		"AWS_LAMBDA_INITIALIZATION_TYPE=snap-start",
		"AWS_LWA_SNAPSTART_BEFORE_CHECKPOINT_PATH=/before", "AWS_LWA_SNAPSTART_AFTER_RESTORE_PATH=/after",
	}, env...)...)
	return app
}

func TestSnapStart(t *testing.T) {
	w := newWorld(t)
	w.route(tunnel.ListenerConfig{})
	app := w.snap()
	receive(t, w.lambda.restore.asked, "the adapter to wait for the snapshot")
	app.wasAsked(t, "GET /", "POST /before")
	select {
	case <-w.lambda.waiting:
		t.Error("an invocation was asked for before the snapshot")
	default:
	}
	w.lambda.restore.restore <- struct{}{}
	receive(t, w.lambda.waiting, "the adapter to take invocations")
	app.wasAsked(t, "GET /", "POST /before", "POST /after", "GET /")

	tun := w.tunnel(w.invoke(time.Minute))
	for path, want := range map[string]int{"/x": 200, "/before": 403, "/x/..//%61FTER;v=1/": 403} {
		resp, err := roundTrip(t, tun, "POST", path, nil)
		if read(t, resp, err); resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", path, resp.StatusCode, want)
		}
	}
	app.wasAsked(t, "GET /", "POST /before", "POST /after", "GET /", "POST /x")
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
}

func TestHooksAreForSnapshotsOnly(t *testing.T) {
	w := newWorld(t)
	app := w.snap("AWS_LAMBDA_INITIALIZATION_TYPE=on-demand")
	receive(t, w.lambda.waiting, "the adapter to take invocations")
	app.wasAsked(t, "GET /")
}

func TestSnapStartWithoutHooks(t *testing.T) {
	w := newWorld(t)
	app := w.snap("AWS_LWA_SNAPSTART_BEFORE_CHECKPOINT_PATH=", "AWS_LWA_SNAPSTART_AFTER_RESTORE_PATH=")
	receive(t, w.lambda.restore.asked, "the adapter to wait for the snapshot")
	w.lambda.restore.restore <- struct{}{}
	receive(t, w.lambda.waiting, "the adapter to take invocations")
	app.wasAsked(t, "GET /", "GET /")
}

func TestBeforeCheckpointFails(t *testing.T) {
	w := newWorld(t)
	app := &hookedApp{}
	app.set("/before", http.StatusFound) // a redirect is no success
	w.serveApp(app)
	w.adapt(time.Now(), nil, "AWS_LAMBDA_INITIALIZATION_TYPE=snap-start", "AWS_LWA_SNAPSTART_BEFORE_CHECKPOINT_PATH=/before")
	w.wantExit(1)
	e := receive(t, w.lambda.initErrors, "the error")
	if e.Type != "LambdaDispatch.BeforeCheckpointFailed" || e.Message != "hook /before answers with status 302" {
		t.Errorf("error %+v", e)
	}
}

func TestAfterRestoreFails(t *testing.T) {
	for path, want := range map[string]lambdaapi.FunctionError{
		"/after": {Type: "LambdaDispatch.AfterRestoreFailed", Message: "hook /after answers with status 503"},
		"/":      {Type: "LambdaDispatch.AppNotReady", Message: "answers with status 503"},
	} {
		w := newWorld(t)
		app := w.snap("AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=0.2")
		receive(t, w.lambda.restore.asked, "the adapter to wait for the snapshot")
		app.set(path, http.StatusServiceUnavailable)
		w.lambda.restore.restore <- struct{}{}
		w.wantExit(1)
		e := receive(t, w.lambda.restore.errors, "the error")
		if e.Type != want.Type || !strings.Contains(e.Message, want.Message) {
			t.Errorf("%s: error %+v", path, e)
		}
	}
}

// TestNoSnapshot: emulators say that there will be one and take none.
func TestNoSnapshot(t *testing.T) {
	w := newWorld(t)
	w.lambda.restore.status = http.StatusNotFound
	app := w.snap()
	receive(t, w.lambda.waiting, "the adapter to take invocations")
	app.wasAsked(t, "GET /", "POST /before", "POST /after", "GET /")
	if !strings.Contains(w.log(), "lambda takes no snapshot") {
		t.Error("not logged")
	}
}

func TestSnapshotBreaks(t *testing.T) {
	w := newWorld(t)
	w.lambda.restore.status = http.StatusInternalServerError
	w.snap()
	w.wantExit(1)
}

func TestShutdownWhileWaitingForTheSnapshot(t *testing.T) {
	w := newWorld(t)
	w.snap()
	receive(t, w.lambda.restore.asked, "the adapter to wait for the snapshot")
	w.lambda.shutdown <- "spindown"
	w.wantExit(0)
}
