package locallambda

import (
	"context"
	"net/http"
)

// This file has what the runtime asks and says. What the environment asks and
// says is in session.go.

// next returns the runtime's next event. The first call ends its init phase.
func (s *session) next(ctx context.Context) (*delivery, error) {
	for {
		d, err := s.fetch(ctx)
		if err != nil {
			return nil, err
		}
		if !s.skip(d) {
			return d, nil
		}
	}
}

func (s *session) fetch(ctx context.Context) (*delivery, error) {
	s.mu.Lock()
	// An event that waits to be fetched, after a poll that broke off, is there
	// for the next one.
	pending := len(s.events)
	if running := s.unanswered() - pending; running >= s.concurrency {
		s.mu.Unlock()
		return nil, refuse(http.StatusForbidden, "InvalidStateTransition",
			"%d invocations have not been answered", running)
	}
	s.ready, s.polling = true, pending == 0 || s.concurrency > 1
	s.mu.Unlock()
	s.notify()
	select {
	case d := <-s.events:
		return d, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ended:
		return nil, errEnded
	}
}

func (s *session) unanswered() int {
	n := 0
	for _, d := range s.open {
		if !d.answered {
			n++
		}
	}
	return n
}

// skip ends a delivery that came too late to be fetched.
func (s *session) skip(d *delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.expired {
		d.answered = true
		s.notify()
	}
	return d.expired
}

// claim lets exactly one caller answer the invocation. It validates before
// anything changes, so that a wrong answer leaves the invocation as it was.
func (s *session) claim(id string) (*delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.open[id]
	if d == nil {
		return nil, refuse(http.StatusBadRequest, "InvalidRequestID", "there is no invocation %s", id)
	}
	if d.claimed {
		return nil, refuse(http.StatusForbidden, "InvalidStateTransition",
			"invocation %s has been answered already", id)
	}
	d.claimed = true
	return d, nil
}

// unclaim gives the answer free again, after one that broke off.
func (s *session) unclaim(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.claimed = false
}

// settle answers the claimed invocation.
func (s *session) settle(d *delivery, r result) {
	s.mu.Lock()
	d.answered, d.answer = true, r
	s.mu.Unlock()
	s.notify()
}

// initOver reports whether the runtime is done with its init phase, which ends
// registration too.
func (s *session) initOver() bool { return s.ready || s.restoring }

// initError reports that the runtime cannot be initialised.
func (s *session) initError(f *failure) error {
	s.mu.Lock()
	if s.initOver() {
		s.mu.Unlock()
		return refuse(http.StatusForbidden, "InvalidStateTransition", "the init phase is over")
	}
	if s.failure == nil {
		s.failure = f
	}
	s.mu.Unlock()
	s.notify()
	return nil
}
