package adapter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// patience is how long a test waits for what has to happen.
const patience = 15 * time.Second

// roleVariable makes this binary an app or an adapter of its own tests.
const roleVariable = "ADAPTER_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		goleak.VerifyTestMain(m)
	case "adapter":
		// The app that it starts is this binary, too.
		_ = os.Setenv(roleVariable, "app")
		os.Exit(Main(os.Args[1:]))
	default:
		os.Exit(testApp(role))
	}
}

// testApp is the app of the wrapper's tests.
func testApp(role string) int {
	if status, ok := strings.CutPrefix(role, "exit"); ok {
		n, _ := strconv.Atoi(status)
		return n
	}
	if role == "sigkill" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, os.Getpid()) })
	mux.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP)
	address := "127.0.0.1:" + os.Getenv("PORT")
	if role == "endpoint" {
		address = os.Getenv(httpEndpoint)
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return 1
	}
	go func() { _ = http.Serve(ln, mux) }() //nolint:gosec // a test's app
	for sig := range signals {
		mark := filepath.Join(os.Getenv("TEST_MARKS"), sig.String())
		_ = os.WriteFile(mark, []byte(strconv.Itoa(os.Getpid())), 0o600)
		if sig == syscall.SIGTERM {
			return 0
		}
	}
	return 0
}

// world is everything around an adapter.
type world struct {
	t        *testing.T
	lambda   *fakeLambda
	listener *tunnel.Listener
	marks    string // directory for the wrapper's app
	port     int    // of the app

	name    string // of the adapter's program
	exit    chan int
	signals chan os.Signal
	stderr  *os.File
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, name: "/opt/extensions/lambdaadapter", lambda: newFakeLambda(t), marks: t.TempDir(), exit: make(chan int, 1), signals: make(chan os.Signal, 1)}
}

// serveApp starts an app in this process.
func (w *world) serveApp(h http.Handler) *httptest.Server {
	srv := httptest.NewServer(h)
	w.t.Cleanup(srv.Close)
	w.port = srv.Listener.Addr().(*net.TCPAddr).Port
	return srv
}

// freePort reserves nothing, so it is for apps that are started soon.
func (w *world) freePort() int {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.port = ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	return w.port
}

// route starts the router's listener.
func (w *world) route(cfg tunnel.ListenerConfig) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.listener = tunnel.NewListener(ln, cfg)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = w.listener.Serve()
	}()
	w.t.Cleanup(func() {
		_ = w.listener.Close()
		<-served
	})
}

func (w *world) environ(extra ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"),
		apiVariable + "=" + w.lambda.srv.Listener.Addr().String(),
		"PORT=" + strconv.Itoa(w.port),
		"TEST_MARKS=" + w.marks,
		"AWS_LAMBDA_LOG_STREAM_NAME=2026/11/23/[$LATEST]abc",
		"AWS_LAMBDA_FUNCTION_VERSION=7",
		"AWS_LAMBDA_LOG_LEVEL=debug",
	}, extra...)
}

// adapt starts an adapter in this process. It ends with the test.
func (w *world) adapt(began time.Time, args []string, env ...string) {
	w.t.Helper()
	var err error
	if w.stderr, err = os.CreateTemp(w.t.TempDir(), "stderr"); err != nil {
		w.t.Fatal(err)
	}
	p := &process{began: began, name: w.name, environ: w.environ(env...), stdout: w.stderr, stderr: w.stderr}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.exit <- p.main(ctx, args, w.signals)
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
		if w.t.Failed() {
			w.t.Log("adapter's log:\n" + w.log())
		}
		_ = w.stderr.Close()
	})
}

func (w *world) log() string {
	text, _ := os.ReadFile(w.stderr.Name())
	return string(text)
}

// invoke starts an invocation and announces its instance to the listener.
func (w *world) invoke(deadline time.Duration, change ...func(*invoke.Event)) <-chan tunnel.Tunnel {
	w.t.Helper()
	router, pin := "127.0.0.1:1", ""
	if w.listener != nil {
		router, pin = w.listener.Addr().String(), w.listener.Pin()
	}
	ev := invoke.NewEvent("pool", router, pin, 10)
	tunnels := make(chan tunnel.Tunnel, 1)
	if w.listener != nil {
		w.t.Cleanup(w.listener.Expect(ev.Instance, ev.Secret, func(tun tunnel.Tunnel) { tunnels <- tun }))
	}
	for _, c := range change {
		c(&ev)
	}
	payload, err := json.Marshal(ev)
	if err != nil {
		w.t.Fatal(err)
	}
	w.invokeWith(deadline, payload)
	return tunnels
}

func (w *world) invokeWith(deadline time.Duration, payload []byte) {
	w.lambda.invocations <- lambdaapi.Invocation{RequestID: "r-1", Deadline: time.Now().Add(deadline), Event: payload}
}

// tunnel waits for the instance's tunnel.
func (w *world) tunnel(from <-chan tunnel.Tunnel) tunnel.Tunnel {
	w.t.Helper()
	tun := receive(w.t, from, "the tunnel")
	w.t.Cleanup(func() { _ = tun.Close() })
	return tun
}

// result waits for the invocation's result.
func (w *world) result() invoke.Result {
	w.t.Helper()
	e := receive(w.t, w.lambda.ended, "the invocation's end")
	if e.how != "response" {
		w.t.Fatalf("invocation ended with %s %s", e.how, e.body)
	}
	r, err := invoke.ParseResult(e.body)
	if err != nil {
		w.t.Fatal(err)
	}
	if r.Instance == "" || r.Environment != "2026/11/23/[$LATEST]abc" {
		w.t.Errorf("result %+v lacks instance or environment", r)
	}
	return r
}

func (w *world) wantReason(want invoke.Reason) invoke.Result {
	w.t.Helper()
	r := w.result()
	if r.Reason != want {
		w.t.Fatalf("result %+v, want reason %s", r, want)
	}
	return r
}

func roundTrip(t *testing.T, tun tunnel.Tunnel, method, path string, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://example.com"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return tun.RoundTrip(req)
}

func read(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

func readAll(resp *http.Response) (string, error) {
	defer resp.Body.Close() //nolint:errcheck // read to the end or broken
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
