package adapter

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// TestUnixSocket: readiness, hooks and traffic, over either protocol.
func TestUnixSocket(t *testing.T) {
	for _, protocol := range []string{"http1", "h2c"} {
		w := newWorld(t)
		w.route(tunnel.ListenerConfig{})
		socket := filepath.Join(t.TempDir(), "app")
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var asked []string
		srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked = append(asked, r.Method+" "+r.URL.Path+" of "+r.Host)
			mu.Unlock()
			hello(rw, r)
		})}}
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetHTTP1(protocol == "http1")
		srv.Config.Protocols.SetUnencryptedHTTP2(protocol == "h2c")
		srv.Start()
		t.Cleanup(srv.Close)
		w.adapt(time.Now(), nil, "LAMBDA_DISPATCH_APP_SOCKET="+socket, "LAMBDA_DISPATCH_APP_PROTOCOL="+protocol, "PORT=1",
			"AWS_LAMBDA_INITIALIZATION_TYPE=snap-start", "LAMBDA_DISPATCH_BEFORE_CHECKPOINT_PATH=/before")
		w.lambda.restore.restore <- struct{}{}
		tun := w.tunnel(w.invoke(time.Minute))
		resp, err := roundTrip(t, tun, "GET", "/x", nil)
		if body := read(t, resp, err); body != "hello /x" {
			t.Errorf("%s: body %q", protocol, body)
		}
		want := []string{"GET / of localhost", "POST /before of localhost", "GET / of localhost", "GET /x of example.com"}
		mu.Lock()
		if !slices.Equal(asked, want) {
			t.Errorf("%s: asked %q, want %q", protocol, asked, want)
		}
		mu.Unlock()
		// The app goes away, which is found out through its socket.
		_ = ln.Close()
		srv.CloseClientConnections()
		if resp, err = roundTrip(t, tun, "GET", "/x", nil); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s: status %d without an app", protocol, resp.StatusCode)
		}
		if r := w.wantReason(invoke.ReasonAppUnavailable); !strings.Contains(r.Error, socket) {
			t.Errorf("%s: error %q", protocol, r.Error)
		}
	}
}

// TestRuntimeAPIProxy: the runtime's calls go through it, and the extension's
// do not, because it does not know them.
func TestRuntimeAPIProxy(t *testing.T) {
	for _, scheme := range []string{"", "http://"} {
		w := newWorld(t)
		w.serveApp(http.HandlerFunc(hello))
		var mu sync.Mutex
		var seen []string
		target := &url.URL{Scheme: "http", Host: w.lambda.srv.Listener.Addr().String()}
		proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, r.URL.Path)
			mu.Unlock()
			httputil.NewSingleHostReverseProxy(target).ServeHTTP(rw, r)
		}))
		t.Cleanup(proxy.Close)
		w.adapt(time.Now(), nil, "AWS_LWA_LAMBDA_RUNTIME_API_PROXY="+scheme+proxy.Listener.Addr().String())
		receive(t, w.lambda.waiting, "the adapter")
		w.invoke(time.Minute, func(ev *invoke.Event) { ev.Router = "nonsense" })
		w.wantReason(invoke.ReasonBadEvent)
		receive(t, w.lambda.waiting, "the adapter")
		w.lambda.shutdown <- "spindown" // which comes to the extension
		w.wantExit(0)
		mu.Lock()
		for _, path := range seen {
			if !strings.HasPrefix(path, "/2018-06-01/runtime/invocation/") {
				t.Errorf("%s went through the proxy", path)
			}
		}
		if len(seen) < 3 {
			t.Errorf("the proxy has seen %q", seen)
		}
		mu.Unlock()
	}
}

// TestAppHearsWhereToListen in the two ways that web apps know.
func TestAppHearsWhereToListen(t *testing.T) {
	for env, want := range map[string]string{
		"":                                      "PORT=8080;AWS_LAMBDA_HTTP_ENDPOINT=127.0.0.1:8080",
		"PORT=3000":                             "PORT=3000;AWS_LAMBDA_HTTP_ENDPOINT=127.0.0.1:3000",
		"PORT=3000;AWS_LWA_PORT=4000":           "PORT=3000;AWS_LWA_PORT=4000;AWS_LAMBDA_HTTP_ENDPOINT=127.0.0.1:4000",
		"PORT=":                                 "PORT=;PORT=8080;AWS_LAMBDA_HTTP_ENDPOINT=127.0.0.1:8080",
		"AWS_LAMBDA_HTTP_ENDPOINT=0.0.0.0:3000": "AWS_LAMBDA_HTTP_ENDPOINT=0.0.0.0:3000;PORT=3000",
		"LAMBDA_DISPATCH_APP_SOCKET=/run/app":   "LAMBDA_DISPATCH_APP_SOCKET=/run/app",
		"AWS_LWA_HOST=::1":                      "AWS_LWA_HOST=::1;PORT=8080;AWS_LAMBDA_HTTP_ENDPOINT=[::1]:8080",
	} {
		var environ []string
		if env != "" {
			environ = strings.Split(env, ";")
		}
		cfg, _, err := ParseConfig(environ)
		if err != nil {
			t.Fatal(err)
		}
		p := &process{cfg: cfg, environ: environ, env: environment(environ)}
		if got := strings.Join(p.appEnviron(), ";"); got != want {
			t.Errorf("%q: %s, want %s", env, got, want)
		}
	}
}
