package locallambda

import (
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
	sessionConfig
	external map[string]bool // file names of the external extensions

	changed chan struct{}  // capacity 1: something happened; the environment looks
	events  chan *delivery // capacity: the concurrency; what the runtime has not fetched yet
	ended   chan struct{}  // closed at the end: nobody waits any longer
	resumed chan struct{}  // closed when the runtime goes on after its snapshot

	mu         sync.Mutex            // guards what follows
	ready      bool                  // the runtime has asked for its first event
	polling    bool                  // the runtime waits for an event; when several run at once, it has waited for one
	restoring  bool                  // the runtime has asked to be restored: it is ready for its snapshot
	open       map[string]*delivery  // by request ID; answered ones too until the environment closes them
	extensions map[string]*extension // by identifier
	failure    *failure
	over       bool
}

// sessionConfig is what a session depends on.
type sessionConfig struct {
	names       []string // file names of the external extensions
	concurrency int      // how many invocations the runtime may run at once; 0 means 1
	snapStart   bool     // the restore phase exists
}

// delivery is an invocation on its way through the runtime.
type delivery struct {
	inv      *invocation
	deadline time.Time

	// Guarded by session.mu.

	claimed  bool // an answer is being received
	expired  bool // its time was up before it was answered
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

func newSession(c sessionConfig) *session {
	c.concurrency = max(1, c.concurrency)
	s := &session{
		sessionConfig: c,
		external:      make(map[string]bool, len(c.names)),
		changed:       make(chan struct{}, 1),
		events:        make(chan *delivery, c.concurrency),
		ended:         make(chan struct{}),
		resumed:       make(chan struct{}),
		open:          make(map[string]*delivery, c.concurrency),
		extensions:    make(map[string]*extension),
	}
	for _, name := range c.names {
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
	return s.polling && s.extensionsIdle()
}

func (s *session) extensionsIdle() bool {
	for _, x := range s.extensions {
		if !x.idle {
			return false
		}
	}
	return s.allRegistered()
}

// failed returns the error that a process has reported about itself.
func (s *session) failed() *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// begin hands out an invocation. The session must be idle, or run fewer than
// its concurrency.
func (s *session) begin(inv *invocation, deadline time.Time) *delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.concurrency == 1 {
		s.polling = false
		clear(s.open)
	}
	d := &delivery{inv: inv, deadline: deadline}
	s.open[inv.id] = d
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
	s.events <- d // never blocks: there are fewer than the concurrency
	return d
}

// answer returns the runtime's answer to a delivery, if there is one.
func (s *session) answer(d *delivery) (result, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return d.answer, d.answered
}

// expire says that nobody waits for the answer any longer. The runtime is not
// told, but it gets no event that it has not fetched yet.
func (s *session) expire(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.expired = true
}

// close forgets an answered delivery.
func (s *session) close(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, d.inv.id)
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

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
