package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// link is a connection in memory whose two directions can be cut: what is
// written is then lost, as on a network that drops packets.
type link struct {
	net.Conn
	mu  sync.Mutex
	cut bool // guarded by mu
}

func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

func (l *link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
}

// lostConn keeps the end of one side from the other, which packets that are
// dropped would do as well.
type lostConn struct{ *link }

func (l lostConn) Close() error {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return l.SetDeadline(time.Now()) // ends our own reads and writes
	}
	return l.Conn.Close()
}

// A vanished peer is noticed within 15 s by whoever hears nothing more, and
// what is in flight ends.
func TestPeerVanishes(t *testing.T) {
	for name, tt := range map[string]struct{ toRouter, toAdapter bool }{
		"both directions":   {true, true},
		"only to router":    {true, false},
		"only to adapter":   {false, true},
		"none, for control": {false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := newMemListener()
				l := listenOn(t, mem, ListenerConfig{})
				tunnels := l.expect(testID, testSecret)
				cfg := l.dialConfig(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.(http.Flusher).Flush()
					<-r.Context().Done()
				}))
				var near, far *link
				cfg.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					a, b := net.Pipe()
					near, far = &link{Conn: a}, &link{Conn: b}
					mem.conns <- lostConn{far}
					return lostConn{near}, nil
				}
				s, err := Dial(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				tunnel := receive(t, tunnels)
				resp, err := tunnel.RoundTrip(request(t, "GET", "/"))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour) // an idle tunnel lives
				if tunnel.Err() != nil || s.Err() != nil {
					t.Fatalf("ended with %v and %v", tunnel.Err(), s.Err())
				}
				if tt.toRouter {
					near.drop()
				}
				if tt.toAdapter {
					far.drop()
				}
				start := time.Now()
				if !tt.toRouter && !tt.toAdapter {
					time.Sleep(time.Minute)
					if tunnel.Err() != nil || s.Err() != nil {
						t.Errorf("ended with %v and %v", tunnel.Err(), s.Err())
					}
					_ = tunnel.Close()
				}
				<-tunnel.Done()
				<-s.Done()
				if took := time.Since(start); took > time.Minute+15*time.Second || (tt.toRouter || tt.toAdapter) && took > 15*time.Second {
					t.Errorf("noticed after %v", took)
				}
				if tt.toRouter && !errors.Is(tunnel.Err(), ErrPeerLost) {
					t.Errorf("router: ended with %v", tunnel.Err())
				}
				if tt.toAdapter && !errors.Is(s.Err(), ErrPeerLost) {
					t.Errorf("adapter: ended with %v", s.Err())
				}
				if _, err := io.ReadAll(resp.Body); err == nil {
					t.Error("the response looks complete")
				}
				_ = resp.Body.Close()
				_ = near.Conn.Close()
				_ = far.Conn.Close()
			})
		})
	}
}

// While a request waits, an adapter that says nothing is asked, suspected after
// 2 s, and lost after 6 s. One that only takes long is left alone, and one that
// is heard again is not suspected any more.
func TestSilenceWhileARequestWaits(t *testing.T) {
	const askedAndSuspect, lost = askAfter + suspectAfter, askAfter + defaultPingTimeout + 2*lookEvery
	for name, tt := range map[string]struct {
		silent time.Duration // the adapter is, from the request on
		want   []bool        // what Suspect says
		ends   bool
	}{
		"a long request": {0, nil, false},
		"a short break":  {askedAndSuspect - 100*time.Millisecond, nil, false},
		"a long break":   {askedAndSuspect + time.Second, []bool{true, false}, false},
		"for good":       {time.Hour, []bool{true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := newMemListener()
				l := listenOn(t, mem, ListenerConfig{})
				tunnels := l.expect(testID, testSecret)
				cfg := l.dialConfig(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/quick" {
						return
					}
					select {
					case <-time.After(30 * time.Second):
					case <-r.Context().Done():
					}
				}))
				cfg.PingInterval = time.Hour // it would notice that it cannot write
				var held *heldConn
				cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := mem.dial(ctx, network, addr)
					held = &heldConn{Conn: c, closed: make(chan struct{})}
					return held, err
				}
				s, err := Dial(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				tunnel := receive(t, tunnels)
				do(t, tunnel, request(t, "GET", "/quick"))
				time.Sleep(time.Minute) // no request: nobody is asked, nobody suspected
				if asTunnel(tunnel).watch.running.Load() {
					t.Error("an idle adapter is watched")
				}
				start := time.Now()
				held.hold(tt.silent)
				answered := make(chan error, 1)
				go func() {
					resp, err := tunnel.RoundTrip(request(t, "GET", "/"))
					if err == nil {
						_ = resp.Body.Close()
					}
					answered <- err
				}()
				for _, want := range tt.want {
					if got := <-tunnel.(Watched).Suspect(); got != want {
						t.Errorf("suspect is %v, want %v", got, want)
					}
					if took := time.Since(start); want && took > askedAndSuspect+lookEvery {
						t.Errorf("suspected after %v", took)
					}
				}
				if err := <-answered; (err != nil) != tt.ends {
					t.Errorf("the request ended with %v", err)
				}
				if took := time.Since(start); tt.ends && (took > lost || !errors.Is(tunnel.Err(), ErrPeerLost)) {
					t.Errorf("ended with %v after %v", tunnel.Err(), took)
				}
				select {
				case v := <-tunnel.(Watched).Suspect():
					t.Errorf("then suspect is %v", v)
				default:
				}
				_ = tunnel.Close()
				_ = held.Close()
				_ = s.Close()
				<-tunnel.Done()
			})
		})
	}
}

func asTunnel(t Tunnel) *tunnel { return t.(*tunnel) }

// heldConn is a connection on which nothing leaves for a while.
type heldConn struct {
	net.Conn
	until  atomic.Int64 // Unix time in ns
	closed chan struct{}
	once   sync.Once
}

func (h *heldConn) hold(d time.Duration) { h.until.Store(time.Now().Add(d).UnixNano()) }

func (h *heldConn) Write(p []byte) (int, error) {
	select {
	case <-time.After(time.Until(time.Unix(0, h.until.Load()))):
	case <-h.closed:
	}
	return h.Conn.Write(p)
}

func (h *heldConn) Close() error {
	h.once.Do(func() { close(h.closed) })
	return h.Conn.Close()
}

// A peer that answers but reads nothing must not hold a writer for ever.
func TestPeerDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := newConn(a)
		c.silence = time.Second
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Write(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			_ = c.Close()
		}()
		<-done
		if !errors.Is(c.err, ErrPeerLost) {
			t.Errorf("ended with %v", c.err)
		}
		_ = b.Close()
	})
}
