package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// waitStreams waits until only the control stream is open.
func waitStreams(t testing.TB, p *pair) {
	t.Helper()
	e := p.Tunnel.(*tunnel).engine
	changed := make(chan struct{}, 1)
	e.Notify(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	for e.Streams() > 1 {
		wait(t, changed)
	}
	e.Notify(func() {})
}

// The app may answer with any status before it has read the body.
func TestFullDuplexWithErrorStatus(t *testing.T) {
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		p := connectPair(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(519)
			w.(http.Flusher).Flush()
			buf := make([]byte, 100)
			for {
				n, err := r.Body.Read(buf)
				if _, werr := w.Write(bytes.ToUpper(buf[:n])); werr != nil {
					t.Errorf("writing: %v", werr)
				}
				w.(http.Flusher).Flush()
				if err != nil {
					return
				}
			}
		}))
		pr, pw := io.Pipe()
		r := request(t, "POST", "/")
		r.Body, r.ContentLength = pr, -1
		resp, err := p.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 519 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		buf := make([]byte, 5)
		for range 100 {
			if _, err := io.WriteString(pw, "hello"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "HELLO" {
				t.Fatalf("got %q, %v", buf, err)
			}
		}
		_ = pw.Close()
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
			t.Errorf("got %q, %v at the end", rest, err)
		}
		_ = resp.Body.Close()
	})
}

func TestCancelReachesTheApp(t *testing.T) {
	started, cancelled := make(chan struct{}), make(chan struct{})
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.(http.Flusher).Flush()
		}
		started <- struct{}{}
		<-r.Context().Done()
		cancelled <- struct{}{}
	}))
	t.Run("before the response", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() {
			_, err := p.RoundTrip(requestCtx(ctx, t, "GET", "/"))
			errs <- err
		}()
		wait(t, started)
		cancel()
		wait(t, cancelled)
		if err := receive(t, errs); !errors.Is(err, context.Canceled) || !err.(*RoundTripError).Processed {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by closing the body", func(t *testing.T) {
		resp := make(chan *http.Response, 1)
		go func() {
			r, err := p.RoundTrip(request(t, "GET", "/body"))
			if err != nil {
				t.Error(err)
			}
			resp <- r
		}()
		wait(t, started)
		_ = receive(t, resp).Body.Close()
		wait(t, cancelled)
	})
	waitStreams(t, p)
	for start := time.Now(); p.session.InFlight() > 0; runtime.Gosched() {
		if time.Since(start) > patient {
			t.Fatalf("%d requests in flight", p.session.InFlight())
		}
	}
}

// A stalled stream must not stop its neighbours, in either direction.
func TestBackPressure(t *testing.T) {
	const streams = 10
	release := make(chan struct{})
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stall-down": // the router does not read
			buf := make([]byte, FrameSize)
			for {
				if _, err := w.Write(buf); err != nil {
					return
				}
			}
		case "/stall-up": // the app does not read
			w.(http.Flusher).Flush()
			<-release
		default:
			_, _ = io.Copy(w, r.Body)
		}
	}), func(c *DialConfig) { c.Ready.MaxConcurrent = streams + 1 })

	var stalled []io.Closer
	for range streams / 2 {
		resp, err := p.RoundTrip(request(t, "GET", "/stall-down"))
		if err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, resp.Body)

		r := request(t, "POST", "/stall-up")
		full := &stallWatch{full: make(chan struct{})}
		r.Body, r.ContentLength = full, -1
		if resp, err = p.RoundTrip(r); err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, resp.Body)
		wait(t, full.full) // its window is used up
	}
	big := strings.Repeat("x", 3*streamWindow)
	r := request(t, "POST", "/echo")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(big)), int64(len(big))
	if _, body := do(t, p, r); body != big {
		t.Error("echo was not equal")
	}
	for _, c := range stalled {
		_ = c.Close()
	}
	close(release)
	waitStreams(t, p)
}

// stallWatch is an endless body that tells when as much has been read as the
// window of a stream takes.
type stallWatch struct {
	n    int
	full chan struct{}
}

func (s *stallWatch) Read(p []byte) (int, error) {
	if s.n < streamWindow && s.n+len(p) >= streamWindow {
		close(s.full)
	}
	s.n += len(p)
	return len(p), nil
}

func (s *stallWatch) Close() error { return nil }

// The server ends the connection if the handlers of cancelled streams pile up;
// clients that leave while the app takes its time must not get near that.
func TestManyCancels(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 1000)
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
	}))
	for range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := p.RoundTrip(requestCtx(ctx, t, "GET", "/slow"))
			ended <- err
		}()
		select {
		case <-arrived:
		case <-time.After(5 * time.Millisecond): // all handlers that may run do
		}
		cancel()
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	close(release)
	do(t, p, request(t, "GET", "/"))
	waitStreams(t, p)
}
