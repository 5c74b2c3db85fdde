package invoke

import (
	"context"
	"errors"
	"fmt"
)

// Invoker starts instances. Implementations are safe for concurrent use.
type Invoker interface {
	// Invoke invokes the function with the event and blocks until the
	// invocation has ended, which can take as long as the function's timeout.
	// A nil error means that the adapter returned the result. Otherwise the
	// error is an [*Error], or the context's.
	//
	// Cancelling the context abandons the call; it does not stop the
	// invocation, which Lambda offers no way to do.
	Invoke(ctx context.Context, ev Event) (Result, error)
}

// Kind tells apart why an invocation failed, so far as it decides what the
// router does next. Kinds are a closed set, so that they can label a metric.
type Kind string

// The kinds of failure.
const (
	// KindThrottled: Lambda has no concurrency left for the function (HTTP 429).
	KindThrottled Kind = "throttled"
	// KindDenied: the router's identity may not invoke the function.
	KindDenied Kind = "denied"
	// KindMissing: there is no such function, version or alias.
	KindMissing Kind = "missing"
	// KindRejected: Lambda will not run the function as it is, for example
	// because its image or VPC is not usable, or the request was malformed.
	KindRejected Kind = "rejected"
	// KindService: Lambda failed on its side (HTTP 5xx) or is still preparing
	// the function.
	KindService Kind = "service"
	// KindUnreachable: the Invoke API could not be reached, or the connection
	// to it broke, so that the outcome is not known.
	KindUnreachable Kind = "unreachable"
	// KindFunction: the function was run and failed: it crashed, timed out or
	// could not be initialised.
	KindFunction Kind = "function_error"
	// KindAlien: the function answered with something that is not a result of
	// the adapter.
	KindAlien Kind = "not_an_adapter"
)

// Kinds lists every kind of failure.
var Kinds = []Kind{
	KindThrottled, KindDenied, KindMissing, KindRejected, KindService,
	KindUnreachable, KindFunction, KindAlien,
}

// Permanent reports whether trying again will not help until somebody changes
// something, so that waiting requests should be told at once.
func (k Kind) Permanent() bool {
	switch k {
	case KindDenied, KindMissing, KindRejected, KindAlien:
		return true
	default:
		return false
	}
}

// Error is a failed invocation.
type Error struct {
	// Kind decides what happens next.
	Kind Kind
	// Code is Lambda's own name of the error, such as
	// "TooManyRequestsException" or "Runtime.ExitError". May be empty.
	Code string
	// Message is one line for people.
	Message string
	// Hint is what somebody has to change so that it does not happen again, in
	// one line for people. Empty if that is not known.
	Hint string
	// Err is the cause, if there is one.
	Err error
}

func (e *Error) Error() string {
	msg := e.Message
	if msg == "" && e.Err != nil {
		msg = e.Err.Error()
	}
	if e.Code == "" {
		return fmt.Sprintf("invoking function: %s: %s", e.Kind, msg)
	}
	return fmt.Sprintf("invoking function: %s: %s: %s", e.Kind, e.Code, msg)
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of a failed invocation, and KindUnreachable for an
// error that has none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindUnreachable
}
