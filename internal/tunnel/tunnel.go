package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Tunnel is the router's end of an authenticated connection to an instance. It
// is safe for concurrent use.
type Tunnel interface {
	// RoundTrip sends a request to the instance's app. Errors are
	// [*RoundTripError]; one that the adapter made wraps an [*AdapterError].
	//
	// The request is sent as it is: method, host, path and query byte for
	// byte, trailers, and an Upgrade if it has one. Left out are hop-by-hop
	// fields and fields whose name begins with "Lambda-Dispatch-", which are
	// also taken out of the response. The request is not modified, except for
	// what [http.RoundTripper] allows: its body is read and closed, also if
	// the request is not sent.
	//
	// A response body that was cut ends with an error, never with io.EOF.
	// After status 101 the body is an [io.ReadWriteCloser] with
	// CloseWrite() error, which ends one direction and leaves the other.
	// RoundTrip does not limit how many requests are in flight.
	RoundTrip(*http.Request) (*http.Response, error)

	// Ready returns what the instance said when its tunnel came up.
	Ready() Ready

	// Slots is how many requests the instance takes at once: as much as it
	// announced, and 0 when the tunnel is draining or closed.
	Slots() int

	// Drain asks the instance to finish. It does not wait: the adapter
	// announces the draining in turn, serves what it has, and hangs up.
	Drain(reason string)

	// Draining is closed when the instance takes no new requests: it has
	// announced so, or the tunnel is closed.
	Draining() <-chan struct{}

	// Done is closed when the tunnel has ended, and Err says why from then on:
	// [ErrClosed], [ErrPeerClosed], [ErrPeerLost] or [ErrProtocol].
	Done() <-chan struct{}
	Err() error

	// Close cuts the connection and every request on it. It does not wait;
	// Done does.
	Close() error
}

// Reporter is also implemented by every [Tunnel] that a [Listener] makes.
type Reporter interface {
	// Stats returns what the instance reported last.
	Stats() Stats
	// DrainReason returns the reason that the instance gave for draining.
	DrainReason() string
	// RemoteAddr returns the address that the instance connected from.
	RemoteAddr() net.Addr
}

// Metered is also implemented by every [Tunnel] that a [Listener] makes.
type Metered interface {
	// Bytes returns how much has come from the adapter and gone to it so far,
	// without what TLS and TCP add.
	Bytes() (in, out uint64)
}

// The control stream is read without limit of time, so a peer must not be able
// to keep the router busy with it: above this rate of messages the tunnel is
// closed.
const (
	controlRate  = 20 // per second
	controlBurst = 200
)

// tunnel implements Tunnel. Its life after the hello is the goroutine that
// runs serve.
type tunnel struct {
	conn    *conn
	engine  routerEngine
	control *http.Response // of the control stream
	lines   *lineReader    // from its body
	out     *lineQueue     // its request's body
	ready   Ready          // set before the tunnel is given to anybody

	// The adapter may hang up only when no request can be on its way to it.
	// So the router, once it knows of the draining, tells it when nothing is
	// open (msgIdle). RoundTrip first counts itself in pending and then looks
	// at draining; whoever ends the draining's wait looks at them in the
	// other order, so a request is either counted or refused.
	pending  atomic.Int64 // requests between RoundTrip's call and its return
	draining atomic.Bool
	idleSent atomic.Bool

	watch watch // of the adapter, while requests wait

	drainOnce sync.Once
	drainCh   chan struct{} // closed when draining
	done      chan struct{}

	mu     sync.Mutex
	stats  Stats  // guarded by mu
	reason string // guarded by mu
}

var (
	_ Tunnel   = (*tunnel)(nil)
	_ Reporter = (*tunnel)(nil)
	_ Watched  = (*tunnel)(nil)
	_ Metered  = (*tunnel)(nil)
)

func newTunnel(c *conn, e routerEngine) *tunnel {
	return &tunnel{
		conn:    c,
		engine:  e,
		out:     newLineQueue(),
		watch:   watch{patience: defaultPingTimeout, changes: make(chan bool, 1)},
		drainCh: make(chan struct{}),
		done:    make(chan struct{}),
	}
}

// openControl sends the router's proof on stream 3, which stays open as the
// control stream, and waits for the instance to be ready.
func (t *tunnel) openControl(ctx context.Context, proof []byte) error {
	req, err := helloRequest(ctx, "/lambda-dispatch/control", t.out, -1)
	if err != nil {
		return err
	}
	t.out.put(proof)
	t.conn.guard.request()
	resp, err := t.engine.RoundTrip(req) //nolint:bodyclose // the control stream is open as long as the tunnel
	if err != nil {
		return err
	}
	t.control, t.lines = resp, newLineReader(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return errBadHello
	}
	c, err := t.lines.control()
	if err != nil {
		return err
	}
	if c.Type != msgReady {
		return errBadControl
	}
	t.ready = c.ready(time.Now())
	return nil
}

// helloRequest makes a request of the hello. Its path decides nothing: the
// order of the streams does.
func helloRequest(ctx context.Context, path string, body io.Reader, length int64) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lambda-dispatch"+path, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = length
	req.Header.Set("User-Agent", "") // do not add one
	return req, nil
}

// serve reads the control stream until the tunnel ends. Without its control
// stream a tunnel is of no use, so the end of one is the end of the other.
func (t *tunnel) serve() {
	err := t.readControl()
	select {
	case <-t.conn.closed:
	default:
		if errors.Is(err, io.EOF) {
			err = nil
		}
		t.conn.closeWith(protocolError(err))
	}
	t.watch.stop()
	t.startDraining("")
	_ = t.engine.Close()
	_ = t.out.Close()
	_ = t.control.Body.Close()
	close(t.done)
}

func protocolError(err error) error {
	if err == nil {
		return ErrPeerClosed
	}
	// The cause is one of this package's, or the engine's about the stream.
	return errors.Join(ErrProtocol, err)
}

func (t *tunnel) readControl() error {
	budget := float64(controlBurst)
	last := time.Now()
	for {
		c, err := t.lines.control()
		if err != nil {
			return err
		}
		now := time.Now()
		budget = min(controlBurst, budget+now.Sub(last).Seconds()*controlRate) - 1
		if last = now; budget < 0 {
			return errors.New("too many control messages")
		}
		switch c.Type {
		case msgDraining:
			t.startDraining(c.Reason)
			t.engine.Notify(t.checkIdle)
			t.checkIdle()
		case msgStats:
			t.mu.Lock()
			t.stats = Stats{InFlight: c.InFlight, Requests: c.Requests}
			t.mu.Unlock()
		}
	}
}

func (t *tunnel) startDraining(reason string) {
	t.drainOnce.Do(func() {
		t.mu.Lock()
		t.reason = reason
		t.mu.Unlock()
		t.draining.Store(true)
		close(t.drainCh)
	})
}

// checkIdle tells a draining adapter, once, that no request is open but the
// control stream and that none will come.
func (t *tunnel) checkIdle() {
	if !t.draining.Load() || t.pending.Load() > 0 || t.engine.Streams() > 1 {
		return
	}
	if t.idleSent.CompareAndSwap(false, true) {
		t.out.put(encodeLine(control{Type: msgIdle}))
	}
}

// begin counts a request in, unless the tunnel takes none.
func (t *tunnel) begin() error {
	t.pending.Add(1)
	if !t.draining.Load() {
		t.conn.guard.request()
		t.watchRequest()
		return nil
	}
	t.end()
	if err := t.Err(); err != nil {
		return err
	}
	return ErrDraining
}

func (t *tunnel) end() {
	if t.pending.Add(-1) == 0 && t.draining.Load() {
		t.checkIdle()
	}
}

func (t *tunnel) Ready() Ready { return t.ready }

func (t *tunnel) Slots() int {
	if t.draining.Load() {
		return 0
	}
	return t.ready.MaxConcurrent
}

func (t *tunnel) Drain(reason string) {
	t.out.put(encodeLine(control{Type: msgDrain, Reason: clip(reason)}))
}

func (t *tunnel) Draining() <-chan struct{} { return t.drainCh }

func (t *tunnel) Done() <-chan struct{} { return t.done }

func (t *tunnel) Err() error {
	select {
	case <-t.conn.closed:
		return t.conn.err
	default:
		return nil
	}
}

func (t *tunnel) Close() error {
	t.conn.closeWith(ErrClosed)
	return nil
}

func (t *tunnel) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}

func (t *tunnel) DrainReason() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reason
}

func (t *tunnel) RemoteAddr() net.Addr { return t.conn.RemoteAddr() }

func (t *tunnel) Bytes() (in, out uint64) { return t.conn.in.Load(), t.conn.out.Load() }
