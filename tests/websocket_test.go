package tests

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
)

// webSocketProtocols are those in which clients can open a WebSocket: by an
// upgrade, or by an extended CONNECT (RFC 8441 and RFC 9220).
var webSocketProtocols = []string{"h1", "h1+tls", "h2", "h3"}

// eachWebSocket is each for them.
func (f *flow) eachWebSocket(t *testing.T, test func(t *testing.T, protocol, way, path string)) {
	f.each(t, func(t *testing.T, protocol, way, path string) {
		if slices.Contains(webSocketProtocols, protocol) {
			if testing.Short() && way != "lean" && way != "full-plain" {
				t.Skip("takes longer")
			}
			test(t, protocol, way, path)
		}
	})
}

// extendedConnect lets a client that knows the upgrade of HTTP/1.1 open
// WebSockets over HTTP/2 and 3.
type extendedConnect struct {
	next  http.RoundTripper
	major int
	body  *io.PipeWriter // of the last request
}

func (e *extendedConnect) RoundTrip(req *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	e.body = pw
	out := req.Clone(req.Context())
	out.Method, out.Body, out.ContentLength = http.MethodConnect, pr, -1
	key := out.Header.Get("Sec-WebSocket-Key")
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Key"} {
		out.Header.Del(name)
	}
	if e.major == 2 {
		out.Header[":protocol"] = []string{"websocket"}
	} else {
		out.Proto = "websocket"
	}
	resp, err := e.next.RoundTrip(out)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Accept"} {
		if v := resp.Header.Get(name); v != "" {
			return nil, fmt.Errorf("the answer to an extended CONNECT has %s: %s", name, v)
		}
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455 wants it
	resp.StatusCode = http.StatusSwitchingProtocols
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	resp.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	resp.Body = &connectStream{ReadCloser: resp.Body, w: pw}
	return resp, nil
}

// connectStream is the stream of an extended CONNECT as a connection.
type connectStream struct {
	io.ReadCloser
	w       *io.PipeWriter
	reading sync.Mutex // held while reading
}

func (c *connectStream) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.ReadCloser.Read(p)
}

func (c *connectStream) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c *connectStream) CloseWrite() error           { return c.w.Close() }

// Close ends the stream in order: closing its half that is read would reset it,
// and what was sent last could be lost.
func (c *connectStream) Close() error {
	go func() {
		_, _ = io.Copy(io.Discard, c)
		_ = c.ReadCloser.Close()
	}()
	return c.w.Close()
}

// webSocketClient returns what opens WebSockets in the protocol.
func (f *flow) webSocketClient(protocol string, dialed ...func(net.Conn)) http.RoundTripper {
	switch protocol {
	case "h2":
		return &extendedConnect{next: f.http2Transport(), major: 2}
	case "h3":
		return &extendedConnect{next: f.newClient("h3"), major: 3}
	default:
		return f.newClient(protocol, dialed...)
	}
}

// http2Transport is a client that sends extended CONNECTs.
//
//nolint:staticcheck // net/http's own does not
func (f *flow) http2Transport() http.RoundTripper {
	config := &tls.Config{ServerName: testHost, RootCAs: f.certificates, NextProtos: []string{"h2"}}
	tr := &http2.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
			return (&tls.Dialer{Config: config}).DialContext(ctx, network, f.secure)
		},
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// webSocket is both ends of a WebSocket.
type webSocket struct {
	client, app *websocket.Conn
	reset       func() // makes the client go without a word
}

// open opens a WebSocket.
func (f *flow) open(t *testing.T, protocol, way, path string) webSocket {
	t.Helper()
	accepted := make(chan *websocket.Conn, 1)
	f.app.on(path, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"b"}})
		if err != nil {
			t.Errorf("the app cannot accept: %v", err)
		}
		accepted <- c
	})
	scheme := "wss"
	if protocol == "h1" {
		scheme = "ws"
	}
	var conn net.Conn
	transport := f.webSocketClient(protocol, func(c net.Conn) { conn = c })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	limit := time.AfterFunc(patience, cancel)
	client, resp, err := websocket.Dial(ctx, scheme+"://"+testHost+path, &websocket.DialOptions{ //nolint:bodyclose // it is the connection
		HTTPClient:   &http.Client{Transport: transport},
		HTTPHeader:   http.Header{routeHeader: {way}},
		Subprotocols: []string{"a", "b"},
	})
	limit.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if p := resp.Header.Get("Sec-WebSocket-Protocol"); p != "b" {
		t.Errorf("the subprotocol is %q", p)
	}
	s := webSocket{client: client, app: awaited(t, "the app", accepted)}
	s.reset = func() {
		if e, ok := transport.(*extendedConnect); ok {
			cancel()
			_ = e.body.CloseWithError(context.Canceled) // resets the stream
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	for _, c := range []*websocket.Conn{s.client, s.app} {
		c.SetReadLimit(-1)
		t.Cleanup(func() { _ = c.CloseNow() })
	}
	return s
}

// soon is a context for what should not take long.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestWebSockets(t *testing.T) {
	f := startFlow(t, 10, variants...)

	t.Run("messages", func(t *testing.T) {
		f.eachWebSocket(t, func(t *testing.T, protocol, way, path string) {
			s := f.open(t, protocol, way, path)
			client, app := s.client, s.app
			ctx := soon(t)
			for i, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
				kind := []websocket.MessageType{websocket.MessageText, websocket.MessageBinary}[i%2]
				want := bytes.Repeat([]byte("x"), size)
				for _, ends := range [][2]*websocket.Conn{{client, app}, {app, client}} {
					sent := make(chan error, 1)
					go func() { sent <- ends[0].Write(ctx, kind, want) }()
					gotKind, got, err := ends[1].Read(ctx)
					if err != nil || gotKind != kind || !bytes.Equal(got, want) {
						t.Fatalf("%d bytes: got %v, %d bytes, %v", size, gotKind, len(got), err)
					}
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
				}
			}
			_ = client.CloseRead(ctx) // lets both answer pings
			_ = app.CloseRead(ctx)
			if err := errors.Join(client.Ping(ctx), app.Ping(ctx)); err != nil {
				t.Errorf("ping: %v", err)
			}
		})
	})

	t.Run("close codes", func(t *testing.T) {
		f.eachWebSocket(t, func(t *testing.T, protocol, way, path string) {
			for _, want := range []websocket.CloseError{
				{Code: websocket.StatusNormalClosure, Reason: "bye"},
				{Code: websocket.StatusGoingAway},
				{Code: websocket.StatusInternalError, Reason: strings.Repeat("ü", 61)}, // 123 bytes at most
				{Code: 4321, Reason: "mine"},
				{Code: websocket.StatusNoStatusRcvd}, // an empty Close frame
			} {
				for _, whose := range []string{"client", "app"} {
					s := f.open(t, protocol, way, path)
					from, to := s.client, s.app
					if whose == "app" {
						from, to = s.app, s.client
					}
					ctx := soon(t)
					closed := make(chan error, 1)
					go func() { closed <- from.Close(want.Code, want.Reason) }()
					_, _, err := to.Read(ctx)
					if got, ok := errors.AsType[websocket.CloseError](err); !ok || got != want {
						t.Errorf("the %s's %v arrived as %v", whose, want, err)
					}
					if err := <-closed; err != nil {
						t.Errorf("the %s's %v was not answered: %v", whose, want, err)
					}
				}
			}
		})
		f.await("the slots to be free", func() bool { return f.inFlight() == 0 })
	})

	// Who is gone without a word is seen as that at the other end.
	t.Run("abnormal ends", func(t *testing.T) {
		f.eachWebSocket(t, func(t *testing.T, protocol, way, path string) {
			var noticed, freed []time.Duration
			for range 5 {
				s := f.open(t, protocol, way, path)
				begin := time.Now()
				s.reset()
				if _, _, err := s.app.Read(soon(t)); err == nil || websocket.CloseStatus(err) != -1 {
					t.Errorf("the app got %v from a client that is gone", err)
				}
				noticed = append(noticed, time.Since(begin))
				f.await("the slot to be free", func() bool { return f.inFlight() == 0 })
				freed = append(freed, time.Since(begin))
				_ = s.app.CloseNow()
			}
			t.Logf("the app noticed after %v, the slot was free after %v", middle(noticed), middle(freed))
			if max(middle(noticed), middle(freed)) > 100*time.Millisecond {
				t.Error("that is too late")
			}
			s := f.open(t, protocol, way, path)
			_ = s.app.CloseNow()
			if _, _, err := s.client.Read(soon(t)); err == nil || websocket.CloseStatus(err) != -1 {
				t.Errorf("the client got %v from an app that is gone", err)
			}
		})
	})

	t.Run("the app refuses", func(t *testing.T) {
		f.eachWebSocket(t, func(t *testing.T, protocol, way, path string) {
			f.app.on(path, func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "not you", http.StatusForbidden)
			})
			req := f.request(t, protocol, way, http.MethodGet, path, nil)
			for k, v := range map[string]string{
				"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "MTIzNDU2Nzg5MDEyMzQ1Ng==",
			} {
				req.Header.Set(k, v)
			}
			resp, err := f.webSocketClient(protocol).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden || string(body) != "not you\n" || err != nil {
				t.Errorf("got %d, %q, %v", resp.StatusCode, body, err)
			}
		})
	})

	t.Run("many small messages", func(t *testing.T) {
		f.eachWebSocket(t, func(t *testing.T, protocol, way, path string) {
			const messages = 300
			s := f.open(t, protocol, way, path)
			client, app := s.client, s.app
			ctx := soon(t)
			go func() {
				for {
					kind, msg, err := app.Read(ctx)
					if err != nil || app.Write(ctx, kind, msg) != nil {
						return
					}
				}
			}()
			begin := time.Now()
			for i := range messages {
				want := fmt.Sprint("message ", i)
				if err := client.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := client.Read(ctx); err != nil || string(got) != want {
					t.Fatalf("got %q and %v", got, err)
				}
			}
			t.Logf("%v per round trip", time.Since(begin)/messages)
		})
	})
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// inFlight is how many slots are taken, in all pools.
func (f *flow) inFlight() (n int) {
	for name, v := range f.metrics() {
		if strings.HasPrefix(name, "requests_in_flight") {
			n += int(v)
		}
	}
	return n
}

// 100 MB cross in each direction at the same time, or as much as CI has time for.
func TestLargeWebSockets(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer")
	}
	f := startFlow(t, 10, "lean", "full-plain")
	for _, tc := range []struct {
		protocol, way string
		messages      int
	}{{"h1", "lean", 100}, {"h1+tls", "full-plain", 20}, {"h2", "lean", 100}, {"h3", "full-plain", 20}} {
		t.Run(tc.protocol+"/"+tc.way, func(t *testing.T) {
			const size = 1_000_000
			messages := tc.messages
			if os.Getenv(fullVar) != "" {
				messages = 100
			}
			s := f.open(t, tc.protocol, tc.way, "/"+t.Name())
			ctx := soon(t)
			begin := time.Now()
			done := make(chan error, 4)
			for _, c := range []*websocket.Conn{s.client, s.app} {
				go func() {
					msg := make([]byte, size)
					for i := range messages {
						fill(msg, uint64(i*size))
						if err := c.Write(ctx, websocket.MessageBinary, msg); err != nil {
							done <- fmt.Errorf("message %d: %w", i, err)
							return
						}
					}
					done <- nil
				}()
				go func() {
					done <- check(&messageReader{ctx: ctx, c: c, left: messages}, int64(messages)*size)
				}()
			}
			for range cap(done) {
				if err := awaited(t, "all messages", done); err != nil {
					t.Error(err)
				}
			}
			t.Logf("%s in each direction took %v", mb(int64(messages)*size), time.Since(begin).Round(time.Millisecond))
		})
	}
}

// messageReader reads the content of messages.
type messageReader struct {
	ctx  context.Context
	c    *websocket.Conn
	r    io.Reader
	left int
}

func (m *messageReader) Read(p []byte) (int, error) {
	for {
		if m.r == nil {
			if m.left == 0 {
				return 0, io.EOF
			}
			m.left--
			var err error
			if _, m.r, err = m.c.Reader(m.ctx); err != nil {
				return 0, err
			}
		}
		n, err := m.r.Read(p)
		if err == io.EOF { //nolint:errorlint // io.Reader's promise
			m.r, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}
