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
			most = max(most, l.admission.hellos.Len())
			l.mu.Unlock()
		}
		if most > l.cfg.MaxPending {
			t.Errorf("%d hellos at once", most)
		}
		do(t, tunnel, request(t, "GET", "/"))

		tunnels = l.expect("late", testSecret)
		cfg.Instance = "late"
		l.mu.Lock()
		if n := l.admission.waiting.Len(); n == 0 || n > waitingPerPlace*l.cfg.MaxPending {
			t.Errorf("%d wait", n)
		}
		l.mu.Unlock()
		late, err := Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > evictSlow {
			t.Errorf("an adapter had to wait for %v", took)
		}
		// Of those who say nothing, none is left when the time for it is over.
		time.Sleep(defaultHelloTimeout)
		l.mu.Lock()
		if n, m := l.admission.waiting.Len(), l.admission.hellos.Len(); n+m > 0 {
			t.Errorf("%d wait and %d are in their hello after %v", n, m, time.Since(start))
		}
		l.mu.Unlock()
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

// The newest connection goes first, the oldest is dropped, and no more hellos
// begin than the processor is given for.
func TestAdmission(t *testing.T) {
	now := time.Now()
	a := admission{places: 2, tokens: 2, filled: now}
	conns := make([]*conn, 12)
	for i := range conns {
		conns[i] = newConn(nil)
		dropped := a.enter(conns[i], now.Add(time.Duration(i)*time.Millisecond))
		if wantDropped := i >= waitingPerPlace*2; (dropped != nil) != wantDropped || dropped != nil && dropped.conn != conns[i-waitingPerPlace*2] {
			t.Errorf("connection %d: dropped %v", i, dropped)
		}
	}
	begin := func(at time.Duration) (*pendingConn, *pendingConn, time.Duration) {
		place, victim, wait := a.next(now.Add(at))
		if place == nil {
			return nil, victim, wait
		}
		return place.Value.(*pendingConn), victim, wait
	}
	for i := range 2 {
		if p, victim, _ := begin(0); p == nil || p.conn != conns[11-i] || victim != nil {
			t.Fatalf("hello %d is of %v, victim %v", i, p, victim)
		}
	}
	if p, _, wait := begin(0); p != nil || wait == 0 {
		t.Errorf("a hello too many begins, or nobody asks again: %v", wait)
	}
	if p, _, wait := begin(10 * time.Millisecond); p != nil || wait < evictSilent/2 {
		t.Errorf("a place too many, or asked again after %v", wait)
	}
	if p, victim, _ := begin(evictSilent); p == nil || p.conn != conns[9] || victim == nil || victim.conn != conns[11] {
		t.Errorf("began %v in the place of %v", p, victim)
	}
	conns[10].lastRead.Store(1) // it has said something: it has more time
	if p, _, wait := begin(evictSilent); p != nil || wait != evictSlow-evictSilent {
		t.Errorf("a place was taken, or asked again after %v", wait)
	}
	if p, _ := a.expire(now.Add(time.Second), 990*time.Millisecond); p == nil || p.conn != conns[4] {
		t.Errorf("expired %v", p)
	}
	began := 0
	for at := evictSlow; at < evictSlow+10*time.Second; at += 100 * time.Microsecond {
		a.enter(newConn(nil), now.Add(at))
		if p, _, _ := begin(at); p != nil {
			began++
			a.hellos.Init()
		}
	}
	if began > 10*hellosPerSecond+2 || began < 9*hellosPerSecond {
		t.Errorf("%d hellos began in 10 s", began)
	}
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
