package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memListener is a listener in memory, for tests whose time is not real.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	close(l.closed)
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{} }

// dial returns the other end of a connection that the listener accepts.
func (l *memListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Neither silence nor a hello that comes in drops keeps a connection open.
func TestSlowHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMemListener()
		l := listenOn(t, mem, ListenerConfig{})
		silent, _ := mem.dial(t.Context(), "", "")
		defer func() { _ = silent.Close() }()
		go func() { _, _ = io.Copy(io.Discard, silent) }()
		start := time.Now()
		if rej := l.rejection(t); rej.Reject != RejectTimeout {
			t.Errorf("silent: rejected with %v", rej)
		}
		slow, _ := mem.dial(t.Context(), "", "")
		defer func() { _ = slow.Close() }()
		go func() { _, _ = io.Copy(io.Discard, slow) }()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for { // a SETTINGS frame that never ends
				if _, err := slow.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		if rej := l.rejection(t); rej.Reject != RejectTimeout {
			t.Errorf("slow: rejected with %v", rej)
		}
		if took := time.Since(start); took != 2*defaultHelloTimeout {
			t.Errorf("took %v", took)
		}
	})
}

// Ten thousand connections that say nothing neither keep an adapter out for
// long nor cost more than their share, and a tunnel that is up does not notice.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newMemListener()
		l := listenOn(t, mem, ListenerConfig{})
		tunnels := l.expect(testID, testSecret)
		cfg := l.dialConfig(http.NotFoundHandler())
		cfg.DialContext = mem.dial
		cfg.DialTimeout = time.Minute
		s, err := Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		tunnel := receive(t, tunnels)

		const crowd = 10_000
		most := 0
		go func() {
			for range l.rejects {
			}
		}()
		var ends []net.Conn
		start := time.Now()
		for range crowd {
			c, err := mem.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
			ends = append(ends, c)
			l.mu.Lock()
			most = max(most, l.pending.Len())
			l.mu.Unlock()
		}
		if most > l.cfg.MaxPending {
			t.Errorf("%d hellos at once", most)
		}
		do(t, tunnel, request(t, "GET", "/"))

		tunnels = l.expect("late", testSecret)
		cfg.Instance = "late"
		late, err := Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("an adapter had to wait for %v", took)
		}
		_ = receive(t, tunnels).Close()
		_ = tunnel.Close()
		for _, c := range ends {
			_ = c.Close()
		}
		_ = s.Close()
		_ = late.Close()
		_ = l.Listener.Close()
		synctest.Wait()
		close(l.rejects)
	})
}

// Closing the listener ends hellos, not tunnels.
func TestListenerClose(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := listenOn(t, ln, ListenerConfig{})
	tunnels := l.expect(testID, testSecret)
	s, err := Dial(t.Context(), l.dialConfig(http.NotFoundHandler()))
	if err != nil {
		t.Fatal(err)
	}
	tunnel := receive(t, tunnels)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 24)); err != nil { // the preface: its hello has begun
		t.Fatal(err)
	}
	if err := l.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	if rej := l.rejection(t); rej.Reject != RejectClosed {
		t.Errorf("rejected with %v", rej)
	}
	_ = c.Close()
	do(t, tunnel, request(t, "GET", "/"))
	_ = tunnel.Close()
	wait(t, s.Done())
	wait(t, tunnel.Done())
	if err := tunnel.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("tunnel ended with %v", err)
	}
	if err := s.Err(); !errors.Is(err, ErrPeerClosed) {
		t.Errorf("session ended with %v", err)
	}
}
