package tunnel

import (
	"container/list"
	"time"
)

// Whoever can reach the port can open connections and say nothing, or begin TLS
// handshakes as fast as the network carries them. So only so many hellos run at
// once and so many begin in a second; other connections wait for their turn,
// which costs little more than a file descriptor. The newest goes first: it is
// the likeliest to belong to an adapter, which has just dialled and speaks at
// once, while those that have waited for long may never have wanted to.
const (
	// evictSilent and evictSlow are how long a hello may hold a place that
	// somebody else waits for: less if nothing that makes sense has come, not
	// even the end of the TLS handshake. In a small Lambda environment the whole
	// hello takes some 100 ms; an adapter that needs more has all of
	// HelloTimeout unless there is a crowd. A plain one that has to wait for
	// firstByte is silent until then.
	evictSilent = firstByte + 250*time.Millisecond
	evictSlow   = firstByte + time.Second

	// hellosPerSecond bounds the CPU that strangers get: a TLS handshake takes
	// 0.4 ms of it. Up to MaxPending may begin at once before that.
	hellosPerSecond = 500

	// waitingPerPlace times MaxPending connections wait at most.
	waitingPerPlace = 4
)

// pendingConn is a connection that is no tunnel yet.
type pendingConn struct {
	conn  *conn
	since time.Time // it was accepted
	begun time.Time // its hello has
}

// admission decides whose hello may begin. The listener's lock guards it.
type admission struct {
	places  int
	hellos  list.List // of *pendingConn that have begun, oldest first
	waiting list.List // of *pendingConn, newest first
	tokens  float64   // hellos that may begin now
	filled  time.Time // when tokens was right
}

// enter makes a connection wait for its turn. It returns the one that has to
// make room, if any.
func (a *admission) enter(c *conn, now time.Time) *pendingConn {
	a.waiting.PushFront(&pendingConn{conn: c, since: now})
	if a.waiting.Len() <= waitingPerPlace*a.places {
		return nil
	}
	return a.waiting.Remove(a.waiting.Back()).(*pendingConn)
}

// next takes the newest waiting connection whose hello may begin now, nil if
// there is none. The victim, if any, loses its place to it. Otherwise wait is
// when to ask again at the latest, 0 meaning when something has happened.
func (a *admission) next(now time.Time) (place *list.Element, victim *pendingConn, wait time.Duration) {
	a.tokens = min(float64(a.places), a.tokens+now.Sub(a.filled).Seconds()*hellosPerSecond)
	a.filled = now
	newest := a.waiting.Front()
	if newest == nil {
		return nil, nil, 0
	}
	if a.tokens < 1 {
		return nil, nil, time.Second / hellosPerSecond
	}
	if a.hellos.Len() >= a.places {
		if victim, wait = a.evict(now); victim == nil {
			return nil, nil, wait
		}
	}
	a.tokens--
	p := a.waiting.Remove(newest).(*pendingConn)
	p.begun = now
	return a.hellos.PushBack(p), victim, 0
}

// evict takes its place from the oldest hello that has had enough time, or
// says when there will be one.
func (a *admission) evict(now time.Time) (*pendingConn, time.Duration) {
	soonest := evictSlow
	for e := a.hellos.Front(); e != nil; e = e.Next() {
		p := e.Value.(*pendingConn)
		limit := evictSlow
		if p.conn.lastRead.Load() == 0 {
			limit = evictSilent
		}
		left := limit - now.Sub(p.begun)
		if left <= 0 {
			a.hellos.Remove(e)
			return p, 0
		}
		soonest = min(soonest, left)
	}
	return nil, soonest
}

// expire takes out a connection that has waited for too long, or says when
// there will be one.
func (a *admission) expire(now time.Time, limit time.Duration) (*pendingConn, time.Duration) {
	oldest := a.waiting.Back()
	if oldest == nil {
		return nil, 0
	}
	p := oldest.Value.(*pendingConn)
	if left := limit - now.Sub(p.since); left > 0 {
		return nil, left
	}
	a.waiting.Remove(oldest)
	return p, 0
}

// admit lets a connection in. It returns false if the listener is closed.
func (l *Listener) admit(c *conn) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	dropped := l.admission.enter(c, time.Now())
	l.mu.Unlock()
	if dropped != nil {
		l.refuse(dropped.conn, RejectOverload)
	}
	l.poke()
	return true
}

// refuse ends a connection whose hello has not begun.
func (l *Listener) refuse(c *conn, why Reject) {
	rej := &RejectError{Reject: why}
	c.closeWith(rej)
	l.cfg.OnReject(c.RemoteAddr(), rej)
}

// poke wakes the usher.
func (l *Listener) poke() {
	select {
	case l.changed <- struct{}{}:
	default: // it has not looked at the last change yet
	}
}

// usher begins the hellos of those whose turn it is, until it is told to quit
// or the listener is closed.
func (l *Listener) usher(quit <-chan struct{}) {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		wait, open := l.begin()
		if !open {
			return
		}
		t.Reset(wait)
		select {
		case <-l.changed:
		case <-t.C:
		case <-quit:
			return
		}
	}
}

// begin begins one hello after the other until there is nothing to do for the
// time that it returns.
func (l *Listener) begin() (wait time.Duration, open bool) {
	for {
		now := time.Now()
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return 0, false
		}
		expired, left := l.admission.expire(now, l.cfg.HelloTimeout)
		place, victim, again := l.admission.next(now)
		if place != nil {
			l.wg.Add(1)
			go l.handle(place)
		}
		l.mu.Unlock()
		if expired != nil {
			l.refuse(expired.conn, RejectTimeout)
		}
		if victim != nil {
			victim.conn.closeWith(&RejectError{Reject: RejectOverload})
		}
		if expired != nil || place != nil {
			continue
		}
		wait = time.Hour
		for _, d := range []time.Duration{left, again} {
			if d > 0 {
				wait = min(wait, d)
			}
		}
		return wait, true
	}
}

// leave gives a place back. It may have been taken away before.
func (l *Listener) leave(place *list.Element) {
	l.mu.Lock()
	l.admission.hellos.Remove(place)
	l.mu.Unlock()
	l.poke()
	l.wg.Done()
}

// clear ends all connections that are no tunnels yet. Callers have set closed.
func (l *Listener) clear() {
	var waiting, hellos []*conn
	l.mu.Lock()
	for e := l.admission.waiting.Front(); e != nil; e = e.Next() {
		waiting = append(waiting, e.Value.(*pendingConn).conn)
	}
	l.admission.waiting.Init()
	for e := l.admission.hellos.Front(); e != nil; e = e.Next() {
		hellos = append(hellos, e.Value.(*pendingConn).conn)
	}
	l.mu.Unlock()
	for _, c := range waiting {
		l.refuse(c, RejectClosed)
	}
	for _, c := range hellos {
		c.closeWith(&RejectError{Reject: RejectClosed})
	}
}
