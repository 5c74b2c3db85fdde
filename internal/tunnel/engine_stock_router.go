package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// stockRouter is net/http's HTTP/2 client on one connection.
type stockRouter struct{ cc *http.ClientConn }

// stockContinueTimeout is how long a body waits for the adapter to ask for it
// when the request has an Expect header. The client has its own patience,
// usually a second, so this only has to end some day.
const stockContinueTimeout = time.Minute

// connKey is the context key that hands a connection to DialContext.
type connKey struct{}

// stockTransport returns what starts an engine on a connection. The connections
// share one http.Transport, which is only their settings.
func stockTransport(cfg engineConfig) func(net.Conn) (routerEngine, error) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true) // TLS, if any, is already in the connection
	t := &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(connKey{}).(net.Conn), nil
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: int64(cfg.MaxHeaderBytes),
		ExpectContinueTimeout:  stockContinueTimeout,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              cfg.FrameSize,
			MaxReceiveBufferPerStream:     cfg.StreamWindow,
			MaxReceiveBufferPerConnection: cfg.ConnWindow,
			SendPingTimeout:               cfg.PingInterval,
			PingTimeout:                   cfg.PingTimeout,
			WriteByteTimeout:              cfg.WriteTimeout,
		},
	}
	return func(c net.Conn) (routerEngine, error) {
		ctx := context.WithValue(context.Background(), connKey{}, c)
		cc, err := t.NewClientConn(ctx, "http", "adapter:80")
		if err != nil {
			return nil, fmt.Errorf("starting HTTP/2 client: %w", err)
		}
		return &stockRouter{cc}, nil
	}
}

func (e *stockRouter) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := e.cc.RoundTrip(r)
	if err != nil {
		if r.Body != nil {
			// net/http does not close it when it rejects the request itself.
			_ = r.Body.Close()
		}
		return nil, stockError(err)
	}
	return resp, nil
}

// net/http exports none of these errors, and an error it is not sure of must
// count as sent. A message that changes with a new Go therefore costs retries,
// not correctness; TestStockErrors notices it.
const (
	msgNotUsable      = "http2: client conn not usable"
	msgNotEstablished = "http2: client conn could not be established"
	msgGoAway         = "http2: Transport received Server's graceful shutdown GOAWAY"
	msgReqHeaders     = "request header list larger than peer's advertised limit"
	msgRespHeaders    = "http2: response header list larger than advertised limit"
	msgInvalid        = "http: invalid "
	msgInvalid2       = "http2: invalid "
)

func stockError(err error) error {
	if se, ok := errors.AsType[httprules.StreamError](err); ok && se.Cause != nil && se.Cause.Error() == msgRespHeaders {
		return fmt.Errorf("response: %w", ErrHeadersTooLarge)
	}
	if strings.HasSuffix(err.Error(), msgReqHeaders) {
		return &notSentError{fmt.Errorf("request: %w", ErrHeadersTooLarge)}
	}
	if msg := err.Error(); strings.HasPrefix(msg, msgInvalid) || strings.HasPrefix(msg, msgInvalid2) {
		return &notSentError{fmt.Errorf("%w: %w", ErrBadRequest, err)}
	}
	return err
}

// notSentError marks an error that came before anything was sent.
type notSentError struct{ error }

func (e *notSentError) Unwrap() error { return e.error }

func (e *stockRouter) NotSent(err error) bool {
	if _, ok := errors.AsType[*notSentError](err); ok {
		return true
	}
	if se, ok := errors.AsType[httprules.StreamError](err); ok {
		return se.Code == httprules.RefusedStream // RFC 9113 section 8.7
	}
	switch err.Error() {
	case msgNotUsable, msgNotEstablished, msgGoAway:
		return true
	default:
		return false
	}
}

func (e *stockRouter) Unusable(err error) bool {
	msg := err.Error()
	return msg == msgNotUsable || msg == msgGoAway
}

func (e *stockRouter) Streams() int { return e.cc.InFlight() }

func (e *stockRouter) Notify(f func()) { e.cc.SetStateHook(func(*http.ClientConn) { f() }) }

func (e *stockRouter) Close() error { return e.cc.Close() }
