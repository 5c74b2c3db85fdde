package demoapp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// get sends a request to a fresh app and returns the complete response.
func get(t *testing.T, app http.Handler, target string) (*http.Response, string) {
	t.Helper()
	return do(t, app, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
}

func do(t *testing.T, app http.Handler, req *http.Request) (*http.Response, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	app.ServeHTTP(rec, req)
	resp := rec.Result()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestSimpleRoutes(t *testing.T) {
	app := New(Config{Environment: "2026/11/23/[$LATEST]abc"})
	for _, tc := range []struct {
		target      string
		status      int
		contentType string
		body        string
	}{
		{"/ping", 200, "text/plain; charset=utf-8", "pong"},
		{"/health", 200, "text/plain; charset=utf-8", "OK"},
		{"/delay?delay=1", 200, "text/plain; charset=utf-8", "delayed 1 ms\n"},
		{"/delay?delay=-1", 400, "text/plain; charset=utf-8", "delay: must be a whole number of milliseconds from 0 to 900000\n"},
		{"/delay?delay=soon", 400, "text/plain; charset=utf-8", "delay: must be a whole number of milliseconds from 0 to 900000\n"},
		{"/odd-status", 519, "text/plain; charset=utf-8", "a status that no standard defines\n"},
		{"/nowhere", 404, "text/plain; charset=utf-8", "404 page not found\n"},
	} {
		resp, body := get(t, app, tc.target)
		if resp.StatusCode != tc.status || body != tc.body {
			t.Errorf("%s: %d %q, want %d %q", tc.target, resp.StatusCode, body, tc.status, tc.body)
		}
		if ct := resp.Header.Get("Content-Type"); ct != tc.contentType {
			t.Errorf("%s: content type %q, want %q", tc.target, ct, tc.contentType)
		}
		if env := resp.Header.Get(EnvironmentHeader); env != "2026/11/23/[$LATEST]abc" {
			t.Errorf("%s: environment %q", tc.target, env)
		}
	}
}

func TestIndexShowsTheEnvironment(t *testing.T) {
	app := New(Config{Environment: "stream-<7>"})
	get(t, app, "/ping")
	resp, body := get(t, app, "/")
	if ct := resp.Header.Get("Content-Type"); ct != "text/html; charset=utf-8" {
		t.Errorf("content type %q", ct)
	}
	for _, want := range []string{"<dd>stream-&lt;7&gt;</dd>", "<dt>requests served by it</dt><dd>2</dd>", "</html>"} {
		if !strings.Contains(body, want) {
			t.Errorf("page lacks %q", want)
		}
	}
}

func TestEnvCountsRequestsButNotHealthChecks(t *testing.T) {
	app := New(Config{})
	get(t, app, "/ping")
	get(t, app, "/health")
	get(t, app, "/ping")
	_, body := get(t, app, "/env")
	var got info
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Requests != 3 || got.PID != os.Getpid() || got.App != "demo" || !strings.HasPrefix(got.Environment, "pid-") {
		t.Errorf("got %+v", got)
	}
}

func TestHeaders(t *testing.T) {
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/headers", nil)
	req.Header.Add("X-Twice", "a")
	req.Header.Add("X-Twice", "b")
	_, body := do(t, New(Config{}), req)
	var got map[string]string
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got["x-twice"] != "a, b" || got["host"] != "example.com" {
		t.Errorf("got %v", got)
	}
}

func TestImage(t *testing.T) {
	resp, body := get(t, New(Config{}), "/public/silly-test-image.jpg")
	if resp.ContentLength != ImageSize || len(body) != ImageSize {
		t.Fatalf("Content-Length %d, body of %d bytes, want %d", resp.ContentLength, len(body), ImageSize)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "image/jpeg" {
		t.Errorf("content type %q", ct)
	}
	picture, err := jpeg.Decode(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if size := picture.Bounds().Size(); size.X != imageWidth || size.Y != imageHeight {
		t.Errorf("picture of %v", size)
	}
}

func TestPad(t *testing.T) {
	file := []byte{0xff, 0xd8, 0xff, 0xd9} // start and end of image
	for size := range 10 {
		got := pad(file, size)
		switch possible := size == 4 || size >= 8; {
		case possible && len(got) != size:
			t.Errorf("size %d: got %d bytes", size, len(got))
		case !possible && got != nil:
			t.Errorf("size %d: got %x, want nothing", size, got)
		}
	}
	// Around the length at which one comment is not enough.
	for size := maxComment; size < maxComment+20; size++ {
		if got := pad(file, size); len(got) != size || !bytes.HasSuffix(got, file[2:]) {
			t.Errorf("size %d: got %d bytes", size, len(got))
		}
	}
}

func TestHealthWaitsForInitialisation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := New(Config{InitSleep: 3 * time.Second})
		begin := time.Now()
		if _, body := get(t, app, "/health"); body != "OK" {
			t.Errorf("body %q", body)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("first check took %v", took)
		}
		begin = time.Now()
		get(t, app, "/health")
		if took := time.Since(begin); took != 0 {
			t.Errorf("second check took %v", took)
		}
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := New(Config{})
		for target, want := range map[string]time.Duration{
			"/delay":             defaultDelay,
			"/delay?delay=0":     0,
			"/delay?delay=60000": time.Minute,
		} {
			begin := time.Now()
			get(t, app, target)
			if took := time.Since(begin); took != want {
				t.Errorf("%s took %v, want %v", target, took, want)
			}
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, body := do(t, app, httptest.NewRequestWithContext(ctx, http.MethodGet, "/delay?delay=60000", nil))
		if took := time.Since(begin); took != time.Second || body != "" {
			t.Errorf("abandoned request took %v and got %q", took, body)
		}
	})
}

// pipeListener accepts in-memory connections, which synctest can follow.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// TestChunkedResponse also shows that the server finishes a running request
// after it was told to stop.
func TestChunkedResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- serve(ctx, ln, New(Config{})) }()

		conn := ln.dial()
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /chunked-response HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		first, err := lines.ReadString('\n')
		if took := time.Since(begin); err != nil || first != "first line, sent at once\n" || took != 0 {
			t.Errorf("first line %q after %v: %v", first, took, err)
		}
		stop()
		last, err := lines.ReadString('\n')
		if took := time.Since(begin); err != nil || last != "last line, sent 5s later\n" || took != chunkedPause {
			t.Errorf("last line %q after %v: %v", last, took, err)
		}
		if _, err := lines.ReadByte(); err != io.EOF {
			t.Errorf("response does not end: %v", err)
		}
		if err := <-stopped; err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
}

// dial opens a connection to a fresh app, on which being too slow is an error.
func dial(t *testing.T) net.Conn {
	t.Helper()
	srv := httptest.NewServer(New(Config{}))
	t.Cleanup(srv.Close) // after the connection, which it would wait for
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestEchoWhileItArrives(t *testing.T) {
	conn := dial(t)
	send := func(s string) {
		t.Helper()
		if _, err := io.WriteString(conn, s); err != nil {
			t.Fatal(err)
		}
	}
	send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/x-odd\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "text/x-odd" {
		t.Errorf("content type %q", ct)
	}
	for _, word := range []string{"hello", "again"} {
		got := make([]byte, len(word))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != word {
			t.Fatalf("got %q, want %q: %v", got, word, err)
		}
		if word == "hello" {
			send("5\r\nagain\r\n")
		}
	}
	send("0\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("rest %q: %v", rest, err)
	}
}

func TestEchoLargeBody(t *testing.T) {
	srv := httptest.NewServer(New(Config{}))
	defer srv.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MB, more than any buffer on the way
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/echo", bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, sent %d: %v", len(got), len(sent), err)
	}
	if resp.ContentLength != int64(len(sent)) || resp.Header.Get("Content-Type") != "" {
		t.Errorf("Content-Length %d, Content-Type %q", resp.ContentLength, resp.Header.Get("Content-Type"))
	}
}

func TestEchoOfCutUploadIsCutToo(t *testing.T) {
	conn := dial(t)
	const head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("response %q looks complete", body)
	}
}

func TestRunRefusesBadSettings(t *testing.T) {
	busy, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, port, _ := net.SplitHostPort(busy.Addr().String())
	for _, tc := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{env: map[string]string{"PORT": port}, want: "address already in use"},
		{env: map[string]string{"INIT_SLEEP_MS": "x"}, want: "INIT_SLEEP_MS: must be a whole number"},
		{args: []string{"serve"}, want: `unexpected argument "serve"`},
		{args: []string{"-listen", "nowhere"}, want: "listening on nowhere"},
	} {
		err := run(t.Context(), tc.args, func(name string) string { return tc.env[name] }, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("args %q, environment %v: %v, want %q", tc.args, tc.env, err, tc.want)
		}
	}
}

func TestServeOverHTTP2(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- serve(ctx, ln, New(Config{})) }()

	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String()+"/ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "pong" || resp.ProtoMajor != 2 {
		t.Errorf("got %q over %s", body, resp.Proto)
	}
	tr.CloseIdleConnections()
	stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
