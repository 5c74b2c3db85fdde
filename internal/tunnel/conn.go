package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// conn is the connection under a tunnel. It hides from the engine that it may
// be a *tls.Conn, which net/http would treat in its own way, and it finds out
// why the connection ended, which the engine does not tell: whoever closes it
// first gives the reason, and an engine gives none.
type conn struct {
	net.Conn          // TLS if there is TLS
	raw      net.Conn // below TLS
	exporter []byte   // empty when tls is off
	guard    *guard   // nil at the adapter, which trusts its router

	silence  time.Duration // without a byte for so long, the peer is lost
	lastRead atomic.Int64  // when bytes last came, as time since start
	start    time.Time

	in, out atomic.Uint64 // bytes, counted where there is a guard

	once   sync.Once
	closed chan struct{} // closed after err is set
	err    error

	mu    sync.Mutex
	ioErr error // guarded by mu: the first error of a Read or Write
}

func newConn(raw net.Conn) *conn {
	return &conn{Conn: raw, raw: raw, start: time.Now(), closed: make(chan struct{})}
}

// startTLS puts TLS on the connection; handshake is tls.Client or tls.Server
// with its configuration.
func (c *conn) startTLS(ctx context.Context, handshake func(net.Conn) *tls.Conn) error {
	t := handshake(c.Conn)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	cs := t.ConnectionState()
	if err := checkALPN(cs); err != nil {
		return err
	}
	ekm, err := exporter(cs)
	if err != nil {
		return err
	}
	c.Conn, c.exporter = t, ekm
	return nil
}

func (c *conn) Read(p []byte) (int, error) {
	if c.guard != nil {
		c.rest(c.guard.pause())
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		now := time.Since(c.start)
		c.lastRead.Store(int64(now))
		if c.guard != nil {
			c.in.Add(uint64(n))
			if err := c.guard.look(p[:n], now); err != nil {
				c.closeWith(errors.Join(ErrProtocol, err))
				return 0, err
			}
		}
	}
	if err != nil {
		c.note(err)
	}
	return n, err
}

// rest keeps the engine from reading for a while.
func (c *conn) rest(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closed:
	}
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.guard != nil {
		c.out.Add(uint64(max(n, 0)))
		c.guard.wrote(n)
	}
	if err != nil && n < len(p) {
		c.note(err)
	}
	return n, err
}

func (c *conn) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ioErr == nil {
		c.ioErr = err
	}
}

// Close is the engine's way to close: the reason follows from what happened
// before.
func (c *conn) Close() error {
	c.closeWith(nil)
	return nil
}

// closeWith closes the connection for a reason. Only the first call counts.
func (c *conn) closeWith(reason error) {
	c.once.Do(func() {
		if reason == nil {
			reason = c.reason()
		}
		c.err = reason
		if tcp, ok := c.raw.(*net.TCPConn); ok && errors.Is(reason, ErrPeerLost) {
			// A FIN would queue behind data that is never acknowledged. If the
			// network fails in one direction only, the reset gets through.
			_ = tcp.SetLinger(0)
		}
		// TLS's close_notify is left out: it can block on a full buffer, and a
		// cut is already visible in HTTP/2, where each stream has its own end.
		_ = c.raw.Close()
		close(c.closed)
	})
}

func (c *conn) reason() error {
	c.mu.Lock()
	err := c.ioErr
	c.mu.Unlock()
	switch {
	case err == nil && c.silence > 0 && c.silent() >= c.silence:
		return ErrPeerLost
	case err == nil:
		return ErrProtocol // the engine gave up although the connection was fine
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Errorf("%w: %w", ErrPeerLost, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return ErrPeerClosed
	default:
		return fmt.Errorf("%w: %w", ErrProtocol, err) // such as a TLS record that does not decrypt
	}
}

// silent says for how long nothing has come.
func (c *conn) silent() time.Duration {
	return time.Since(c.start) - time.Duration(c.lastRead.Load())
}
