package adapter

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// In virtual time: when the watch gives up an app, and when it does not.
func TestHangWatch(t *testing.T) {
	never := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	after := func(d time.Duration, err error) func(context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-time.After(d):
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	refused := errors.New("connection refused")
	tests := map[string]struct {
		waiting  int
		reads    time.Duration // between two bytes of the app; 0: none comes
		ask      func(context.Context) error
		stopped  func() bool
		timeout  time.Duration
		from, to time.Duration // when it is given up; 0: not within an hour
		says     string
	}{
		"hangs":                      {waiting: 1, ask: never, timeout: 30 * time.Second, from: 30 * time.Second, to: 38 * time.Second, says: "no answer"},
		"refuses":                    {waiting: 1, ask: after(0, refused), timeout: 30 * time.Second, from: 30 * time.Second, to: 38 * time.Second, says: "refused"},
		"nothing waits":              {ask: never, timeout: 30 * time.Second},
		"sends something":            {waiting: 1, reads: 20 * time.Second, ask: never, timeout: 30 * time.Second},
		"answers the check":          {waiting: 1, ask: after(0, nil), timeout: 30 * time.Second},
		"answers the check late":     {waiting: 1, ask: after(28*time.Second, nil), timeout: 30 * time.Second},
		"answers the check too late": {waiting: 1, ask: after(40*time.Second, nil), timeout: 30 * time.Second, from: 30 * time.Second, to: 38 * time.Second},
		"is off":                     {waiting: 1, ask: never},
		"is stopped":                 {waiting: 1, ask: never, stopped: func() bool { return true }, from: time.Second, to: 4 * time.Second, says: "stopped"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				h := &hangWatch{ask: tt.ask, stopped: tt.stopped, timeout: tt.timeout, tick: hangTick}
				h.activity = func() appproxy.Activity {
					a := appproxy.Activity{Waiting: tt.waiting, Reads: 7}
					if tt.reads > 0 {
						a.Reads += uint64(time.Since(began) / tt.reads)
					}
					return a
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := h.run(ctx)
				took := time.Since(began)
				if tt.to == 0 {
					if err != nil {
						t.Errorf("given up after %v: %v", took, err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.says) || took < tt.from || took > tt.to {
					t.Errorf("after %v: %v, want %q after %v to %v", took, err, tt.says, tt.from, tt.to)
				}
			})
		})
	}
}

// hangingApp answers everything but /hang, until it hangs altogether.
func hangingApp(t *testing.T) (app http.HandlerFunc, hang func()) {
	var hangs atomic.Bool
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/began" {
			_, _ = w.Write([]byte("part"))
			_ = http.NewResponseController(w).Flush()
		}
		if r.URL.Path != "/" || hangs.Load() {
			select {
			case <-r.Context().Done():
			case <-end:
			}
		}
	}, func() { hangs.Store(true) }
}

// TestHangingAppOfAnExtension: requests without an answer fail, begun answers
// are cut, and the environment ends, because only Lambda can start that app
// again.
func TestHangingAppOfAnExtension(t *testing.T) {
	w := newWorld(t)
	app, hang := hangingApp(t)
	w.serveApp(app)
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil, "LAMBDA_DISPATCH_APP_HANG_TIMEOUT=500ms")
	tun := w.tunnel(w.invoke(time.Minute))
	began, err := roundTrip(t, tun, "GET", "/began", nil)
	if err != nil {
		t.Fatal(err)
	}
	hang()
	_, err = roundTrip(t, tun, "POST", "/waiting", nil) //nolint:bodyclose // it fails
	if e, ok := errors.AsType[*tunnel.AdapterError](err); !ok || e.Code != tunnel.CodeAppFailed || !strings.Contains(e.Message, "app hangs") {
		t.Errorf("error %v, want %s", err, tunnel.CodeAppFailed)
	}
	if body, err := readAll(began); err == nil {
		t.Errorf("a cut answer looked complete: %q", body)
	}
	if r := w.wantReason(invoke.ReasonAppUnavailable); !strings.Contains(r.Error, "app hangs") {
		t.Errorf("result %+v", r)
	}
	w.wantExit(1)
	if n := strings.Count(w.log(), "app is given up"); n != 1 {
		t.Errorf("%d lines about it", n)
	}
}

// TestSlowAppIsNotGivenUp: it answers the readiness check.
func TestSlowAppIsNotGivenUp(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{}, 100)
	app, _ := hangingApp(t)
	w.serveApp(func() http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				asked <- struct{}{}
			}
			app(rw, r)
		}
	}())
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil, "LAMBDA_DISPATCH_APP_HANG_TIMEOUT=200ms")
	tun := w.tunnel(w.invoke(time.Minute))
	receive(t, asked, "the first check")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/waiting", nil)
		resp, err := tun.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	for range 4 { // each is at least a third of the timeout after the one before
		receive(t, asked, "another check")
	}
	select {
	case err := <-failed:
		t.Errorf("the slow request failed: %v", err)
	default:
	}
	cancel()
	<-failed
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
}

// TestStoppedApp: an app that is stopped is noticed within seconds, also where
// max_concurrent is 1, and is started again.
func TestStoppedApp(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux only")
	}
	w := newWorld(t)
	w.route(tunnel.ListenerConfig{})
	w.wrap("app")
	tun := w.tunnel(w.invoke(time.Minute, func(ev *invoke.Event) { ev.MaxConcurrent = 1 }))
	before := w.pid(tun)
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); !groupStopped(before); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the app did not stop")
		}
	}
	// A POST, because a GET would be sent once more, to an app that is gone.
	_, err := roundTrip(t, tun, "POST", "/", nil) //nolint:bodyclose // it fails
	if e, ok := errors.AsType[*tunnel.AdapterError](err); !ok || e.Code != tunnel.CodeAppFailed {
		t.Errorf("error %v, want %s", err, tunnel.CodeAppFailed)
	}
	if r := w.wantReason(invoke.ReasonAppUnavailable); !strings.Contains(r.Error, "stopped") {
		t.Errorf("result %+v", r)
	}
	tun = w.tunnel(w.invoke(time.Minute))
	if after := w.pid(tun); after == before {
		t.Error("the app " + strconv.Itoa(after) + " was not restarted")
	}
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
}

// TestUpgradeAtTheDeadline: what is still open then is ended, whatever the two
// ends do, and the result is in time.
func TestUpgradeAtTheDeadline(t *testing.T) {
	for _, appEndsFirst := range []bool{false, true} {
		w := newWorld(t)
		w.serveApp(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				return
			}
			c, _, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close() //nolint:errcheck // a test's end
			_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
			if appEndsFirst {
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			}
			_, _ = c.Read(make([]byte, 1))
		}))
		w.route(tunnel.ListenerConfig{})
		w.adapt(time.Now(), nil)
		const timeout = 3 * time.Second
		invoked := time.Now()
		tun := w.tunnel(w.invoke(timeout))
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
		resp, err := tun.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", resp, err)
		}
		w.wantReason(invoke.ReasonDeadline)
		if took := time.Since(invoked); took > timeout {
			t.Errorf("the result came after %v, the deadline was after %v", took, timeout)
		}
		_ = resp.Body.Close()
	}
}
