package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// The status that a client gets for a request that was not answered.
func TestStatusOfRequestsWithoutASlot(t *testing.T) {
	soon := time.Now().Add(1500 * time.Millisecond)
	for _, tc := range []struct {
		name   string
		err    error
		status int
		retry  string
	}{
		{"queue full", pool.ErrQueueFull, 503, "1"},
		{"queue timeout", pool.ErrQueueTimeout, 504, ""},
		{"pool closed", pool.ErrClosed, 503, "1"},
		{"client gone", context.Canceled, 499, ""},
		{"crashes at start", &pool.UnavailableError{Cause: &invoke.Error{Kind: invoke.KindFunction}, RetryAt: soon}, 503, "2"},
		{"access denied", &pool.UnavailableError{Cause: &invoke.Error{Kind: invoke.KindDenied}, RetryAt: soon}, 502, "2"},
		{"no such function", &pool.UnavailableError{Cause: &invoke.Error{Kind: invoke.KindMissing}, RetryAt: soon}, 502, "2"},
		{"never calls back", &pool.UnavailableError{Cause: errors.New("no call-back"), RetryAt: soon}, 503, "2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header := make(http.Header)
			if got := rejection(header, fmt.Errorf("wrapped: %w", tc.err)); got != tc.status {
				t.Errorf("status %d, want %d", got, tc.status)
			}
			if got := header.Get("Retry-After"); got != tc.retry {
				t.Errorf("Retry-After %q, want %q", got, tc.retry)
			}
		})
	}
}

func TestStatusOfRequestsThatNoInstanceAnswered(t *testing.T) {
	adapter := func(c tunnel.Code) error {
		return &tunnel.RoundTripError{Err: &tunnel.AdapterError{Code: c}, Processed: c.Processed()}
	}
	for _, tc := range []struct {
		name   string
		err    error
		status int
	}{
		{"app not there", adapter(tunnel.CodeAppUnavailable), 502},
		{"app broke the connection", adapter(tunnel.CodeAppFailed), 502},
		{"app too slow", adapter(tunnel.CodeAppTimeout), 504},
		{"instance gone", &tunnel.RoundTripError{Err: tunnel.ErrPeerLost, Processed: true}, 502},
		{"request that cannot be sent", &tunnel.RoundTripError{Err: tunnel.ErrBadRequest}, 400},
		{"request header too large", &tunnel.RoundTripError{Err: tunnel.ErrHeadersTooLarge}, 431},
		{"response header too large", &tunnel.RoundTripError{Err: tunnel.ErrHeadersTooLarge, Processed: true}, 502},
		{"no slot for the second attempt", errors.Join(pool.ErrQueueTimeout, tunnel.ErrDraining), 504},
		{"function broke down meanwhile", errors.Join(&pool.UnavailableError{Cause: &invoke.Error{Kind: invoke.KindDenied}}, tunnel.ErrDraining), 502},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := statusOfRoundTrip(tc.err); got != tc.status {
				t.Errorf("status %d, want %d", got, tc.status)
			}
		})
	}
}
