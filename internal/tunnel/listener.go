package tunnel

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// ListenerConfig is the router's end of the tunnels. Zero values are defaults.
type ListenerConfig struct {
	// Identity is the key pair that adapters pin, unless their instance was
	// announced with another one ([Listener.ExpectAs]). Nil turns TLS off: the
	// tunnels are plain TCP, and only the hello protects them.
	Identity *Identity

	// HelloTimeout is how long a connection may take until its instance is
	// ready. Default: 5 s.
	HelloTimeout time.Duration

	// MaxPending is how many connections may be in their hello at once. Four
	// times as many may wait for that, of which the newest goes first and the
	// oldest is closed when there are more. While any waits, hellos are closed
	// after 1.5 s, or 0.75 s if nothing has come. Default: 1024.
	MaxPending int

	// A tunnel is given up if nothing comes from its adapter for PingInterval
	// and then, after a PING, for PingTimeout. Default: 5 s each.
	PingInterval, PingTimeout time.Duration

	// MaxHeaderBytes bounds the header section of a response. Default: 1 MiB.
	MaxHeaderBytes int

	// StreamWindow is how much of each response may be under way or waiting
	// for its client, in bytes. Default: 1 MiB.
	StreamWindow int

	// OnReject is called, from several goroutines, for every connection that
	// did not become a tunnel. The error is a [*RejectError].
	OnReject func(remote net.Addr, err error)

	engines routerEngines // nil = stockTransport
}

// Listener accepts tunnels. One listener serves many pools: each instance is
// announced to it with [Listener.Expect].
type Listener struct {
	ln      net.Listener
	cfg     ListenerConfig
	engine  engineConfig
	start   func(net.Conn) (routerEngine, error)
	changed chan struct{} // holds a token if somebody's turn may have come
	closing chan struct{}
	wg      sync.WaitGroup // hellos

	mu       sync.Mutex
	expected map[string]*expectation // guarded by mu: instances without a tunnel
	keys     keyring                 // guarded by mu: what they were told
	closed   bool                    // guarded by mu

	admission admission // guarded by mu
}

type expectation struct {
	secret []byte
	pin    string // "" is plain TCP
	accept func(Tunnel)
}

// NewListener returns a listener that accepts tunnels from ln once
// [Listener.Serve] is called.
func NewListener(ln net.Listener, cfg ListenerConfig) *Listener {
	cfg.HelloTimeout = orDefault(cfg.HelloTimeout, defaultHelloTimeout)
	cfg.MaxPending = orDefault(cfg.MaxPending, 1024)
	cfg.PingInterval = orDefault(cfg.PingInterval, defaultPingInterval)
	cfg.PingTimeout = orDefault(cfg.PingTimeout, defaultPingTimeout)
	cfg.MaxHeaderBytes = orDefault(cfg.MaxHeaderBytes, defaultMaxHeaderBytes)
	cfg.StreamWindow = orDefault(cfg.StreamWindow, streamWindow)
	if cfg.OnReject == nil {
		cfg.OnReject = func(net.Addr, error) {}
	}
	l := &Listener{
		ln:       ln,
		cfg:      cfg,
		changed:  make(chan struct{}, 1),
		closing:  make(chan struct{}),
		expected: make(map[string]*expectation),
		engine: engineConfig{
			FrameSize:    FrameSize,
			StreamWindow: cfg.StreamWindow,
			// The adapter counts what it sends a little differently, and a
			// section that is only a little too large must not cost the tunnel.
			MaxHeaderBytes: cfg.MaxHeaderBytes + cfg.MaxHeaderBytes/4,
		},
	}
	l.engine.liveness(cfg.PingInterval, cfg.PingTimeout)
	if cfg.engines == nil {
		cfg.engines = stockTransport
	}
	l.start = cfg.engines(l.engine)
	l.keys.latest = newKey(cfg.Identity)
	l.admission = admission{places: cfg.MaxPending, tokens: float64(cfg.MaxPending), filled: time.Now()}
	return l
}

// Pin returns the pin of the listener's own identity, empty when TLS is off.
func (l *Listener) Pin() string { return l.cfg.Identity.Pin() }

// Addr returns the address that the listener is bound to.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Expect announces an instance: the next connection that proves to know the
// secret of the ID becomes its tunnel and is passed to accept, from a goroutine
// of the listener, which accept must not block. There is one tunnel per ID,
// ever. Cancel withdraws the announcement; an accept that is about to be called
// may still be called after that.
func (l *Listener) Expect(id string, secret []byte, accept func(Tunnel)) (cancel func()) {
	return l.ExpectAs(l.cfg.Identity, id, secret, accept)
}

// ExpectAs is [Listener.Expect] for an instance that was told the pin of this
// identity, nil being plain TCP. For as long as an instance is announced that
// was told it, the listener proves an identity to those who ask for it.
func (l *Listener) ExpectAs(identity *Identity, id string, secret []byte, accept func(Tunnel)) (cancel func()) {
	e := &expectation{secret: secret, pin: identity.Pin(), accept: accept}
	k := newKey(identity)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expected[id] = e
	l.keys.add(k)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.forget(id, e)
	}
}

// forget takes an instance off the list, if it is still there. It is called
// with mu held.
func (l *Listener) forget(id string, e *expectation) {
	if l.expected[id] == e {
		delete(l.expected, id)
		l.keys.drop(e.pin)
	}
}

// Serve accepts connections until the listener is closed. It returns
// [ErrClosed] then, and the error otherwise.
func (l *Listener) Serve() error {
	quit := make(chan struct{})
	var usher sync.WaitGroup
	usher.Go(func() { l.usher(quit) })
	defer usher.Wait()
	defer close(quit)

	var delay time.Duration
	for {
		nc, err := l.ln.Accept()
		if err != nil {
			select {
			case <-l.closing:
				return ErrClosed
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accepting tunnels: %w", err)
			}
			// Most likely there is no file descriptor left, which passes.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			if !l.pause(delay) {
				return ErrClosed
			}
			continue
		}
		delay = 0
		c := newConn(nc)
		c.silence = l.engine.silence()
		if !l.admit(c) {
			c.closeWith(ErrClosed)
			return ErrClosed
		}
	}
}

func (l *Listener) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.closing:
		return false
	}
}

// handle is the goroutine of a connection: first of its hello, then of the
// tunnel's control stream.
func (l *Listener) handle(place *list.Element) {
	p := place.Value.(*pendingConn)
	c := p.conn
	timeout := time.AfterFunc(l.cfg.HelloTimeout-time.Since(p.since), func() {
		c.closeWith(&RejectError{Reject: RejectTimeout})
	})
	t, accept, err := l.hello(c)
	if err == nil && !timeout.Stop() {
		err = &RejectError{Reject: RejectTimeout}
	}
	timeout.Stop()
	if err != nil {
		l.reject(c, t, err)
		l.leave(place)
		return
	}
	accept(t)
	l.leave(place)
	t.serve()
}

// reject ends a connection whose hello failed.
func (l *Listener) reject(c *conn, t *tunnel, err error) {
	rej, ok := errors.AsType[*RejectError](err)
	if !ok {
		rej = &RejectError{Reject: RejectProtocol, Err: err}
	}
	c.closeWith(rej)
	// If somebody closed it before, that was why the hello failed.
	if first, ok := errors.AsType[*RejectError](c.err); ok {
		rej = first
	}
	if t != nil {
		_ = t.engine.Close()
		_ = t.out.Close()
		if t.control != nil {
			_ = t.control.Body.Close()
		}
	}
	l.cfg.OnReject(c.RemoteAddr(), rej)
}

// hello authenticates a connection. The tunnel it returns with an error only
// has to be closed.
func (l *Listener) hello(c *conn) (*tunnel, func(Tunnel), error) {
	ctx := context.Background() // whoever wants to end the hello closes the connection
	pin, err := l.secure(ctx, c)
	if err != nil {
		return nil, nil, &RejectError{Reject: RejectTLS, Err: err}
	}
	c.guard = newGuard()
	c.guard.request()
	engine, err := l.start(c)
	if err != nil {
		return nil, nil, err
	}
	t := newTunnel(c, engine)
	t.watch.patience = l.cfg.PingTimeout

	nonce := newNonce()
	line := encodeLine(routerHello{Version: protocolVersion, Nonce: nonce, MaxHeaderBytes: l.cfg.MaxHeaderBytes})
	req, err := helloRequest(ctx, "/lambda-dispatch/hello", bytes.NewReader(line), int64(len(line)))
	if err != nil {
		return t, nil, err
	}
	h, err := readAdapterHello(engine, req)
	if err != nil {
		return t, nil, err
	}
	accept, secret, err := l.claim(h, nonce, c.exporter, pin)
	if err != nil {
		return t, nil, err
	}
	c.guard.trusted.Store(true)
	proof := helloMAC(secret, roleRouter, h.Instance, nonce, h.Nonce, c.exporter)
	return t, accept, t.openControl(ctx, encodeLine(routerProof{MAC: proof}))
}

func readAdapterHello(engine routerEngine, req *http.Request) (adapterHello, error) {
	resp, err := engine.RoundTrip(req)
	if err != nil {
		return adapterHello{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return adapterHello{}, errBadHello
	}
	line, err := newLineReader(resp.Body).next()
	if err != nil {
		return adapterHello{}, err
	}
	return parseAdapterHello(line)
}

// claim checks an adapter's hello and takes its instance off the list, so that
// nobody else can have its tunnel. Both happen under one lock: of two hellos at
// once, one wins.
func (l *Listener) claim(h adapterHello, nonce, exporter []byte, pin string) (func(Tunnel), []byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.expected[h.Instance]
	if e == nil {
		return nil, nil, &RejectError{Reject: RejectInstance}
	}
	if err := checkMAC(h.MAC, helloMAC(e.secret, roleAdapter, h.Instance, nonce, h.Nonce, exporter)); err != nil {
		return nil, nil, &RejectError{Reject: RejectMAC}
	}
	if pin != e.pin {
		return nil, nil, &RejectError{Reject: RejectTLS, Err: errOtherKey}
	}
	l.forget(h.Instance, e)
	return e.accept, e.secret, nil
}

// Close stops accepting, ends the hellos and waits for them. Tunnels live on.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		l.wg.Wait()
		return nil
	}
	l.closed = true
	close(l.closing)
	l.mu.Unlock()
	err := l.ln.Close()
	l.clear()
	l.wg.Wait()
	return err
}
