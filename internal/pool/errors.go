package pool

import (
	"errors"
	"fmt"
	"time"
)

// Errors of a request that did not get a slot.
var (
	// ErrQueueFull: as many requests wait as may wait.
	ErrQueueFull = errors.New("queue is full")
	// ErrQueueTimeout: the request waited longer than the queue timeout.
	ErrQueueTimeout = errors.New("no slot became free within the queue timeout")
	// ErrClosed: the pool has been closed, or was never configured.
	ErrClosed = errors.New("pool is closed")
)

// UnavailableError fails a request at once instead of after the queue timeout:
// no instance is ready, and none can be started before RetryAt.
type UnavailableError struct {
	// Cause is why the last start failed.
	Cause error
	// RetryAt is when the next start will be tried.
	RetryAt time.Time
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("function cannot be started: %v", e.Cause)
}

func (e *UnavailableError) Unwrap() error { return e.Cause }
