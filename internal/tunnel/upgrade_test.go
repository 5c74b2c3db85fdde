package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func upgradeRequest(t testing.TB, path string) *http.Request {
	r := request(t, "GET", path)
	r.Header.Set("Connection", "keep-alive, Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Key", "x")
	return r
}

// upgraded is what a body is after status 101.
type upgraded interface {
	io.ReadWriteCloser
	CloseWrite() error
	Wait() error
}

func upgrade(t testing.TB, p Tunnel, path string) upgraded {
	t.Helper()
	resp, err := p.RoundTrip(upgradeRequest(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Status != "101 Switching Protocols" {
		t.Fatalf("status %q", resp.Status)
	}
	return resp.Body.(upgraded)
}

func TestUpgrade(t *testing.T) {
	upper := func(w http.ResponseWriter, r *http.Request) {
		want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Key": {"x"}}
		if !reflect.DeepEqual(r.Header, want) || r.Method != "GET" || r.ContentLength != 0 {
			t.Errorf("app got %s with %q and length %d", r.Method, r.Header, r.ContentLength)
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Sec-WebSocket-Accept", "y")
		w.WriteHeader(http.StatusSwitchingProtocols)
		buf := make([]byte, 1000)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				if _, err := w.Write(bytes.ToUpper(buf[:n])); err != nil {
					t.Errorf("writing: %v", err)
				}
			}
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(w, "bye")
	}
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		p := connectPair(t, cfg, http.HandlerFunc(upper))
		resp, err := p.RoundTrip(upgradeRequest(t, "/"))
		if err != nil {
			t.Fatal(err)
		}
		want := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": {"y"}}
		if resp.StatusCode != 101 || !reflect.DeepEqual(resp.Header, want) {
			t.Fatalf("got %d with %q", resp.StatusCode, resp.Header)
		}
		conn := resp.Body.(upgraded)
		buf := make([]byte, 5)
		for range 100 {
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "HELLO" {
				t.Fatalf("got %q, %v", buf, err)
			}
		}
		if err := conn.CloseWrite(); err != nil { // the client's direction ends, the app's goes on
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(conn); err != nil || string(rest) != "bye" {
			t.Errorf("got %q, %v after half-close", rest, err)
		}
		_ = conn.Close()
		waitStreams(t, p)
	})
}

func TestUpgradeHalfCloseByTheApp(t *testing.T) {
	got := make(chan string, 1)
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(101)
		_, _ = io.WriteString(w, "first ")
		_, _ = w.Write([]byte("last"))
		if err := CloseWrite(wrapped{w}); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("write after CloseWrite went well")
		}
		rest, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading on: %v", err)
		}
		got <- string(rest)
	}))
	conn := upgrade(t, p, "/")
	if b, err := io.ReadAll(conn); err != nil || string(b) != "first last" {
		t.Fatalf("got %q, %v", b, err)
	}
	more := strings.Repeat("more", 50_000)
	for range 5 { // the other direction is still open
		if _, err := io.WriteString(conn, more); err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.CloseWrite()
	if err := conn.Wait(); err != nil {
		t.Errorf("waiting for the end: %v", err)
	}
	_ = conn.Close() // now it cannot do harm
	if b := receive(t, got); b != strings.Repeat(more, 5) {
		t.Errorf("app got %d bytes", len(b))
	}
}

func TestUpgradeCut(t *testing.T) {
	ended := make(chan error, 1)
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(101)
		if r.URL.Path == "/abort" {
			_, _ = io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		}
		_, err := io.ReadAll(r.Body)
		ended <- err
	}))
	t.Run("by the app", func(t *testing.T) {
		conn := upgrade(t, p, "/abort")
		if b, err := io.ReadAll(conn); err == nil {
			t.Errorf("%q looks complete", b)
		}
		_ = conn.Close()
	})
	t.Run("by the client", func(t *testing.T) {
		conn := upgrade(t, p, "/")
		_ = conn.Close()
		if err := receive(t, ended); err == nil {
			t.Error("the app saw an orderly end")
		}
		if _, err := conn.Write([]byte("x")); err == nil {
			t.Error("write after Close went well")
		}
	})
	t.Run("by the tunnel", func(t *testing.T) {
		conn := upgrade(t, p, "/")
		_ = p.Close()
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("read ended with %v", err)
		}
		receive(t, ended)
		_ = conn.Close()
	})
}

func TestUpgradeRefused(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil && len(b) > 0 {
			t.Errorf("request has the body %q", b)
		}
		w.WriteHeader(http.StatusUpgradeRequired)
		_, _ = io.WriteString(w, "no")
	}))
	r := upgradeRequest(t, "/")
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "no" || resp.StatusCode != 426 {
		t.Errorf("got %d %q, %v", resp.StatusCode, b, err)
	}
	_ = resp.Body.Close()
	waitStreams(t, p)
}

// A body would come before the upgrade, which no client does; such a request
// goes without its Upgrade.
func TestUpgradeWithBody(t *testing.T) {
	ch := make(chan seen, 1)
	p := connectPair(t, ListenerConfig{}, recorder(ch))
	r := upgradeRequest(t, "/")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 4
	do(t, p, r)
	if got := receive(t, ch); got.Body != "body" || got.Header.Get("Upgrade") != "" {
		t.Errorf("app got %+v", got)
	}
}

func TestUpgradeNotAskedFor(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(101)
	}))
	_, err := p.RoundTrip(request(t, "GET", "/"))
	if ae, ok := errors.AsType[*AdapterError](err); !ok || ae.Code != CodeAppFailed {
		t.Errorf("got %v", err)
	}
}

func TestUpgradeLarge(t *testing.T) {
	const size = 8 << 20
	p := connectPair(t, ListenerConfig{Identity: testIdentity}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(101)
		_, _ = io.CopyBuffer(struct{ io.Writer }{w}, r.Body, make([]byte, FrameSize))
	}))
	conn := upgrade(t, p, "/")
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	go func() {
		_, _ = conn.Write(data)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	_ = conn.Close()
}

// What is written in any pieces is read in any other, and ends where it ends.
func TestChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 300)).Draw(t, "pieces")
		var wire, want bytes.Buffer
		w := &chunkWriter{w: &wire, flush: func() error { return nil }}
		for _, p := range pieces {
			want.Write(p)
			if n, err := w.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		complete := rapid.Bool().Draw(t, "complete")
		if complete {
			if err := w.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		r := newChunkReader(&wire)
		var got []byte
		var err error
		for err == nil {
			buf := make([]byte, rapid.IntRange(1, 200).Draw(t, "read"))
			var n int
			n, err = r.Read(buf)
			got = append(got, buf[:n]...)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("got %d bytes, want %d", len(got), want.Len())
		}
		if wantErr := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[complete]; err != wantErr {
			t.Fatalf("ended with %v, want %v", err, wantErr)
		}
	})
}
