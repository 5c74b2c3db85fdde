package tunnel

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Errors of a tunnel. They are wrapped, so compare with [errors.Is].
var (
	// ErrClosed: this end closed the tunnel or the listener.
	ErrClosed = errors.New("tunnel closed")

	// ErrPeerClosed: the other end closed the connection, in order or by dying
	// on a machine that still answers for it.
	ErrPeerClosed = errors.New("peer closed the tunnel")

	// ErrPeerLost: the other end stopped answering: frozen, vanished, or cut
	// off by the network.
	ErrPeerLost = errors.New("peer stopped answering")

	// ErrProtocol: the other end broke the rules of HTTP/2 or of this package.
	ErrProtocol = errors.New("protocol violation by peer")

	// ErrDraining: the tunnel takes no new requests.
	ErrDraining = errors.New("tunnel is draining")

	// ErrUnreachable is returned by [Dial] when there is no connection to the
	// router: it cannot be resolved, refuses, does not answer, or hangs up
	// before it has said hello. The instance may dial again.
	ErrUnreachable = errors.New("router unreachable")

	// ErrRefused is returned by [Dial] when there is a connection, but one end
	// did not accept the other: wrong key, wrong or finished instance, TLS
	// against plain TCP, or no valid hello in time.
	ErrRefused = errors.New("router refused")

	// ErrBadRequest: the request cannot be sent over HTTP/2 as it is, to any
	// instance: control characters in its URL, or invalid header fields.
	ErrBadRequest = errors.New("request cannot be sent")

	// ErrHeadersTooLarge: the header section of a request or response is above
	// the limit of the end that would have to read it.
	ErrHeadersTooLarge = errors.New("header section too large")
)

// Code says what went wrong at the adapter's end of a request. Codes are a
// closed set, so that they can label a metric.
type Code string

// The codes.
const (
	// CodeAppUnavailable: the app could not be reached. Nothing reached it.
	CodeAppUnavailable Code = "app_unavailable"
	// CodeDraining: the adapter takes no new requests. Nothing reached the app.
	CodeDraining Code = "draining"
	// CodeAppFailed: the app closed the connection, sent something that is not
	// HTTP, or a header section that is too large. It may have seen the request.
	CodeAppFailed Code = "app_failed"
	// CodeAppTimeout: the app did not answer in time. It may have seen the request.
	CodeAppTimeout Code = "app_timeout"
)

// Codes lists every code.
var Codes = []Code{CodeAppUnavailable, CodeDraining, CodeAppFailed, CodeAppTimeout}

// Processed reports whether the app may have seen the request.
func (c Code) Processed() bool { return c != CodeAppUnavailable && c != CodeDraining }

// AdapterError is an answer that the adapter made in place of the app's.
type AdapterError struct {
	Code    Code
	Message string // one line for people, may be empty
}

func (e *AdapterError) Error() string {
	if e.Message == "" {
		return "adapter: " + string(e.Code)
	}
	return "adapter: " + string(e.Code) + ": " + e.Message
}

// maxErrorMessage bounds the message of an AdapterError in bytes.
const maxErrorMessage = 512

// encode returns the value of the error header. It contains no byte that a
// header value must not contain (RFC 9110 section 5.5).
func (e *AdapterError) encode() string {
	msg := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, e.Message)
	if len(msg) > maxErrorMessage {
		msg = strings.ToValidUTF8(msg[:maxErrorMessage], "")
	}
	if msg = strings.TrimSpace(msg); msg == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + msg
}

// parseAdapterError reads the value of the error header. A code it does not
// know becomes CodeAppFailed, the one that promises nothing.
func parseAdapterError(v string) *AdapterError {
	code, msg, _ := strings.Cut(v, ": ")
	if len(msg) > maxErrorMessage {
		msg = strings.ToValidUTF8(msg[:maxErrorMessage], "")
	}
	for _, known := range Codes {
		if code == string(known) {
			return &AdapterError{Code: known, Message: msg}
		}
	}
	return &AdapterError{Code: CodeAppFailed, Message: msg}
}

// Fail answers a request in the adapter's own name, so that RoundTrip at the
// router returns an [AdapterError] instead of a response. The message is one
// line for people and must hold no secret; 512 bytes of it are kept. It is for
// handlers of a [Session] and panics with [http.ErrAbortHandler] once a
// response has begun, because all that is left then is to cut it.
func Fail(w http.ResponseWriter, code Code, msg string) {
	rw := findWriter(w)
	if rw == nil || rw.wroteHeader {
		panic(http.ErrAbortHandler)
	}
	rw.fail(&AdapterError{Code: code, Message: msg})
}

// RoundTripError is every error that RoundTrip returns.
type RoundTripError struct {
	Err error

	// Processed is false only if the app has certainly seen nothing of the
	// request, so that it may be sent again whatever its method.
	Processed bool
}

func (e *RoundTripError) Error() string { return "sending request through tunnel: " + e.Err.Error() }

func (e *RoundTripError) Unwrap() error { return e.Err }

// Reject says why a connection to the listener was not accepted. Rejects are a
// closed set, so that they can label a metric.
type Reject string

// The rejects.
const (
	// RejectTLS: the TLS handshake failed, or the peer did not ask for rh2.
	RejectTLS Reject = "tls"
	// RejectTimeout: no valid hello within the time for it.
	RejectTimeout Reject = "timeout"
	// RejectOverload: too many handshakes at once, and this was the oldest.
	RejectOverload Reject = "overload"
	// RejectProtocol: the peer sent something that is not a hello, or hung up.
	RejectProtocol Reject = "protocol"
	// RejectInstance: the instance is unknown, finished, or has its tunnel.
	RejectInstance Reject = "instance"
	// RejectMAC: the peer does not know the instance's secret.
	RejectMAC Reject = "mac"
	// RejectClosed: the listener was closed.
	RejectClosed Reject = "closed"
)

// Rejects lists every reject.
var Rejects = []Reject{
	RejectTLS, RejectTimeout, RejectOverload, RejectProtocol, RejectInstance, RejectMAC, RejectClosed,
}

// RejectError is passed to ListenerConfig.OnReject.
type RejectError struct {
	Reject Reject
	Err    error // may be nil
}

func (e *RejectError) Error() string {
	if e.Err == nil {
		return "rejecting tunnel: " + string(e.Reject)
	}
	return fmt.Sprintf("rejecting tunnel: %s: %v", e.Reject, e.Err)
}

func (e *RejectError) Unwrap() error { return e.Err }
