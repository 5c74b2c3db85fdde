package caddymodule

import (
	"bytes"
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

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

const (
	// leastPatience and spareTime bound what the peers of a WebSocket get before
	// their instance is cut: some of the rest is for the way there and back.
	leastPatience = 50 * time.Millisecond
	spareTime     = 100 * time.Millisecond
)

var (
	errSwitching    = errors.New("app switches protocols")
	errWrongUpgrade = errors.New("app switched to a protocol that was not asked for")
	errNoHalfClose  = errors.New("one direction has ended and cannot be closed alone")
)

// upgrades passes on the connections whose apps have switched protocols, for
// either of the proxies. They are their pool's, and not the configuration's that
// they came by: Caddy's own proxy closes them at every reload.
type upgrades struct {
	log *zap.Logger
	// timeout is how long a connection may last; 0 is for ever.
	timeout time.Duration
	// delay is how long a connection may outlive the configuration that it came
	// by; 0 is for ever.
	delay time.Duration
	// outlived is closed when delay has passed.
	outlived chan struct{}
	cleanup  sync.Once
}

func newUpgrades(conf *reverseproxy.Handler, log *zap.Logger) *upgrades {
	s := &upgrades{log: log, outlived: make(chan struct{})}
	if conf != nil {
		s.timeout, s.delay = time.Duration(conf.StreamTimeout), time.Duration(conf.StreamCloseDelay)
	}
	return s
}

// unload is called when the configuration is not in use any more.
func (s *upgrades) unload() {
	if s.delay > 0 {
		s.cleanup.Do(func() { time.AfterFunc(s.delay, func() { close(s.outlived) }) })
	}
}

// pass makes the client's connection and the app's one, until both directions
// have ended or one of them failed. The request is the one that the app got,
// extended the body of an extended CONNECT (RFC 8441) and else nil.
func (s *upgrades) pass(w http.ResponseWriter, req *http.Request, extended io.ReadCloser, resp *http.Response, lease *pool.Lease) error {
	protocol := resp.Header.Get("Upgrade")
	app, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || protocol == "" || !strings.EqualFold(protocol, upgradeOf(req.Header)) {
		_ = resp.Body.Close()
		return caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("%w: %q", errWrongUpgrade, protocol))
	}
	removeHopByHop(resp.Header)
	header := w.Header()
	addHeader(header, resp.Header)
	spellWebSocket(header)
	var client clientConn
	var err error
	if extended != nil {
		client, err = acceptExtended(w, extended)
	} else {
		header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{protocol}
		client, err = hijack(w)
	}
	if err != nil {
		_ = app.Close()
		if client != nil {
			_ = client.Close()
		}
		s.log.Debug("upgrading connection", zap.Error(err))
		return nil // the status has been written
	}

	u := newUpgraded(client, app, strings.EqualFold(protocol, "websocket"))
	stop := context.AfterFunc(req.Context(), u.close)
	defer stop()
	var watch sync.WaitGroup
	end := s.endOf(lease)
	watch.Go(func() { s.watch(u, end) })
	broken := u.run()
	watch.Wait()
	if broken != nil && extended != nil {
		panic(http.ErrAbortHandler) // resets the stream, which would look ended
	}
	return nil
}

// ends is what ends a connection from outside.
type ends struct {
	instance, pool <-chan struct{}
	deadline       time.Time // of the instance
}

// endOf asks the lease, which is not to be used by another goroutine.
func (s *upgrades) endOf(lease *pool.Lease) ends {
	return ends{instance: lease.Ending(), pool: lease.Pool().Ending(), deadline: lease.Deadline()}
}

// watch ends a connection that has to end, in order if its protocol has one.
func (s *upgrades) watch(u *upgraded, end ends) {
	var expired <-chan time.Time
	if s.timeout > 0 {
		t := time.NewTimer(s.timeout)
		defer t.Stop()
		expired = t.C
	}
	word := goingAway
	select {
	case <-u.done:
		return
	case <-end.instance:
		word = serviceRestart
	case <-end.pool:
		if s.linger(u, end, expired) {
			return
		}
	case <-s.outlived:
	case <-expired:
	}
	u.part(word, min(lastWords, max(leastPatience, time.Until(end.deadline)-spareTime)))
}

// linger waits for the delay that a configuration asks for if its function is
// not served any more. It reports whether the connection has ended meanwhile.
func (s *upgrades) linger(u *upgraded, end ends, expired <-chan time.Time) bool {
	if s.delay == 0 || caddy.Exiting() {
		return false
	}
	// The pool has only so long.
	limit := time.NewTimer(min(s.delay, drainGrace-2*lastWords))
	defer limit.Stop()
	select {
	case <-u.done:
		return true
	case <-end.instance:
	case <-s.outlived:
	case <-expired:
	case <-limit.C:
	}
	return false
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
	r io.Reader // begins with what the client sent too early
}

func (c *hijackedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *hijackedConn) CloseWrite() error { return closeWrite(c.ReadWriteCloser) }

func (c *hijackedConn) abort() { _ = c.Close() }

// closeWrite ends what is sent and leaves what is received.
func closeWrite(c io.Writer) error {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return errNoHalfClose
}

// hijack takes an HTTP/1.1 connection from the server.
func hijack(w http.ResponseWriter) (clientConn, error) {
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	client := &hijackedConn{ReadWriteCloser: conn, r: conn}
	if n := buffered.Reader.Buffered(); n > 0 {
		early, err := buffered.Peek(n)
		if err != nil {
			return client, err
		}
		client.r = io.MultiReader(bytes.NewReader(slices.Clone(early)), conn)
	}
	return client, buffered.Flush()
}

// acceptExtended accepts an extended CONNECT, whose stream has no key to
// answer to (RFC 8441, section 5).
func acceptExtended(w http.ResponseWriter, body io.ReadCloser) (clientConn, error) {
	header := w.Header()
	delete(header, "Connection")
	delete(header, "Upgrade")
	delete(header, "Sec-WebSocket-Accept")
	w.WriteHeader(http.StatusOK)
	client := &extendedConn{ReadCloser: body, w: w, ctrl: http.NewResponseController(w)}
	return client, client.ctrl.Flush()
}

// extendedConn is the stream of an extended CONNECT.
type extendedConn struct {
	io.ReadCloser
	w    http.ResponseWriter
	ctrl *http.ResponseController
}

func (c *extendedConn) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, c.ctrl.Flush()
}

func (c *extendedConn) abort() { _ = c.ctrl.SetWriteDeadline(time.Now()) }
