package tunnel

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

var discardLog = log.New(io.Discard, "", 0)

// Session is the adapter's end of an authenticated connection to the router.
// It is safe for concurrent use.
type Session struct {
	cfg  DialConfig
	conn *conn
	out  *lineQueue // control messages to the router

	// The hello is over when state is stateOpen; requests look at nothing else.
	state         atomic.Int32
	authenticated chan struct{}
	helloMu       sync.Mutex
	routerNonce   []byte // guarded by helloMu
	adapterNonce  []byte // guarded by helloMu
	maxHeader     int    // guarded by helloMu until state is stateOpen, then fixed

	inFlight atomic.Int64
	quiet    chan struct{} // receives when inFlight falls to 0
	requests atomic.Uint64
	draining atomic.Bool

	requestedOnce sync.Once
	requested     chan struct{} // closed when the router asks to drain
	idleOnce      sync.Once
	idle          chan struct{} // closed when the router says that nothing is open
	done          chan struct{} // closed when the engine has ended
}

// The states of a session.
const (
	stateNew     = iota // stream 1 is the router's hello
	stateGreeted        // stream 3 must be the router's proof
	stateOpen           // every stream is a request
)

func newSession(c *conn, cfg DialConfig) *Session {
	return &Session{
		cfg:           cfg,
		conn:          c,
		out:           newLineQueue(),
		authenticated: make(chan struct{}),
		requested:     make(chan struct{}),
		idle:          make(chan struct{}),
		quiet:         make(chan struct{}, 1),
		done:          make(chan struct{}),
	}
}

// maxStreams is above what the router uses, because a stream that it has
// cancelled counts until its handler has returned, and net/http's server ends
// the connection if such handlers pile up.
func maxStreams(concurrent int) int { return 4*concurrent + 64 }

func (s *Session) serve() {
	cfg := engineConfig{
		FrameSize:      uploadFrameSize,
		StreamWindow:   streamWindow,
		MaxStreams:     maxStreams(s.cfg.Ready.MaxConcurrent),
		MaxHeaderBytes: s.cfg.MaxHeaderBytes,
		ErrorLog:       s.cfg.ErrorLog,
		// Room for every request to have its window full, or the requests
		// whose bodies the app does not read would stop the others.
		ConnWindow: (s.cfg.Ready.MaxConcurrent + 2) * streamWindow,
	}
	cfg.liveness(s.cfg.PingInterval, s.cfg.PingTimeout)
	s.conn.silence = cfg.silence()
	s.cfg.engine(s.conn, cfg, http.HandlerFunc(s.handle))
	_ = s.conn.Close()
	_ = s.out.Close()
	close(s.done)
}

func (s *Session) handle(w http.ResponseWriter, r *http.Request) {
	if s.state.Load() != stateOpen {
		s.hello(w, r)
		return
	}
	s.inFlight.Add(1)
	defer s.handled()

	rw := &responseWriter{ResponseWriter: w, req: r, maxHeader: s.maxHeader}
	if rw.upgrade = incomingRequest(r); rw.upgrade != "" {
		r.Body = &upgradeBody{r.Body, rw}
	}
	if s.draining.Load() {
		rw.fail(&AdapterError{Code: CodeDraining})
		return
	}
	s.requests.Add(1)
	s.cfg.Handler.ServeHTTP(rw, r)
	rw.finish()
}

// hello serves the streams before the tunnel is open. The router opens one
// after the other, so they are told apart by their order.
func (s *Session) hello(w http.ResponseWriter, r *http.Request) {
	control, err := s.helloStep(w, r)
	if err != nil {
		s.conn.closeWith(err)
		panic(http.ErrAbortHandler)
	}
	if control != nil {
		s.serveControl(w, r, control)
	}
}

// helloStep returns the rest of the stream if it is the control stream.
func (s *Session) helloStep(w http.ResponseWriter, r *http.Request) (*lineReader, error) {
	s.helloMu.Lock()
	defer s.helloMu.Unlock()
	lines := newLineReader(r.Body)
	line, err := lines.next()
	if err != nil {
		return nil, helloError(err)
	}
	switch s.state.Load() {
	case stateNew:
		h, err := parseRouterHello(line)
		if err != nil {
			return nil, err
		}
		s.routerNonce, s.adapterNonce = h.Nonce, newNonce()
		if s.maxHeader = h.MaxHeaderBytes; s.maxHeader == 0 {
			s.maxHeader = defaultMaxHeaderBytes
		}
		mac := helloMAC(s.cfg.Secret, roleAdapter, s.cfg.Instance, s.routerNonce, s.adapterNonce, s.conn.exporter)
		s.state.Store(stateGreeted)
		_, err = w.Write(encodeLine(adapterHello{
			Version: protocolVersion, Instance: s.cfg.Instance, Nonce: s.adapterNonce, MAC: mac,
		}))
		return nil, err
	case stateGreeted:
		p, err := parseRouterProof(line)
		if err != nil {
			return nil, err
		}
		mac := helloMAC(s.cfg.Secret, roleRouter, s.cfg.Instance, s.routerNonce, s.adapterNonce, s.conn.exporter)
		if err := checkMAC(p.MAC, mac); err != nil {
			return nil, err
		}
		s.out.put(encodeLine(readyMessage(s.cfg.Ready, time.Now())))
		s.state.Store(stateOpen)
		close(s.authenticated)
		return lines, nil
	default:
		return nil, ErrProtocol // a request that was faster than its tunnel
	}
}

func helloError(err error) error {
	if errors.Is(err, errLineLong) {
		return err
	}
	return errBadHello // the engine's words for a cut stream
}

// serveControl is the control stream. It lasts as long as the session: without
// it the router could not drain, so its end is the end of the connection.
func (s *Session) serveControl(w http.ResponseWriter, r *http.Request, lines *lineReader) {
	read := make(chan struct{})
	go func() {
		defer close(read)
		s.readControl(lines)
	}()
	s.writeControl(w, r)
	_ = s.conn.Close()
	<-read
}

func (s *Session) writeControl(w http.ResponseWriter, r *http.Request) {
	for {
		lines, err := s.out.take()
		if err != nil {
			return
		}
		for _, line := range lines {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
		if len(lines) > 0 && flush(w) != nil {
			return
		}
		select {
		case <-s.out.wake:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Session) readControl(lines *lineReader) {
	for {
		c, err := lines.control()
		if err != nil {
			select {
			case <-s.conn.closed:
			default:
				if errors.Is(err, errLineLong) || errors.Is(err, errBadControl) {
					s.conn.closeWith(errors.Join(ErrProtocol, err))
				}
				_ = s.out.Close() // ends writeControl
			}
			return
		}
		switch c.Type {
		case msgDrain:
			s.requestedOnce.Do(func() { close(s.requested) })
		case msgPing:
			s.out.put(encodeLine(control{Type: msgPong}))
		case msgIdle:
			if s.draining.Load() {
				s.idleOnce.Do(func() { close(s.idle) })
			}
		}
	}
}

// Drain announces to the router that this end takes no new requests. Those
// that are on their way are answered with [CodeDraining]; the others go on.
// Further calls do nothing.
func (s *Session) Drain(reason string) {
	if s.draining.CompareAndSwap(false, true) {
		s.out.put(encodeLine(control{Type: msgDraining, Reason: clip(reason)}))
	}
}

// Requested is closed when the router asks this end to drain.
func (s *Session) Requested() <-chan struct{} { return s.requested }

// WaitIdle waits, after Drain, until the session can be closed without harm:
// until the router has received every response to the last byte and will send
// no more requests. It returns nil then, the session's error if that ends
// first, and the context's if it is done before.
func (s *Session) WaitIdle(ctx context.Context) error {
	select {
	case <-s.idle:
		return nil
	case <-s.conn.closed:
		return s.conn.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Report sends statistics to the router.
func (s *Session) Report(st Stats) {
	s.out.put(encodeLine(control{Type: msgStats, InFlight: st.InFlight, Requests: st.Requests}))
}

func (s *Session) handled() {
	if s.inFlight.Add(-1) > 0 {
		return
	}
	select {
	case s.quiet <- struct{}{}:
	default: // WaitHandlers has not looked at the last one yet
	}
}

// WaitHandlers waits, after Close, until no handler is running any more. It
// returns the context's error if that is done before.
func (s *Session) WaitHandlers(ctx context.Context) error {
	for s.inFlight.Load() > 0 {
		select {
		case <-s.quiet:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// InFlight is the number of requests whose handlers are running.
func (s *Session) InFlight() int { return int(s.inFlight.Load()) }

// Requests is the number of requests that were passed to the handler.
func (s *Session) Requests() uint64 { return s.requests.Load() }

// Done is closed when the connection has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session has ended, see [Tunnel]; nil before.
func (s *Session) Err() error {
	select {
	case <-s.conn.closed:
		return s.conn.err
	default:
		return nil
	}
}

// Close hangs up, cancels the requests that are in flight, and waits for the
// engine, but not for handlers: see WaitHandlers.
func (s *Session) Close() error {
	s.conn.closeWith(ErrClosed)
	<-s.done
	return nil
}
