package appproxy

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
)

// App lets the app answer requests. [Proxy] and [H2] implement it.
type App interface {
	// Serve lets the app answer r, as [http.Handler] does. The request can be
	// ended through the scope.
	Serve(w http.ResponseWriter, r *http.Request, s *Scope)
	// CloseIdle closes the connections that have no request.
	CloseIdle()
	// Close closes all connections. Nothing can be served after it.
	Close()
	// Activity tells what goes on between the proxy and the app.
	Activity() Activity
}

// Activity is a look at what goes on between the proxy and the app.
type Activity struct {
	// Waiting is how many requests wait for the head of their final answer, and
	// not for their client to send more of the body.
	Waiting int
	// Reads grows whenever the app sends something, on any connection.
	Reads uint64
}

// activity is what Activity is read from.
type activity struct {
	waiting atomic.Int64
	reads   atomic.Uint64
}

// waiter is one request's part of the count of those that wait.
type waiter struct {
	all *activity

	mu     sync.Mutex // guards the following
	asking bool       // for the answer's head
	client bool       // the rest of the body is the client's to send
}

func (w *waiter) ask(asking bool) { w.set(&w.asking, asking) }

func (w *waiter) awaitClient(waits bool) { w.set(&w.client, waits) }

func (w *waiter) set(what *bool, to bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.asking && !w.client
	*what = to
	switch after := w.asking && !w.client; {
	case after && !before:
		w.all.waiting.Add(1)
	case before && !after:
		w.all.waiting.Add(-1)
	}
}

func (a *activity) look() Activity {
	return Activity{Waiting: int(a.waiting.Load()), Reads: a.reads.Load()}
}

// Fault is why requests are ended from outside.
type Fault struct{ Code, Message string }

// Scope is the requests of one tunnel, which can be ended together without
// harm to those of another. It is an [http.Handler].
type Scope struct {
	// Lost, if set, is called before a request is answered that failed because
	// the app ended the connection, or refused one. It may wait a moment, to
	// let those who give out requests know before they hear of the failure
	// that there is no app.
	Lost func(ctx context.Context)

	// Report, if set, is told why a request has got no complete answer, instead
	// of the log, and before the request is failed or cut. Clients that are gone
	// are reported, too, by [CodeCancelled].
	Report func(code string, err error)

	app App

	mu     sync.Mutex
	active map[aborter]struct{} // guarded by mu
	fault  *Fault               // guarded by mu; nil until Abort
}

// aborter is a request under way. abort must not block and may be called when
// the request is over.
type aborter interface{ abort() }

// NewScope returns a scope without requests.
func NewScope(app App) *Scope {
	return &Scope{app: app, active: make(map[aborter]struct{})}
}

// ServeHTTP lets the app answer r. It panics with [http.ErrAbortHandler] when
// the answer has begun and cannot be completed, or when nobody waits for it.
//
// The server must close r.Body's pending Read when Body.Close is called, as
// Go's HTTP/2 servers do, and must allow the body to be read after the answer
// has begun.
func (s *Scope) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.app.Serve(w, r, s) }

// Abort ends every request under way, and every later one: those whose answer
// has not begun are answered with the fault, the others are cut.
func (s *Scope) Abort(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil {
		s.fault = &f
	}
	for a := range s.active {
		a.abort()
	}
}

func (s *Scope) lostConnection(r *http.Request) {
	if s.Lost != nil {
		s.Lost(r.Context())
	}
}

// enter begins a request, unless the scope has been aborted.
func (s *Scope) enter(a aborter) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == nil {
		s.active[a] = struct{}{}
	}
	return s.fault
}

// leave ends a request and returns the fault if it was aborted meanwhile.
func (s *Scope) leave(a aborter) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.active, a)
	return s.fault
}
