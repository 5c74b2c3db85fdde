package appproxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

const (
	// h2Attempts is how often a request is sent that the app did not take, which takes a second. An
	// app that ends a connection fails all but a few of its streams so.
	h2Attempts = 20
	// maxH2Pause bounds the pause between attempts, which doubles from 1 ms.
	maxH2Pause = 64 * time.Millisecond
)

// H2 hands requests to an app that speaks HTTP/2 with prior knowledge (RFC
// 9113, section 3.3), such as a gRPC server. Many requests share a connection.
// It has no upgrades: those belong to HTTP/1.1, so that an app sees a request
// for one as an ordinary request.
type H2 struct {
	cfg       Config
	transport *http.Transport // only its settings; the connections are kept here
	faults    *faults
	activity  activity

	mu      sync.Mutex
	conns   []*h2conn // guarded by mu
	dialing *h2dial   // guarded by mu; nil when nobody dials
	closed  bool      // guarded by mu
}

var _ App = (*H2)(nil)

// h2conn is a connection to the app.
type h2conn struct {
	*http.ClientConn
	used atomic.Bool // it has carried a request before
	last time.Time   // guarded by H2.mu; the end of its last request
}

// h2dial is a connect that any number of requests wait for.
type h2dial struct {
	done chan struct{}
	err  error // readable after done
}

// The sizes are those of the tunnel: what the app sends leaves through it.
const (
	h2FrameSize    = copyBuffer
	h2StreamWindow = 1 << 20
	// h2ConnWindow must not bind: answers that nobody reads would use it up,
	// and then every other request on the connection would stand still. The
	// windows of the streams bound the memory.
	h2ConnWindow = 1 << 30
)

// NewH2 returns a proxy for the app at the configured address. CloseWrite has
// no meaning for it.
func NewH2(cfg Config) *H2 {
	cfg = cfg.withDefaults()
	h := &H2{cfg: cfg, faults: cfg.faults()}
	dialer := net.Dialer{Timeout: cfg.DialTimeout}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h.transport = &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			nc, err := dialer.DialContext(ctx, cfg.Network, cfg.Address)
			if err != nil {
				return nil, err
			}
			return &countedConn{nc, &h.activity.reads}, nil
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHead,
		ExpectContinueTimeout:  continueTimeout,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              h2FrameSize,
			MaxReceiveBufferPerStream:     h2StreamWindow,
			MaxReceiveBufferPerConnection: h2ConnWindow,
		},
	}
	return h
}

// countedConn counts what the app sends.
type countedConn struct {
	net.Conn
	reads *atomic.Uint64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// Activity implements [App].
func (h *H2) Activity() Activity { return h.activity.look() }

// get returns a connection with a place reserved for one request.
func (h *H2) get(ctx context.Context) (*h2conn, error) {
	const shared = 2 // connects to wait for together with others
	for range shared {
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			return nil, net.ErrClosed
		}
		if c := h.reserve(); c != nil {
			h.mu.Unlock()
			return c, nil
		}
		d := h.dialing
		if d == nil {
			d = &h2dial{done: make(chan struct{})}
			h.dialing = d
			go h.dial(d) //nolint:gosec // for all who wait, whoever of them leaves
		}
		h.mu.Unlock()
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if d.err != nil {
			return nil, d.err
		}
	}
	return h.connect(ctx, true)
}

// reserve finds a connection with room, with mu held. Those that have been
// closed, or are about to be, are forgotten: they end by themselves with their
// last request.
func (h *H2) reserve() *h2conn {
	h.conns = slices.DeleteFunc(h.conns, func(c *h2conn) bool { return c.Err() != nil || h.expired(c) })
	for _, c := range h.conns {
		if c.Reserve() == nil {
			return c
		}
	}
	return nil
}

// expired closes a connection that was idle for too long, with mu held. An app
// may have closed it while the environment was frozen, which nothing has been
// read of yet.
func (h *H2) expired(c *h2conn) bool {
	if c.last.IsZero() || c.InFlight() > 0 || idleTime(c.last) < h.cfg.IdleTimeout {
		return false
	}
	_ = c.Close()
	return true
}

// release says that a request is over.
func (h *H2) release(c *h2conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.last = time.Now()
}

// dial makes a connection for all who wait for it. It is bounded by the
// dialler's timeout, and its owner is whoever waits for d.
func (h *H2) dial(d *h2dial) {
	_, d.err = h.connect(context.Background(), false)
	h.mu.Lock()
	h.dialing = nil
	h.mu.Unlock()
	close(d.done)
}

// connect makes a connection, if need be with a place reserved before others
// can take it. If the app gives it none, the request waits for one.
func (h *H2) connect(ctx context.Context, reserve bool) (*h2conn, error) {
	cc, err := h.transport.NewClientConn(ctx, "http", "app:80")
	if err != nil {
		return nil, err
	}
	c := &h2conn{ClientConn: cc}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		_ = cc.Close()
		return nil, net.ErrClosed
	}
	if reserve {
		_ = cc.Reserve()
	}
	h.conns = append(h.conns, c)
	return c, nil
}

// CloseIdle implements [App].
func (h *H2) CloseIdle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = slices.DeleteFunc(h.conns, func(c *h2conn) bool {
		idle := c.InFlight() == 0
		if idle {
			_ = c.Close()
		}
		return idle
	})
}

// Close implements [App].
func (h *H2) Close() {
	h.mu.Lock()
	h.closed = true
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.conns = nil
	d := h.dialing
	h.mu.Unlock()
	if d != nil {
		<-d.done
	}
}

// net/http exports none of these errors. One whose words change with a new Go
// counts as one that the app may have seen, which TestH2NotTaken notices.
const (
	msgNotUsable      = "http2: client conn not usable"
	msgNotEstablished = "http2: client conn could not be established"
	msgGoAway         = "http2: Transport received Server's graceful shutdown GOAWAY"
	msgInvalid        = "invalid "
	msgTooLarge       = "http2: response header list larger than advertised limit"
)

// notTaken reports whether an error means that the app has certainly not
// processed the request: its stream was refused, or is beyond the last one
// that the app says it will serve (RFC 9113, section 8.7).
func notTaken(err error) bool {
	if se, ok := errors.AsType[httprules.StreamError](err); ok {
		return se.Code == httprules.RefusedStream
	}
	switch err.Error() {
	case msgNotUsable, msgNotEstablished, msgGoAway:
		return true
	}
	return false
}

// explainH2 puts an error of the engine into words.
func explainH2(err error) error {
	se, ok := errors.AsType[httprules.StreamError](err)
	switch {
	case ok && se.Cause != nil && se.Cause.Error() == msgTooLarge:
		return errHeadTooLarge
	case ok && se.Cause != nil && strings.Contains(se.Cause.Error(), "from peer"):
		return errors.New("the app reset the stream: " + se.Code.String())
	case ok:
		return errors.New("the app's answer is not HTTP/2: " + se.Error())
	}
	return errors.New("the app gave no answer: " + strings.TrimPrefix(err.Error(), "http2: "))
}
