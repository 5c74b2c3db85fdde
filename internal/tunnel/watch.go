package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// The engine sends a PING when nothing has come for PingInterval, however many
// tunnels there are, so that must not be too often. Requests that wait cannot
// wait for that. So while any does, and the adapter says nothing at all, the
// router asks on the control stream whether it lives.
const (
	// askAfter is how long nothing has come before the router asks.
	askAfter = time.Second
	// suspectAfter is how long an adapter may take to answer before the tunnel
	// should get no more requests. PingTimeout after the question it is lost.
	suspectAfter = time.Second
	lookEvery    = 250 * time.Millisecond // from then on
)

// Watched is also implemented by every [Tunnel] that a [Listener] makes.
type Watched interface {
	// Suspect receives true when requests wait and the instance does not answer
	// the question whether it lives, and false when it has been heard again. Only
	// the newest value is kept.
	Suspect() <-chan bool
}

// watch asks a silent adapter whether it lives.
type watch struct {
	patience time.Duration // for an answer
	changes  chan bool     // see Watched
	running  atomic.Bool   // the timer is, or its function

	mu      sync.Mutex
	timer   *time.Timer // guarded by mu, nil before the first request
	stopped bool        // guarded by mu
	asked   time.Time   // guarded by mu: zero if nothing is to be answered
	looks   int         // guarded by mu: in vain, since suspectAfter
	suspect bool        // guarded by mu
}

// watchRequest makes sure that somebody watches while a request waits.
func (t *tunnel) watchRequest() {
	if t.watch.running.Load() || !t.watch.running.CompareAndSwap(false, true) {
		return
	}
	w := &t.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
	case w.timer == nil:
		w.timer = time.AfterFunc(askAfter, t.look)
	default:
		w.timer.Reset(askAfter)
	}
}

// look is called while requests wait, or after that until a suspicion has been
// settled.
func (t *tunnel) look() {
	w := &t.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	silent := t.conn.silent()
	now := time.Now()
	switch {
	case w.asked.IsZero() && t.unwatched():
	case w.asked.IsZero() && silent < askAfter:
		w.timer.Reset(askAfter - silent)
	case w.asked.IsZero():
		w.asked = now
		t.out.put(encodeLine(control{Type: msgPing}))
		w.timer.Reset(suspectAfter)
	case silent <= now.Sub(w.asked): // something has come since
		w.asked, w.looks = time.Time{}, 0
		w.set(false)
		w.timer.Reset(max(askAfter-silent, 0))
	case w.looks > int((w.patience-suspectAfter)/lookEvery):
		t.conn.closeWith(ErrPeerLost)
	default:
		// The looks are counted and not the time, which also passes while
		// this process is stopped and cannot hear anything.
		w.looks++
		w.set(true)
		w.timer.Reset(lookEvery)
	}
}

// unwatched ends the watching if no request waits. Whoever comes after that
// starts it again.
func (t *tunnel) unwatched() bool {
	if t.pending.Load() > 0 {
		return false
	}
	t.watch.running.Store(false)
	return t.pending.Load() == 0 || !t.watch.running.CompareAndSwap(false, true)
}

// set tells a change. It is called with mu held.
func (w *watch) set(suspect bool) {
	if w.suspect == suspect {
		return
	}
	w.suspect = suspect
	select {
	case <-w.changes: // nobody has heard of the last one, nor needs to
	default:
	}
	w.changes <- suspect
}

// stop ends the watching together with the tunnel.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// Suspect implements [Watched].
func (t *tunnel) Suspect() <-chan bool { return t.watch.changes }
