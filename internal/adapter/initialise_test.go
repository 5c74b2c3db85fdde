package adapter

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// slowApp is not ready until it is told to be.
type slowApp struct {
	ready atomic.Bool
	asked chan struct{} // one for each time
}

func (a *slowApp) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a.asked <- struct{}{}
	if !a.ready.Load() {
		w.WriteHeader(http.StatusBadGateway)
	}
}

func (w *world) serveSlowApp() *slowApp {
	app := &slowApp{asked: make(chan struct{}, 10000)}
	w.serveApp(app)
	return app
}

// wantInitOpen checks that the initialisation goes on for as long as the app is
// not ready, and ends when it is. Meanwhile it is asked so often that well over
// 100 ms pass.
func (w *world) wantInitOpen(app *slowApp) {
	w.t.Helper()
	for range 15 {
		receive(w.t, app.asked, "readiness checks")
	}
	select {
	case <-w.lambda.waiting:
		w.t.Error("the initialisation ended without the app")
	case status := <-w.exit:
		w.t.Errorf("the adapter ended with status %d", status)
	default:
	}
	app.ready.Store(true)
	receive(w.t, w.lambda.waiting, "the initialisation's end")
}

func TestReadinessTimeoutFailsTheInit(t *testing.T) {
	for _, env := range [][]string{
		{"LAMBDA_DISPATCH_READINESS_TIMEOUT=100ms"},
		{"AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=0.1"},
		{"AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=0.1", "AWS_LWA_ASYNC_INIT=false"},
		{"AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=0.1", "AWS_LWA_ASYNC_INIT=true", "AWS_LAMBDA_INITIALIZATION_TYPE=snap-start"},
	} {
		w := newWorld(t)
		w.serveSlowApp()
		w.adapt(time.Now(), nil, env...)
		w.wantExit(1)
		e := receive(t, w.lambda.initErrors, "the error")
		if e.Type != "LambdaDispatch.AppNotReady" || !strings.Contains(e.Message, "answers with status 502") {
			t.Errorf("%q: error %+v", env, e)
		}
	}
}

// TestReadinessTimeoutIsNotForAsyncInit: LWA's meaning of both together.
func TestReadinessTimeoutIsNotForAsyncInit(t *testing.T) {
	w := newWorld(t)
	app := w.serveSlowApp()
	w.adapt(time.Now(), nil, "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=0.05", "AWS_LWA_ASYNC_INIT=true")
	w.wantInitOpen(app)
}

func TestAsyncInit(t *testing.T) {
	for _, env := range []string{"AWS_LWA_ASYNC_INIT=", "AWS_LWA_ASYNC_INIT=true"} {
		w := newWorld(t)
		app := w.serveSlowApp()
		w.adapt(time.Now().Add(-asyncInit), nil, env)
		receive(t, w.lambda.waiting, "the initialisation's end")
		if app.ready.Load() {
			t.Error("the app is ready")
		}
		if log := w.log(); !strings.Contains(log, "app is not ready, the first invocation will wait for it") {
			t.Errorf("%s: log %q", env, log)
		}
	}
}

func TestNoAsyncInit(t *testing.T) {
	for _, env := range [][]string{
		{"AWS_LWA_ASYNC_INIT=false"},
		{"AWS_LAMBDA_INITIALIZATION_TYPE=provisioned-concurrency"},
		{"AWS_LAMBDA_INITIALIZATION_TYPE=provisioned-concurrency", "LAMBDA_DISPATCH_ASYNC_INIT=true"},
		{"AWS_LAMBDA_INITIALIZATION_TYPE=lambda-managed-instances", "ASYNC_INIT=true"},
	} {
		w := newWorld(t)
		app := w.serveSlowApp()
		w.adapt(time.Now().Add(-asyncInit), nil, env...)
		w.wantInitOpen(app)
		ignored := strings.Contains(w.log(), "asynchronous initialisation is ignored")
		if asked := len(env) > 1; ignored != asked {
			t.Errorf("%q: said to be ignored: %v", env, ignored)
		}
	}
}

// TestReadyAtOnce: an app that is up is found with the first question.
func TestReadyAtOnce(t *testing.T) {
	w := newWorld(t)
	app := w.serveSlowApp()
	app.ready.Store(true)
	w.adapt(time.Now(), nil)
	receive(t, w.lambda.waiting, "the initialisation's end")
	if n := len(app.asked); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestSlowAppIsLogged: every two seconds, with what was wrong last.
func TestSlowAppIsLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	app := w.serveSlowApp()
	w.adapt(time.Now(), nil)
	for end := time.Now().Add(patience); !strings.Contains(w.log(), "waiting for the app"); {
		receive(t, app.asked, "readiness checks")
		if time.Now().After(end) {
			t.Fatal("nothing is logged")
		}
	}
	if log := w.log(); !strings.Contains(log, "waited=2.") || !strings.Contains(log, "answers with status 502") {
		t.Errorf("log %q", log)
	}
}
