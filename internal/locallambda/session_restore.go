package locallambda

import (
	"context"
	"net/http"
)

// The restore phase of SnapStart. The runtime asks to be restored when its init
// phase is done; that call returns in the restored environment, where its hooks
// run until it asks for its first event.
// https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-custom.html

// snapshotable reports whether the init phase is over: the runtime waits to be
// restored or, if it knows nothing of snapshots, for its first event.
func (s *session) snapshotable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return (s.restoring || s.polling) && s.extensionsIdle()
}

// resume lets the runtime go on after its snapshot.
func (s *session) resume() { close(s.resumed) }

// restoreNext waits until the environment is restored.
func (s *session) restoreNext(ctx context.Context) error {
	s.mu.Lock()
	if s.ready || s.isResumed() {
		s.mu.Unlock()
		return refuse(http.StatusForbidden, "InvalidStateTransition", "the environment needs no restoring any more")
	}
	s.restoring = true
	s.mu.Unlock()
	s.notify()
	select {
	case <-s.resumed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ended:
		return errEnded
	}
}

// restoreError reports that the runtime's hooks have failed.
func (s *session) restoreError(f *failure) error {
	s.mu.Lock()
	if s.ready || !s.restoring || !s.isResumed() {
		s.mu.Unlock()
		return refuse(http.StatusForbidden, "InvalidStateTransition", "the environment is not being restored")
	}
	if s.failure == nil {
		s.failure = f
	}
	s.mu.Unlock()
	s.notify()
	return nil
}

func (s *session) isResumed() bool {
	select {
	case <-s.resumed:
		return true
	default:
		return false
	}
}
