package adapter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
)

// TestDirectAppIsStartedAgain: an invocation that meets an app which has just
// died waits for the next one.
func TestDirectAppIsStartedAgain(t *testing.T) {
	address := deadAddress(t)
	w := newDirectWorldAt(t, "tcp", address, appproxy.Config{}, false)
	w.d.noticesEnd = true
	checked := make(chan struct{}, 1)
	starting := false
	w.d.app.check = func(ctx context.Context) error {
		if !starting { // the first check was of the app that is gone
			starting = true
			return nil
		}
		checked <- struct{}{}
		for w.dial(ctx) != nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	}
	w.d.proxy = &dyingApp{App: w.d.proxy, dies: func() { w.d.app.markDown(errors.New("app exited with status 3")) }}
	w.d.probe = func(context.Context) error {
		t.Error("an app whose end was noticed is asked")
		return nil
	}
	results := make(chan []byte, 1)
	go func() {
		result, err := w.handle(restEvent("POST", "/a", "x"), time.Minute)
		if err != nil {
			t.Error(err)
		}
		results <- result
	}()
	receive(t, checked, "the invocation to wait for the app")
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(echo)} //nolint:gosec // a test's app
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close() //nolint:errcheck // a test's end
	if r := w.parse(receive(t, results, "the result")); r.Body != "POST example.com /a x" {
		t.Errorf("result %+v", r)
	}
	w.wantLines()
}

// dyingApp dies with its first request.
type dyingApp struct {
	appproxy.App
	dies func()
	once sync.Once
}

func (a *dyingApp) Serve(w http.ResponseWriter, r *http.Request, s *appproxy.Scope) {
	a.once.Do(a.dies)
	a.App.Serve(w, r, s)
}

// TestDirectCrashNamesItsCause: what became of the process says more than what
// became of the connection.
func TestDirectCrashNamesItsCause(t *testing.T) {
	var w *directWorld
	w = newDirectWorld(t, func(http.ResponseWriter, *http.Request) {
		go w.d.app.markDown(errors.New("app exited with status 3"))
		panic(http.ErrAbortHandler)
	})
	w.d.noticesEnd = true
	if r := w.wantResult(restEvent("GET", "/", ""), time.Minute); r.StatusCode != 502 {
		t.Errorf("result %+v", r)
	}
	w.wantLines("error_type=LambdaDispatch.AppFailed|app exited with status 3")
}

// TestDirectAppEndsUnderARequest: one that may be repeated gets the app that
// comes after, once; any other may have been worked on.
func TestDirectAppEndsUnderARequest(t *testing.T) {
	for _, tt := range []struct {
		method string
		deaths int64
		status int
		seen   int64
	}{
		{"GET", 1, 200, 2},
		{"PUT", 1, 200, 2},
		{"GET", 2, 502, 2},
		{"POST", 1, 502, 1},
	} {
		t.Run(fmt.Sprintf("%s and %d deaths", tt.method, tt.deaths), func(t *testing.T) {
			var w *directWorld
			var seen atomic.Int64
			w = newDirectWorld(t, func(rw http.ResponseWriter, r *http.Request) {
				if seen.Add(1) > tt.deaths {
					echo(rw, r)
					return
				}
				w.d.app.markDown(errors.New("app exited with status 3"))
				panic(http.ErrAbortHandler)
			})
			w.d.noticesEnd = true
			if r := w.wantResult(restEvent(tt.method, "/", "body"), time.Minute); r.StatusCode != tt.status || seen.Load() != tt.seen {
				t.Errorf("the app saw %d requests, result %+v", seen.Load(), r)
			}
			if tt.status == 200 {
				w.wantLines()
			} else {
				w.wantLines("error_type=LambdaDispatch.AppFailed|app exited with status 3")
			}
		})
	}
}

// TestDirectAppIsGone: an app that Lambda has started is given up, which ends
// the environment.
func TestDirectAppIsGone(t *testing.T) {
	w := newDirectWorldAt(t, "tcp", deadAddress(t), appproxy.Config{}, false)
	if r := w.wantResult(restEvent("GET", "/", ""), time.Minute); r.StatusCode != 503 {
		t.Errorf("result %+v", r)
	}
	if err := receive(t, w.given, "the app to be given up"); !strings.Contains(err.Error(), "app stopped answering") {
		t.Error(err)
	}
	p := &process{app: w.d.app}
	if p.beyondRepair() == nil {
		t.Error("the environment is used again")
	}
}

// TestDirectAppComesBack: it refused a connection and takes the next.
func TestDirectAppComesBack(t *testing.T) {
	address := filepath.Join(t.TempDir(), "app.sock")
	w := newDirectWorldAt(t, "unix", address, appproxy.Config{}, false)
	srv := &http.Server{Handler: http.HandlerFunc(echo)} //nolint:gosec // a test's app
	defer srv.Close()                                    //nolint:errcheck // a test's end
	w.d.probe = func(ctx context.Context) error {
		ln, err := net.Listen("unix", address)
		if err != nil {
			t.Error(err)
		}
		go func() { _ = srv.Serve(ln) }()
		return nil
	}
	if r := w.wantResult(restEvent("POST", "/", "x"), time.Minute); r.Body != "POST example.com / x" {
		t.Errorf("result %+v", r)
	}
	w.wantLines()
}

// TestDirectAfterATimeout: an app that is merely slow serves the next
// invocation, and one that hangs is ended.
func TestDirectAfterATimeout(t *testing.T) {
	for name, tt := range map[string]struct {
		hangs, restarts bool
		timeout         time.Duration
		status          int
	}{
		"slow":                    {timeout: 30 * time.Second, status: 200},
		"hangs":                   {hangs: true, timeout: 100 * time.Millisecond, status: 503},
		"hangs, half of the time": {hangs: true, timeout: time.Hour, status: 503},
		"hangs, restarted":        {hangs: true, restarts: true, timeout: 100 * time.Millisecond, status: 200},
		"hangs, let":              {hangs: true, timeout: 0, status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newDirectWorld(t, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					<-r.Context().Done()
				}
				_, _ = io.WriteString(rw, "ok")
			})
			var asked atomic.Int32
			w.d.ask = func(ctx context.Context) error {
				asked.Add(1)
				if tt.hangs {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			w.d.cfg.HangTimeout, w.d.noticesEnd = tt.timeout, tt.restarts
			if r := w.wantResult(restEvent("GET", "/", ""), hurry); r.StatusCode != 200 || asked.Load() != 0 {
				t.Errorf("result %+v, asked %d times", r, asked.Load())
			}
			if r := w.wantResult(restEvent("GET", "/slow", ""), time.Second); r.StatusCode != 504 {
				t.Errorf("result %+v", r)
			}
			if r := w.wantResult(restEvent("GET", "/", ""), hurry); r.StatusCode != tt.status {
				t.Errorf("result %+v", r)
			}
			want := int32(1)
			if tt.timeout == 0 {
				want = 0
			}
			if n := asked.Load(); n != want {
				t.Errorf("asked %d times, want %d", n, want)
			}
			if gone := len(w.given) > 0; gone != (tt.hangs && tt.timeout > 0) {
				t.Errorf("given up: %v", gone)
			}
		})
	}
}

// TestDirectAppNeverReady: an app that hangs while it starts is ended, however
// short the invocations are that wait for it.
func TestDirectAppNeverReady(t *testing.T) {
	w := newDirectWorldAt(t, "tcp", deadAddress(t), appproxy.Config{}, false)
	w.d.app.check = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	w.d.cfg.HangTimeout = 100 * time.Millisecond
	for began := time.Now(); len(w.given) == 0; {
		if r := w.wantResult(restEvent("GET", "/", ""), 300*time.Millisecond); r.StatusCode != 503 {
			t.Fatalf("result %+v", r)
		}
		if time.Since(began) > patience {
			t.Fatal("the app is still waited for")
		}
	}
	if err := <-w.given; !strings.Contains(err.Error(), "app hangs: invocations have waited ") {
		t.Error(err)
	}
	if p := (&process{app: w.d.app}); p.beyondRepair() == nil {
		t.Error("the environment is used again")
	}
}

// TestDirectWaitedInVain: what counts as waiting in vain, and for how long.
func TestDirectWaitedInVain(t *testing.T) {
	timeUp, cancel := context.WithCancelCause(t.Context())
	cancel(errTimeUp)
	silent, unhealthy := errors.New("connection refused"), &unhealthyError{"http://app/", 500}
	ago := func(seconds int) time.Time { return time.Now().Add(-time.Duration(seconds) * time.Second) }
	for name, tt := range map[string]struct {
		timeout time.Duration
		wait    func(d *directHandler)
		given   bool
	}{
		"long enough": {10 * time.Second, func(d *directHandler) {
			d.waitedInVain(timeUp, d.app.downs(), ago(41), silent)
		}, true},
		"in all": {10 * time.Second, func(d *directHandler) {
			d.waitedInVain(timeUp, d.app.downs(), ago(30), silent)
			d.vain.until = ago(20) // what came between is not known
			d.waitedInVain(timeUp, d.app.downs(), ago(20), silent)
		}, true},
		"at once": {10 * time.Second, func(d *directHandler) {
			d.waitedInVain(timeUp, d.app.downs(), ago(30), silent)
			d.waitedInVain(timeUp, d.app.downs(), ago(30), silent)
		}, false},
		"for two apps": {10 * time.Second, func(d *directHandler) {
			d.waitedInVain(timeUp, d.app.downs(), ago(30), silent)
			d.app.markDown(errors.New("app exited with status 1"))
			d.waitedInVain(timeUp, d.app.downs(), ago(30), silent)
		}, false},
		"for one that answers": {10 * time.Second, func(d *directHandler) {
			d.waitedInVain(timeUp, d.app.downs(), ago(100), unhealthy)
		}, false},
		"shut down": {10 * time.Second, func(d *directHandler) {
			d.waitedInVain(t.Context(), d.app.downs(), ago(100), silent)
		}, false},
		"let": {0, func(d *directHandler) {
			d.waitedInVain(timeUp, d.app.downs(), ago(100), silent)
		}, false},
	} {
		w := newDirectWorldAt(t, "tcp", deadAddress(t), appproxy.Config{}, false)
		w.d.cfg.HangTimeout = tt.timeout
		tt.wait(w.d)
		if given := len(w.given) > 0; given != tt.given {
			t.Errorf("%s: given up %v, want %v", name, given, tt.given)
		}
	}
}
