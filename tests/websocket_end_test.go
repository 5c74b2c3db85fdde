package tests

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// socketsVar makes the test binary an app with WebSockets and with long
// requests in both directions.
const socketsVar = "LAMBDA_DISPATCH_TEST_SOCKETS"

func init() {
	if os.Getenv(socketsVar) == "" {
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pong") })
	mux.HandleFunc("/ws", echoSocket)
	mux.HandleFunc("/delay", func(_ http.ResponseWriter, r *http.Request) { pause(r, "delay") })
	mux.HandleFunc("/stream", streamParts)
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		sum := crc32.NewIEEE()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%d bytes, sum %08x", n, sum.Sum32())
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux)) //nolint:gosec // a test
	os.Exit(1)
}

// socketsApp is what the local Lambda runs.
func socketsApp(lines ...string) string {
	return local(append([]string{"command " + os.Args[0], "env " + socketsVar + " 1"}, lines...)...)
}

// echoSocket echoes messages, and says on its standard error how the connection
// ended.
func echoSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	for {
		kind, message, err := c.Read(context.Background())
		if err != nil {
			fmt.Fprintf(os.Stderr, "socket ended with %d\n", websocket.CloseStatus(err))
			return
		}
		if err := c.Write(context.Background(), kind, message); err != nil {
			fmt.Fprintln(os.Stderr, "socket broke")
			return
		}
	}
}

func pause(r *http.Request, parameter string) {
	ms, _ := strconv.Atoi(r.URL.Query().Get(parameter))
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
	case <-r.Context().Done():
	}
}

// streamParts sends lines at a pace, with a length if it is asked for one.
func streamParts(w http.ResponseWriter, r *http.Request) {
	parts, _ := strconv.Atoi(r.URL.Query().Get("parts"))
	const line = "%08d\n"
	if r.URL.Query().Has("length") {
		w.Header().Set("Content-Length", strconv.Itoa(parts*len(fmt.Sprintf(line, 0))))
	}
	for i := range parts {
		fmt.Fprintf(w, line, i)
		_ = http.NewResponseController(w).Flush()
		pause(r, "pause")
	}
}

// streamed is what streamParts sends.
func streamed(parts int) string {
	var all strings.Builder
	for i := range parts {
		fmt.Fprintf(&all, "%08d\n", i)
	}
	return all.String()
}

// dialer is where a site listens.
type dialer struct{ network, address string }

// unixSite is where the site listens that startCaddy makes.
func (r *router) unixSite() dialer { return dialer{"unix", r.dir + "/site.sock"} }

// host is what the site is called.
func (d dialer) host() string {
	if d.network == "unix" {
		return "localhost"
	}
	return d.address
}

// client returns a client that shares no connection with others.
func (d dialer) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, d.network, d.address)
		},
		DisableCompression: true,
	}}
}

// socket opens a WebSocket to the app.
func (r *router) socket(ctx context.Context, path string, site dialer) (*websocket.Conn, error) {
	c, _, err := websocket.Dial(ctx, "ws://"+site.host()+path, &websocket.DialOptions{ //nolint:bodyclose // the connection has it
		HTTPClient: site.client(),
	})
	return c, err
}

// talk has a message echoed.
func talk(ctx context.Context, c *websocket.Conn, message string) error {
	if err := c.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		// The reason is in what there is to read.
		if _, _, readErr := c.Read(ctx); readErr != nil {
			return readErr
		}
		return err
	}
	_, got, err := c.Read(ctx)
	if err != nil {
		return err
	}
	if string(got) != message {
		return fmt.Errorf("%q came back as %q", message, got)
	}
	return nil
}

// mustSocket opens a WebSocket that echoes.
func (r *router) mustSocket() *websocket.Conn {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	c, err := r.socket(ctx, "/ws", r.unixSite())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.CloseNow() })
	if err := talk(ctx, c, "hello"); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// ending waits for the end of a WebSocket and returns the status of its Close
// frame, -1 if there was none.
func (r *router) ending(c *websocket.Conn) websocket.StatusCode {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	_, message, err := c.Read(ctx)
	if err == nil {
		r.t.Fatalf("got %q", message)
	}
	if ctx.Err() != nil {
		r.t.Fatal("the WebSocket does not end")
	}
	return websocket.CloseStatus(err)
}

// heard reports whether the app's end of a WebSocket ended with the status.
func (r *router) heard(status websocket.StatusCode) func() bool {
	return func() bool { return strings.Contains(r.logs.String(), fmt.Sprintf("socket ended with %d", status)) }
}

// eachProxy runs a test with the plain proxy and with Caddy's.
func eachProxy(t *testing.T, test func(t *testing.T, option string)) {
	t.Run("lean", func(t *testing.T) { test(t, "") })
	t.Run("full", func(t *testing.T) { test(t, "header_up X-Any thing") })
}

// WebSockets outlive configurations for as long as one of them has their
// function, and end in order when the last has gone.
func TestWebSocketsSurviveReloads(t *testing.T) {
	eachProxy(t, func(t *testing.T, option string) {
		site := func(maxConcurrent int, option string) string {
			return dispatch(fmt.Sprintf("max_concurrent %d", maxConcurrent), option, socketsApp())
		}
		r := startCaddy(t, site(5, option))
		c := r.mustSocket()
		for i, option := range []string{option, "header_down X-Other thing", ""} {
			if status, body := r.load(site(6+i, option)); status != 200 {
				t.Fatalf("reload %d: status %d, %s", i, status, body)
			}
			if err := talk(t.Context(), c, "still there"); err != nil {
				t.Fatalf("after reload %d: %v", i, err)
			}
		}
		if status, body := r.load(`respond "other"`); status != 200 {
			t.Fatalf("status %d, %s", status, body)
		}
		if status := r.ending(c); status != websocket.StatusGoingAway {
			t.Errorf("when its function is not served any more it ends with %d", status)
		}
		r.await("the app to hear it", r.heard(websocket.StatusGoingAway))
		r.await("the pool to close", func() bool { return len(r.logs.lines("instance closed")) == 1 })
		if got := r.logs.lines("instance closed")[0]["result"]; got != "drained" {
			t.Errorf("the invocation ended with %v", got)
		}
	})
}

// A process that ends says goodbye, and does not wait for the grace period.
func TestWebSocketsEndInOrderAtShutdown(t *testing.T) {
	eachProxy(t, func(t *testing.T, option string) {
		r := startCaddy(t, dispatch(option, socketsApp()))
		c := r.mustSocket()
		start := time.Now()
		if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := r.ending(c); status != websocket.StatusGoingAway {
			t.Errorf("it ends with %d", status)
		}
		<-r.exited
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("Caddy took %v to exit", took)
		}
		if !r.heard(websocket.StatusGoingAway)() {
			t.Error("the app was not told")
		}
	})
}

// Before its instance is cut, a WebSocket ends in order: its client is told to
// come again, its app that the client leaves. Clients that open another one go
// on without a failed request.
func TestWebSocketsEndInOrderAtTheDeadline(t *testing.T) {
	if testing.Short() {
		t.Skip("takes one lifetime of 10 s")
	}
	eachProxy(t, func(t *testing.T, option string) {
		t.Parallel()
		r := startCaddy(t, dispatch(option, "max_concurrent 10", "min_instances 1", socketsApp("timeout 10s")))
		quiet, busy := r.mustSocket(), r.mustSocket()
		var messages atomic.Int64
		busyEnd := make(chan error, 1)
		go func() {
			large := strings.Repeat("x", 30_000) // several reads of the router
			for {
				if err := talk(t.Context(), busy, large); err != nil {
					busyEnd <- err
					return
				}
				messages.Add(1)
			}
		}()
		stop := r.send(load{clients: 2, path: "/delay?delay=20"})
		if status := r.ending(quiet); status != websocket.StatusServiceRestart {
			t.Errorf("a quiet one ends with %d", status)
		}
		if err := <-busyEnd; websocket.CloseStatus(err) != websocket.StatusServiceRestart {
			t.Errorf("a busy one ends with %v", err)
		}
		// Now, because the other instance does not live long either.
		if err := talk(t.Context(), r.mustSocket(), "on another instance"); err != nil {
			t.Error(err)
		}
		r.await("the app to hear it twice", func() bool {
			return strings.Count(r.logs.String(), "socket ended with 1001") >= 2
		})
		r.await("the instance to end", func() bool { return len(r.logs.lines("instance closed")) > 0 })
		for _, e := range r.logs.lines("instance closed") {
			if e["result"] != "drained" && e["result"] != "deadline" {
				t.Errorf("an invocation ended with %v", e)
			}
		}
		t.Logf("%d requests, %d messages", stop(), messages.Load())
	})
}

// When the environment dies, nothing may look as if the app had closed the
// connection.
func TestWebSocketOfAnEnvironmentThatDies(t *testing.T) {
	eachProxy(t, func(t *testing.T, option string) {
		r := startCaddy(t, dispatch(option, socketsApp()))
		c := r.mustSocket()
		for _, pid := range descendants(t, r.cmd.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if status := r.ending(c); status != -1 {
			t.Errorf("the client got a Close frame with %d", status)
		}
	})
}
