package tunnel

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests share one identity: making a key is the slowest part of a pair.
var testIdentity = func() *Identity {
	id, err := NewIdentity()
	if err != nil {
		panic(err)
	}
	return id
}()

const (
	testID  = "0123456789abcdef0123456789abcdef"
	patient = 10 * time.Second // for what must happen; nothing waits for it to pass
)

var testSecret = []byte("0123456789abcdef0123456789abcdef")

// rejected is what a listener's OnReject was called with.
type rejected struct {
	remote net.Addr
	err    error
}

// testListener is a listener that serves.
type testListener struct {
	*Listener
	rejects chan rejected
}

func listen(t testing.TB, cfg ListenerConfig) *testListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listenOn(t, ln, cfg)
}

func listenOn(t testing.TB, ln net.Listener, cfg ListenerConfig) *testListener {
	t.Helper()
	l := &testListener{rejects: make(chan rejected, 1024)}
	cfg.OnReject = func(remote net.Addr, err error) { l.rejects <- rejected{remote, err} }
	l.Listener = NewListener(ln, cfg)
	served := make(chan error, 1)
	go func() { served <- l.Serve() }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing listener: %v", err)
		}
		if err := <-served; err != ErrClosed {
			t.Errorf("Serve returned %v, want ErrClosed", err)
		}
	})
	return l
}

// rejection waits for the next rejected connection.
func (l *testListener) rejection(t testing.TB) *RejectError {
	t.Helper()
	select {
	case r := <-l.rejects:
		rej, ok := r.err.(*RejectError)
		if !ok {
			t.Fatalf("rejected with %T %v, want *RejectError", r.err, r.err)
		}
		return rej
	case <-time.After(patient):
		t.Fatal("nothing was rejected")
		return nil
	}
}

// expect announces an instance and returns where its tunnel will appear.
func (l *testListener) expect(id string, secret []byte) <-chan Tunnel {
	ch := make(chan Tunnel, 2)
	l.Expect(id, secret, func(t Tunnel) { ch <- t })
	return ch
}

func (l *testListener) dialConfig(h http.Handler) DialConfig {
	return DialConfig{
		Address:  l.Addr().String(),
		Pin:      l.Pin(),
		Instance: testID,
		Secret:   testSecret,
		Ready:    Ready{MaxConcurrent: 10},
		Handler:  h,
	}
}

// pair is a tunnel and its session.
type pair struct {
	Tunnel
	session *Session
}

// variants runs a test with TLS and without.
func variants(t *testing.T, f func(t *testing.T, cfg ListenerConfig)) {
	t.Run("tls", func(t *testing.T) { f(t, ListenerConfig{Identity: testIdentity}) })
	t.Run("plain", func(t *testing.T) { f(t, ListenerConfig{}) })
}

func connectPair(t testing.TB, lc ListenerConfig, h http.Handler, change ...func(*DialConfig)) *pair {
	t.Helper()
	l := listen(t, lc)
	tunnels := l.expect(testID, testSecret)
	cfg := l.dialConfig(h)
	for _, f := range change {
		f(&cfg)
	}
	s, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{Tunnel: receive(t, tunnels), session: s}
	t.Cleanup(func() {
		_ = p.Close()
		_ = s.Close()
		wait(t, p.Done())
	})
	return p
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patient):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

func wait(t testing.TB, ch <-chan struct{}) {
	t.Helper()
	receive(t, ch)
}

func request(t testing.TB, method, target string) *http.Request {
	t.Helper()
	return requestCtx(t.Context(), t, method, target)
}

func requestCtx(ctx context.Context, t testing.TB, method, target string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, "http://example.com"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
