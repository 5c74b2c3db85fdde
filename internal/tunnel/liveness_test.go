package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
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
