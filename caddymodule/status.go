package caddymodule

import (
	"errors"
	"net/http"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// statusOfCause returns the status for requests of a function that cannot be
// started. What only somebody's change can mend is a bad gateway; the rest is
// worth trying again.
func statusOfCause(cause error) int {
	if e, ok := errors.AsType[*invoke.Error](cause); ok && e.Kind.Permanent() {
		return http.StatusBadGateway
	}
	return http.StatusServiceUnavailable
}

// statusOfRoundTrip returns the status for a request that no instance answered.
func statusOfRoundTrip(err error) int {
	if errors.Is(err, pool.ErrQueueTimeout) {
		return http.StatusGatewayTimeout
	}
	if errors.Is(err, pool.ErrClosed) {
		return http.StatusServiceUnavailable
	}
	if u, ok := errors.AsType[*pool.UnavailableError](err); ok {
		return statusOfCause(u.Cause)
	}
	if errors.Is(err, tunnel.ErrBadRequest) {
		return http.StatusBadRequest
	}
	if e, ok := errors.AsType[*tunnel.RoundTripError](err); ok && !e.Processed && errors.Is(err, tunnel.ErrHeadersTooLarge) {
		return http.StatusRequestHeaderFieldsTooLarge
	}
	if a, ok := errors.AsType[*tunnel.AdapterError](err); ok && a.Code == tunnel.CodeAppTimeout {
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}
