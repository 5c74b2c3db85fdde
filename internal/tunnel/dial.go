package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"syscall"
	"time"
)

// DialConfig is the adapter's end of a tunnel. Zero durations are defaults.
type DialConfig struct {
	// Address is the router's callback listener, host:port.
	Address string
	// Pin is the hash of the router's key, see [Identity.Pin]. Empty means
	// plain TCP.
	Pin string
	// Instance and Secret are from the dispatch event. They authenticate both
	// ends to each other; the secret does not cross the tunnel.
	Instance string
	Secret   []byte

	// Ready is announced to the router.
	Ready Ready

	// Handler answers the requests. It sees each request as the client sent
	// it to the router: RequestURI is the target byte for byte, Host the
	// authority, and Connection and Upgrade are back in place. To accept an
	// upgrade it calls WriteHeader(101), and then reads the request's body and
	// writes the response as the two directions of the connection, each write
	// flushed; see also [CloseWrite]. A panic with [http.ErrAbortHandler]
	// resets the stream, and [Fail] answers in the adapter's name. Nothing is
	// added to the response: no Date, no Content-Type, no Content-Length.
	// Copying bodies with buffers of [FrameSize] costs the least.
	Handler http.Handler

	// DialTimeout bounds connecting, HelloTimeout all that follows until the
	// tunnel is up, TLS included. Default: 5 s each.
	DialTimeout, HelloTimeout time.Duration

	// The tunnel is given up if nothing comes from the router for PingInterval
	// and then, after a PING, for PingTimeout. Default: 5 s each.
	PingInterval, PingTimeout time.Duration

	// MaxHeaderBytes bounds the header section of a request. The router gets
	// to know it and does not send a larger one. Default: 1 MiB.
	MaxHeaderBytes int

	// DialContext connects instead of a [net.Dialer].
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// ErrorLog gets what net/http's server logs: panics of the handler and
	// violations of HTTP/2. Nil discards it.
	ErrorLog *log.Logger

	engine adapterEngine // nil = serveStock
}

// Dial connects to the router and returns when both ends have proved to know
// the secret. Errors wrap [ErrUnreachable], [ErrRefused] or the context's, and
// hold no secret.
func Dial(ctx context.Context, cfg DialConfig) (*Session, error) {
	cfg.DialTimeout = orDefault(cfg.DialTimeout, defaultDialTimeout)
	cfg.HelloTimeout = orDefault(cfg.HelloTimeout, defaultHelloTimeout)
	cfg.PingInterval = orDefault(cfg.PingInterval, defaultPingInterval)
	cfg.PingTimeout = orDefault(cfg.PingTimeout, defaultPingTimeout)
	cfg.MaxHeaderBytes = orDefault(cfg.MaxHeaderBytes, defaultMaxHeaderBytes)
	if cfg.Ready.MaxConcurrent < 1 {
		return nil, errors.New("dialling router: MaxConcurrent must be at least 1")
	}
	if cfg.ErrorLog == nil {
		cfg.ErrorLog = discardLog
	}
	if cfg.engine == nil {
		cfg.engine = serveStock
	}

	raw, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c := newConn(raw)
	timeout := time.AfterFunc(cfg.HelloTimeout, func() { c.closeWith(errHelloTimeout) })
	defer timeout.Stop()
	stop := context.AfterFunc(ctx, func() { c.closeWith(ctx.Err()) })
	defer stop()

	if cfg.Pin != "" {
		if err := secure(ctx, c, cfg); err != nil {
			c.closeWith(err)
			if errors.Is(c.err, io.EOF) || errors.Is(c.err, syscall.ECONNRESET) {
				return nil, hungUp(cfg, c.err)
			}
			return nil, refused(cfg, c.err)
		}
	}
	s := newSession(c, cfg)
	go s.serve()
	select {
	case <-s.authenticated:
		return s, nil
	case <-c.closed:
		// The router may have hung up, or the tunnel been established, in the
		// same moment as the other.
		<-s.done
		if s.state.Load() == stateNew && errors.Is(c.err, ErrPeerClosed) {
			return nil, hungUp(cfg, c.err)
		}
		return nil, refused(cfg, c.err)
	}
}

func connect(ctx context.Context, cfg DialConfig) (net.Conn, error) {
	dial := cfg.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	dctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	raw, err := dial(dctx, "tcp", cfg.Address)
	if err == nil {
		return raw, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("dialling router: %w", ctx.Err())
	}
	return nil, fmt.Errorf("dialling router: %w: %w", ErrUnreachable, err)
}

func secure(ctx context.Context, c *conn, cfg DialConfig) error {
	name, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return err
	}
	conf, err := clientTLS(name, cfg.Pin)
	if err != nil {
		return err
	}
	err = c.startTLS(ctx, func(nc net.Conn) *tls.Conn { return tls.Client(nc, conf) })
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return errNotTLS
	}
	return err
}

var (
	errHelloTimeout = errors.New("no hello in time")
	errNotTLS       = errors.New("router does not speak TLS on this port")
)

const askTLS = "(does the router expect TLS on this port?)"

// hungUp is the error of a connection that the router closed before it had said
// hello: it has too many callers, or is about to exit. Nothing is used up.
func hungUp(cfg DialConfig, err error) error {
	if cfg.Pin == "" {
		err = fmt.Errorf("%w "+askTLS, err)
	}
	return fmt.Errorf("dialling router: %w: before the hello: %w", ErrUnreachable, err)
}

func refused(cfg DialConfig, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("dialling router: %w", err)
	}
	if errors.Is(err, errHelloTimeout) && cfg.Pin == "" {
		err = fmt.Errorf("%w "+askTLS, err)
	}
	return fmt.Errorf("dialling router: %w: %w", ErrRefused, err)
}
