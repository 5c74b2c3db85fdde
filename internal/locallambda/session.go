package locallambda

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// session is what the processes of one environment have asked for and been
// told: the state behind the Runtime API and the Extensions API. It knows no
// process, no connection and no clock.
//
// Its methods that processes call (through HTTP, usually) may block; those
// that the environment calls do not.
type session struct {
	external map[string]bool // file names of the external extensions

	changed chan struct{}  // capacity 1: something happened; the environment looks
	events  chan *delivery // capacity 1: the runtime's next event
	ended   chan struct{}  // closed at the end: nobody waits any longer

	mu         sync.Mutex // guards what follows
	ready      bool       // the runtime has asked for its first event: registration is over
	polling    bool       // the runtime waits for an event
	current    *delivery
	extensions map[string]*extension // by identifier
	failure    *failure
	over       bool
}

// delivery is an invocation on its way through the runtime.
type delivery struct {
	inv      *invocation
	deadline time.Time

	// Guarded by session.mu.

	claimed  bool // an answer is being received
	answered bool
	answer   result
}

// refusal is an error of the Runtime API or the Extensions API.
type refusal struct {
	status  int
	kind    string
	message string
}

func (r *refusal) Error() string { return r.kind + ": " + r.message }

func refuse(status int, kind, format string, args ...any) *refusal {
	return &refusal{status: status, kind: kind, message: fmt.Sprintf(format, args...)}
}

// errEnded ends the calls that wait when the environment ends.
var errEnded = refuse(http.StatusGone, "Sandbox.Ended", "the environment has ended")

func newSession(external []string) *session {
	s := &session{
		external:   make(map[string]bool, len(external)),
		changed:    make(chan struct{}, 1),
		events:     make(chan *delivery, 1),
		ended:      make(chan struct{}),
		extensions: make(map[string]*extension),
	}
	for _, name := range external {
		s.external[name] = true
	}
	return s
}

// notify has the environment look again. One signal stands for all changes
// since the last look.
func (s *session) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// What the environment asks and says.

// registered reports whether every external extension has registered.
func (s *session) registered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allRegistered()
}

func (s *session) allRegistered() bool {
	n := 0
	for _, x := range s.extensions {
		if x.external {
			n++
		}
	}
	return n == len(s.external)
}

// idle reports whether the runtime and all extensions wait for an event.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.polling || !s.allRegistered() {
		return false
	}
	for _, x := range s.extensions {
		if !x.idle {
			return false
		}
	}
	return true
}

// failed returns the error that a process has reported about itself.
func (s *session) failed() *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// begin hands out an invocation. The session must be idle.
func (s *session) begin(inv *invocation, deadline time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polling = false
	s.current = &delivery{inv: inv, deadline: deadline}
	for _, x := range s.extensions {
		if !x.invoke {
			continue
		}
		x.idle = false
		x.events <- extensionEvent{ // never blocks: an idle extension has none pending
			Type: eventInvoke, DeadlineMS: deadline.UnixMilli(), RequestID: inv.id, ARN: inv.arn,
			Tracing: map[string]string{"type": "X-Amzn-Trace-Id", "value": inv.trace},
		}
	}
	s.events <- s.current // never blocks: a polling runtime has taken the last one
}

// answered reports whether the runtime has answered the current invocation.
func (s *session) answered() bool {
	_, ok := s.answer()
	return ok
}

func (s *session) answer() (result, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || !s.current.answered {
		return result{}, false
	}
	return s.current.answer, true
}

// grace says how long the shutdown phase lasts and which part of it belongs
// to the runtime.
func (s *session) grace() (total, runtime time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.extensions {
		if x.external {
			return shutdownExternal, shutdownRuntime
		}
		total, runtime = shutdownInternal, shutdownInternal
	}
	return total, runtime
}

// shutDown tells the extensions that subscribed to it, and returns the names
// of the external ones that did not.
func (s *session) shutDown(reason string, deadline time.Time) (unsubscribed []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := make(map[string]bool)
	for _, x := range s.extensions {
		if x.shutdown {
			told[x.name] = true
			x.events <- extensionEvent{Type: eventShutdown, DeadlineMS: deadline.UnixMilli(), Reason: reason}
		}
	}
	for name := range s.external {
		if !told[name] {
			unsubscribed = append(unsubscribed, name)
		}
	}
	return unsubscribed
}

// end releases everybody who waits.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.ended)
	}
}

// What the runtime asks and says.

// next returns the runtime's next event. The first call ends its init phase.
func (s *session) next(ctx context.Context) (*delivery, error) {
	s.mu.Lock()
	// An event that waits to be fetched, after a poll that broke off, is there
	// for the next one.
	pending := len(s.events) > 0
	if d := s.current; d != nil && !d.answered && !pending {
		s.mu.Unlock()
		return nil, refuse(http.StatusForbidden, "InvalidStateTransition",
			"invocation %s has not been answered", d.inv.id)
	}
	s.ready, s.polling = true, !pending
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

// claim lets exactly one caller answer the invocation. It validates before
// anything changes, so that a wrong answer leaves the invocation as it was.
func (s *session) claim(id string) (*delivery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.current
	if d == nil || d.inv.id != id {
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

// initError reports that the runtime cannot be initialised.
func (s *session) initError(f *failure) error {
	s.mu.Lock()
	if s.ready {
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

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
