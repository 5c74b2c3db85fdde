package adapter

import (
	"context"
	"sync"
)

// app is what the adapter knows about the app. It is safe for concurrent use.
type app struct {
	check func(context.Context) error // returns nil when the app is ready

	mu    sync.Mutex
	ready bool          // guarded by mu; since the app was last down
	down  chan struct{} // guarded by mu; closed when the app goes down, then replaced
	cause error         // guarded by mu; of the last down
}

func newApp(check func(context.Context) error) *app {
	return &app{check: check, down: make(chan struct{})}
}

// waitReady returns when the app is ready, with a channel that is closed when
// it no longer is. It fails when the app goes down while it is waited for, or
// when the context ends.
func (a *app) waitReady(ctx context.Context) (down <-chan struct{}, err error) {
	a.mu.Lock()
	ready, current := a.ready, a.down
	a.mu.Unlock()
	if ready {
		return current, nil
	}
	if err := a.checkUntil(ctx, current); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down != current {
		return nil, a.cause
	}
	a.ready = true
	return current, nil
}

// checkUntil checks whether the app is ready until down is closed.
func (a *app) checkUntil(ctx context.Context, down <-chan struct{}) error {
	cctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-down:
			cancel()
		case <-cctx.Done():
		}
	}()
	err := a.check(cctx)
	cancel()
	<-watched
	if err == nil {
		return nil
	}
	select {
	case <-down: // which says more than that the check was given up
		return a.lastCause()
	default:
		return err
	}
}

// markDown says that the app is gone and why.
func (a *app) markDown(cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ready, a.cause = false, cause
	close(a.down)
	a.down = make(chan struct{})
}

// distrust lets it be checked again whether the app is ready, which has not
// gone down.
func (a *app) distrust() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ready = false
}

// downs returns a channel that is closed when the app goes down next.
func (a *app) downs() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.down
}

// lastCause is why the app went down last; nil if it never did.
func (a *app) lastCause() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cause
}
