package adapter

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

func hello(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello "+r.URL.Path) }

func TestDispatch(t *testing.T) {
	identity, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]*tunnel.Identity{"plain": nil, "tls": identity} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.serveApp(http.HandlerFunc(hello))
			w.route(tunnel.ListenerConfig{Identity: id})
			w.adapt(time.Now(), nil)
			for range 2 { // the environment is used again
				tunnels := w.invoke(time.Minute)
				tun := w.tunnel(tunnels)
				ready := tun.Ready()
				if ready.MaxConcurrent != 10 || ready.FunctionVersion != "7" || ready.Environment != "2026/11/23/[$LATEST]abc" ||
					ready.Adapter == "" || time.Until(ready.Deadline) > time.Minute || time.Until(ready.Deadline) < 50*time.Second {
					t.Errorf("ready %+v", ready)
				}
				for range 3 {
					resp, err := roundTrip(t, tun, "GET", "/a", nil)
					if body := read(t, resp, err); body != "hello /a" {
						t.Errorf("body %q", body)
					}
				}
				tun.Drain("idle")
				if r := w.wantReason(invoke.ReasonDrained); r.Requests != 3 || r.Error != "" {
					t.Errorf("result %+v", r)
				}
			}
		})
	}
}

// TestVouchedHeadersThroughTheRouter: an app that believes the headers of direct
// events cannot be lied to by way of the router.
func TestVouchedHeadersThroughTheRouter(t *testing.T) {
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if slices.Contains(values, "evil") {
				_, _ = io.WriteString(w, name+" ")
			}
		}
		_, _ = io.WriteString(w, r.Header.Get("X-Amzn-Trace-Id")+r.Header.Get("X-Amzn-Other"))
	}))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	r := httptest.NewRequest("GET", "/a", nil)
	r.RequestURI = ""
	for _, name := range []string{"X-Amzn-Lambda-Context", "X-Amzn-Request-Context", "X-Amz-Tenant-Id", "X_amz_tenant_id", "X_Amzn_Trace_Id"} {
		r.Header[name] = []string{"evil"}
	}
	r.Header.Set("X-Amzn-Trace-Id", "Root=1")
	r.Header.Set("X-Amzn-Other", "!")
	resp, err := tun.RoundTrip(r)
	if body := read(t, resp, err); body != "Root=1!" {
		t.Errorf("the app sees %q", body)
	}
}

func TestDrainWaitsForRunningRequests(t *testing.T) {
	w := newWorld(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	w.serveApp(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-release
		}
		_, _ = io.WriteString(w, "done")
	}))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	bodies := make(chan string, 1)
	go func() {
		resp, err := roundTrip(t, tun, "GET", "/slow", nil)
		if err != nil {
			t.Error(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		bodies <- string(body)
	}()
	receive(t, arrived, "the request")
	tun.Drain("idle")
	receive(t, tun.Draining(), "the adapter to announce it")
	select {
	case e := <-w.lambda.ended:
		t.Fatalf("ended with a request running: %s", e.body)
	default:
	}
	close(release)
	if body := receive(t, bodies, "the answer"); body != "done" {
		t.Errorf("body %q", body)
	}
	w.wantReason(invoke.ReasonDrained)
}

func TestDeadline(t *testing.T) {
	w := newWorld(t)
	arrived, gone := make(chan struct{}), make(chan struct{})
	w.serveApp(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			return
		}
		close(arrived)
		<-r.Context().Done()
		close(gone)
	}))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	receive(t, w.lambda.waiting, "the adapter")
	const timeout = 5 * time.Second // so that cutting takes a while on a busy machine too
	deadline := time.Now().Add(timeout)
	tun := w.tunnel(w.invoke(timeout))
	failed := make(chan error, 1)
	go func() {
		resp, err := roundTrip(t, tun, "GET", "/slow", nil)
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	receive(t, arrived, "the request")
	receive(t, tun.Draining(), "the adapter to announce the deadline")
	if time.Now().After(deadline.Add(-200 * time.Millisecond)) {
		t.Error("announced late")
	}
	err := receive(t, failed, "the answer")
	if e, ok := errors.AsType[*tunnel.AdapterError](err); !ok || e.Code != tunnel.CodeAppTimeout {
		t.Errorf("error %v, want %s", err, tunnel.CodeAppTimeout)
	}
	receive(t, gone, "the app to notice")
	e := receive(t, w.lambda.ended, "the result")
	if e.at.After(deadline) {
		t.Errorf("result %v after the deadline", e.at.Sub(deadline))
	}
	if r, err := invoke.ParseResult(e.body); err != nil || r.Reason != invoke.ReasonDeadline {
		t.Errorf("result %s, %v", e.body, err)
	}
}

func TestRouterGone(t *testing.T) {
	w := newWorld(t)
	arrived, gone := make(chan struct{}), make(chan struct{})
	w.serveApp(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			return
		}
		close(arrived)
		<-r.Context().Done()
		close(gone)
	}))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if resp, err := roundTrip(t, tun, "GET", "/slow", nil); err == nil {
			_ = resp.Body.Close()
		}
	}()
	receive(t, arrived, "the request")
	_ = tun.Close()
	receive(t, gone, "the app to notice")
	if r := w.wantReason(invoke.ReasonRouterGone); r.Error == "" || r.Requests != 1 {
		t.Errorf("result %+v", r)
	}
	receive(t, ended, "the request's end")
}

func TestRouterUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(hello))
	w.adapt(time.Now(), nil)
	began := time.Now()
	w.invoke(time.Minute)
	r := w.wantReason(invoke.ReasonRouterUnreachable)
	if !strings.Contains(r.Error, "127.0.0.1:1") || !strings.Contains(r.Error, "refused") || strings.Contains(r.Error, "\n") {
		t.Errorf("error %q should name address and cause in one line", r.Error)
	}
	if took := time.Since(began); took < dialPatience/4 || took > dialPatience+time.Second {
		t.Errorf("gave up after %v", took)
	}
}

func TestRouterRefuses(t *testing.T) {
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(hello))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	w.invoke(time.Minute, func(ev *invoke.Event) { ev.Secret = make([]byte, 32) })
	if r := w.wantReason(invoke.ReasonRouterRefused); !strings.Contains(r.Error, w.listener.Addr().String()) {
		t.Errorf("error %q", r.Error)
	}
}

func TestBadEvents(t *testing.T) {
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(hello))
	w.adapt(time.Now(), nil)
	w.invokeWith(time.Minute, []byte(`{"lambda_dispatch":2,"instance":"x"}`))
	e := receive(t, w.lambda.ended, "the result")
	if r, err := invoke.ParseResult(e.body); err != nil || r.Reason != invoke.ReasonBadEvent || !strings.Contains(r.Error, "version 2") {
		t.Errorf("result %s, %v", e.body, err)
	}
	w.invoke(time.Minute, func(ev *invoke.Event) { ev.MaxConcurrent = 0 })
	if r := w.wantReason(invoke.ReasonBadEvent); !strings.Contains(r.Error, "max_concurrent") {
		t.Errorf("result %+v", r)
	}
}

func TestAppIsNotThere(t *testing.T) {
	w := newWorld(t)
	w.freePort()
	w.adapt(time.Now().Add(-asyncInit), nil)
	w.invoke(500 * time.Millisecond)
	r := w.wantReason(invoke.ReasonAppUnavailable)
	if !strings.Contains(r.Error, "refused") || !strings.Contains(r.Error, "127.0.0.1:") {
		t.Errorf("error %q", r.Error)
	}
}

// TestAppHangsWhileItStarts: the environment must not take one instance after
// the other that never is.
func TestAppHangsWhileItStarts(t *testing.T) {
	w := newWorld(t)
	w.freePort()
	w.adapt(time.Now().Add(-asyncInit), nil, "LAMBDA_DISPATCH_APP_HANG_TIMEOUT=50ms")
	w.invoke(time.Second)
	w.wantReason(invoke.ReasonAppUnavailable)
	if status := receive(t, w.exit, "the end of the environment"); status != 1 || !strings.Contains(w.log(), "ending the environment: app hangs") {
		t.Errorf("exit status %d", status)
	}
}

func TestAppBecomesReadyInTheFirstInvocation(t *testing.T) {
	w := newWorld(t)
	asked, ready := make(chan struct{}, 1000), make(chan struct{})
	w.serveApp(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case <-ready:
			hello(rw, r)
		default:
			asked <- struct{}{}
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now().Add(-asyncInit+50*time.Millisecond), nil)
	tunnels := w.invoke(time.Minute)
	receive(t, w.lambda.waiting, "the adapter to begin without the app")
	receive(t, asked, "the readiness check")
	close(ready)
	tun := w.tunnel(tunnels)
	resp, err := roundTrip(t, tun, "GET", "/", nil)
	read(t, resp, err)
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
}

func TestAppGoesAway(t *testing.T) {
	w := newWorld(t)
	srv := w.serveApp(http.HandlerFunc(hello))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	srv.Close()
	_, err := roundTrip(t, tun, "POST", "/", strings.NewReader("x")) //nolint:bodyclose // it fails
	if e, ok := errors.AsType[*tunnel.AdapterError](err); !ok || e.Code != tunnel.CodeAppUnavailable {
		t.Errorf("error %v, want %s", err, tunnel.CodeAppUnavailable)
	}
	if e, ok := errors.AsType[*tunnel.RoundTripError](err); !ok || e.Processed {
		t.Errorf("error %v, should say that the app saw nothing", err)
	}
	receive(t, tun.Draining(), "the adapter to announce it")
	if r := w.wantReason(invoke.ReasonAppUnavailable); !strings.Contains(r.Error, "refused") {
		t.Errorf("error %q", r.Error)
	}
}

// TestAppGoesAwaySlowly: it refuses connections and does not answer what it
// has taken.
func TestAppGoesAwaySlowly(t *testing.T) {
	w := newWorld(t)
	arrived := make(chan struct{})
	srv := w.serveApp(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-r.Context().Done()
		}
	}))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	failed := make(chan error, 1)
	go func() {
		resp, err := roundTrip(t, tun, "GET", "/slow", nil)
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	receive(t, arrived, "the request")
	_ = srv.Listener.Close()
	_, err := roundTrip(t, tun, "GET", "/", nil) //nolint:bodyclose // it fails
	if err == nil {
		t.Error("a closed port answered")
	}
	w.wantReason(invoke.ReasonAppUnavailable)
	if e, ok := errors.AsType[*tunnel.AdapterError](receive(t, failed, "the answer")); !ok || e.Code != tunnel.CodeAppFailed {
		t.Errorf("error %v, want %s", e, tunnel.CodeAppFailed)
	}
}

// TestDrainOfAnAppThatIsGone: the router, which was told that a request was not
// taken, lets the instance go before it is clear what the app does. The next
// invocation must find out.
func TestDrainOfAnAppThatIsGone(t *testing.T) {
	w := newWorld(t)
	srv := w.serveApp(http.HandlerFunc(hello))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	srv.Close()
	if _, err := roundTrip(t, tun, "GET", "/", nil); err == nil { //nolint:bodyclose // it fails
		t.Error("a closed port answered")
	}
	tun.Drain("request not taken")
	w.wantReason(invoke.ReasonDrained)
	w.invoke(time.Minute)
	if r := w.wantReason(invoke.ReasonAppUnavailable); !strings.Contains(r.Error, "app stopped answering") {
		t.Errorf("error %q", r.Error)
	}
	w.wantExit(1)
}

// TestConnectionsEndWithTheInvocation, because an app that was frozen finds
// them expired.
func TestConnectionsEndWithTheInvocation(t *testing.T) {
	w := newWorld(t)
	closed := make(chan struct{}, 10)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(hello))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			closed <- struct{}{}
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	w.port = srv.Listener.Addr().(*net.TCPAddr).Port
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	receive(t, closed, "the readiness check's end")
	resp, err := roundTrip(t, tun, "GET", "/", nil)
	read(t, resp, err)
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
	began := time.Now()
	receive(t, closed, "the connection's end")
	if time.Since(began) > time.Second {
		t.Error("the connection ended by its idle timeout")
	}
}

func TestUpgradeThroughTheTunnel(t *testing.T) {
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			return
		}
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close() //nolint:errcheck // a test's end
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, buf)
		_, _ = io.WriteString(c, "bye")
	}))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil)
	tun := w.tunnel(w.invoke(time.Minute))
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://example.com/", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := tun.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
		t.Fatalf("answer %d %v", resp.StatusCode, resp.Header)
	}
	rw := resp.Body.(interface {
		io.ReadWriteCloser
		CloseWrite() error
	})
	_, _ = io.WriteString(rw, "ping")
	got := make([]byte, 4)
	if _, err := io.ReadFull(rw, got); err != nil || string(got) != "ping" {
		t.Errorf("echo %q, %v", got, err)
	}
	_ = rw.CloseWrite()
	if rest, err := io.ReadAll(rw); err != nil || string(rest) != "bye" {
		t.Errorf("rest %q, %v", rest, err)
	}
	_ = rw.Close()
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
}

func TestTimesOf(t *testing.T) {
	now := time.Now()
	for _, left := range []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, time.Minute, 15 * time.Minute} {
		end := timesOf(now, now.Add(left))
		drain, cut := end.drain.Sub(now), end.cut.Sub(now)
		if drain >= cut || cut > left-100*time.Millisecond || drain < left/2 || left-drain > 15*time.Second {
			t.Errorf("of %v: drain after %v, cut after %v", left, drain, cut)
		}
	}
	if end := timesOf(now, time.Time{}); end.cut.Before(now.Add(14 * time.Minute)) {
		t.Error("no deadline should mean Lambda's longest")
	}
}
