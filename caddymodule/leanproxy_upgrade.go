package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

const (
	// lastWords is how long the peers of a WebSocket that is being closed from
	// outside have to end it themselves. A reload waits for it.
	lastWords = 250 * time.Millisecond
	// upgradeGrace is how long the client of a connection that is being closed
	// may take for what has already been written to it.
	upgradeGrace = time.Second
)

var (
	errWrongUpgrade = errors.New("app switched to a protocol that was not asked for")
	errNoHalfClose  = errors.New("one direction has ended and cannot be closed alone")
)

// upgrade makes the client's connection and the app's one, until both
// directions have ended or one of them failed.
func (p *leanProxy) upgrade(x *exchange, req *http.Request, resp *http.Response) error {
	protocol := resp.Header.Get("Upgrade")
	app, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || protocol == "" || !strings.EqualFold(protocol, upgradeOf(req.Header)) {
		_ = resp.Body.Close()
		return caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("%w: %q", errWrongUpgrade, protocol))
	}
	removeHopByHop(resp.Header)
	header := x.w.Header()
	addHeader(header, resp.Header)
	spellWebSocket(header)
	var client clientConn
	var err error
	if x.extended != nil {
		client, err = x.acceptExtended()
	} else {
		header["Connection"], header["Upgrade"] = x.value("Upgrade"), x.value(protocol)
		client, err = x.hijack(app)
	}
	if err != nil {
		_ = app.Close()
		if client != nil {
			_ = client.Close()
		}
		p.log.Debug("upgrading connection", zap.Error(err))
		return nil // the status has been written
	}

	u := &upgraded{
		client: client, app: app, webSocket: strings.EqualFold(protocol, "websocket"),
		done: make(chan struct{}),
	}
	p.upgrades.add(u)
	defer p.upgrades.remove(u)
	stop := context.AfterFunc(req.Context(), u.close)
	defer stop()
	u.run()
	return nil
}

// spellWebSocket spells the names of fields as RFC 6455 does. Case means
// nothing, but not every client knows.
func spellWebSocket(h http.Header) {
	const canonical, spelled = "Sec-Websocket-", "Sec-WebSocket-"
	for _, k := range slices.Collect(maps.Keys(h)) {
		if rest, ok := strings.CutPrefix(k, canonical); ok {
			h[spelled+rest] = h[k]
			delete(h, k)
		}
	}
}

// clientConn is the client's end of an upgraded connection.
type clientConn interface {
	io.ReadWriteCloser
	abort() // ends a Write that Close would let go on
}

// hijackedConn is an HTTP/1.1 connection.
type hijackedConn struct {
	io.ReadWriteCloser
	mu sync.Mutex // held while writing: Caddy counts the bytes without a lock
}

func (c *hijackedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ReadWriteCloser.Write(p)
}

func (c *hijackedConn) CloseWrite() error { return closeWrite(c.ReadWriteCloser) }

func (c *hijackedConn) abort() { _ = c.Close() }

// closeWrite ends what is sent and leaves what is received.
func closeWrite(c io.Writer) error {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return errNoHalfClose
}

// hijack takes an HTTP/1.1 connection from the server. What the client sent
// too early goes to the app.
func (x *exchange) hijack(app io.Writer) (clientConn, error) {
	x.w.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return nil, err
	}
	client := &hijackedConn{ReadWriteCloser: conn}
	if err := buffered.Flush(); err != nil {
		return client, err
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		early, err := buffered.Peek(n)
		if err == nil {
			_, err = app.Write(early)
		}
		if err != nil {
			return client, err
		}
	}
	return client, nil
}

// acceptExtended accepts an extended CONNECT, whose stream has no key to
// answer to (RFC 8441, section 5).
func (x *exchange) acceptExtended() (clientConn, error) {
	header := x.w.Header()
	delete(header, "Connection")
	delete(header, "Upgrade")
	delete(header, "Sec-WebSocket-Accept")
	x.w.WriteHeader(http.StatusOK)
	client := &extendedConn{ReadCloser: x.extended, w: x.w, ctrl: http.NewResponseController(x.w)}
	return client, client.ctrl.Flush()
}

// extendedConn is the stream of an extended CONNECT.
type extendedConn struct {
	io.ReadCloser
	ctrl *http.ResponseController

	mu sync.Mutex // guards w, to which closing adds a last word
	w  http.ResponseWriter
}

func (c *extendedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, c.ctrl.Flush()
}

func (c *extendedConn) abort() { _ = c.ctrl.SetWriteDeadline(time.Now()) }

// upgraded is two connections that have become one.
type upgraded struct {
	client    clientConn
	app       io.ReadWriteCloser
	webSocket bool
	done      chan struct{} // closed when run is about to return

	closing sync.Once
	cut     *time.Timer // set by closing
}

// run copies both ways. The end of one direction is passed on and leaves the
// other; anything else ends both.
func (u *upgraded) run() {
	var up sync.WaitGroup
	up.Go(func() { u.pass(u.app, u.client) })
	u.pass(u.client, u.app)
	up.Wait()
	u.close()
	u.cut.Stop()
	close(u.done)
}

func (u *upgraded) pass(dst io.Writer, src io.Reader) {
	err := copyStream(dst, src)
	if err == nil {
		err = closeWrite(dst)
	}
	if err != nil {
		u.close()
	}
}

// close ends both directions. It does not wait for that.
func (u *upgraded) close() {
	u.closing.Do(func() {
		u.cut = time.AfterFunc(upgradeGrace, u.client.abort)
		_ = u.app.Close()
		_ = u.client.Close()
	})
}

// goAway closes the connection from outside. The peers of a WebSocket are told
// and have a moment to hear it. They may be in the middle of a message; then
// all they see is that the connection was closed.
func (u *upgraded) goAway() {
	if u.webSocket {
		over := make(chan struct{})
		patience := time.AfterFunc(lastWords, func() {
			u.close()
			close(over)
		})
		defer patience.Stop()
		// Status 1001, RFC 6455 sections 5.5.1 and 7.4.1. What goes to the app
		// is masked as a client's, with a key of zeros: it hides nothing here.
		_, _ = u.client.Write([]byte{0x88, 0x02, 0x03, 0xe9})
		_, _ = u.app.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9})
		if closeWrite(u.app) == nil {
			select {
			case <-u.done:
			case <-over:
			}
		}
	}
	u.close()
}

// upgradeSet is the upgraded connections of a proxy. The server has given them
// up, so nobody else ends them.
type upgradeSet struct {
	mu   sync.Mutex // guards open
	open map[*upgraded]struct{}
}

func (s *upgradeSet) add(u *upgraded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[*upgraded]struct{})
	}
	s.open[u] = struct{}{}
}

func (s *upgradeSet) remove(u *upgraded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, u)
}

// close closes all of them, side by side.
func (s *upgradeSet) close() {
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, u := range open {
		all.Go(u.goAway)
	}
	all.Wait()
}
