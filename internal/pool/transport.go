package pool

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// How many instances one request is sent to. The bounds are numbers and not
// times, because it may be the request that is bad for the instances.
const (
	// maxAttempts is for all of them together. Those that could not even take
	// the request have not suffered from it, but get no more requests either.
	maxAttempts = 10
	// maxSeen is for those whose app may have seen the request. Where instances
	// die by the second, one in thirty requests meets the end of one, and of
	// those one in thirty the next. At 500 requests a second three attempts lose
	// one a minute, and five lose one a day.
	maxSeen = 5
	// maxFailures is for those of them that failed the request and go on. A
	// request that three such instances could not answer is not unlucky.
	maxFailures = 3
)

// KeepBody gives the lease the whole body of its request, so that the request
// can be sent again even after the body has been sent.
func (l *Lease) KeepBody(body []byte) {
	l.body, l.kept = body, true
}

// RoundTrip sends the request to the leased instance and, where that cannot do
// harm, to another one if it fails (see [Lease.mayRetry]). It implements
// [http.RoundTripper]; the caller releases the lease when it is done with the
// response's body.
func (l *Lease) RoundTrip(req *http.Request) (*http.Response, error) {
	var seen *watchedBody
	switch {
	case l.kept:
	case req.Body == nil || req.Body == http.NoBody:
	default:
		seen = &watchedBody{ReadCloser: req.Body}
		req.Body = seen
		// Whatever comes of it, there is no attempt after this.
		defer seen.release()
	}
	for {
		if l.kept {
			req.Body = io.NopCloser(bytes.NewReader(l.body))
		}
		l.attempts++
		l.sentTo = l.in.id
		resp, err := l.in.tunnel.RoundTrip(req)
		if err == nil {
			return resp, nil
		}
		if gone := req.Context().Err(); gone != nil {
			// Said now: closing the body, which follows, can end the context
			// of a client that is still there.
			return nil, errors.Join(gone, err)
		}
		l.count(err)
		if !l.mayRetry(req, seen, err) {
			return nil, err
		}
		l.pool.metrics.Retried()
		if c := l.pool.log.Check(zap.DebugLevel, "trying request on another instance"); c != nil {
			c.Write(zap.String("instance", l.in.id), zap.Int("attempt", l.attempts), zap.Error(err))
		}
		l.move(err)
		if waitErr := l.Wait(req.Context()); waitErr != nil {
			return nil, errors.Join(waitErr, err)
		}
	}
}

// mayRetry decides whether a failed request may be sent to another instance.
// It may if the app has certainly not seen it, or if it is idempotent (RFC
// 9110, section 9.2.2), so that seeing it twice does no harm; and only if the
// body can still be sent from its beginning. No byte of a response has been
// passed on, or RoundTrip would have returned it.
func (l *Lease) mayRetry(req *http.Request, body *watchedBody, err error) bool {
	if l.attempts >= maxAttempts || l.seen >= maxSeen || l.failures >= maxFailures {
		return false
	}
	if errors.Is(err, tunnel.ErrBadRequest) || errors.Is(err, tunnel.ErrHeadersTooLarge) {
		return false // another instance would say the same
	}
	if body != nil && body.read.Load() {
		return false
	}
	return unprocessed(err) || httprules.Idempotent(req.Method)
}

// count counts a failed attempt, and against the request if that may be to blame.
func (l *Lease) count(err error) {
	if unprocessed(err) {
		return
	}
	l.seen++
	if tunnelLost(err) {
		return
	}
	select {
	case <-l.in.tunnel.Draining(): // its app has ended, says the adapter
	default:
		l.failures++
	}
}

// unprocessed reports whether the app has certainly seen nothing of the request.
func unprocessed(err error) bool {
	e, ok := errors.AsType[*tunnel.RoundTripError](err)
	return ok && !e.Processed
}

// tunnelLost reports whether a request failed because its whole tunnel did.
func tunnelLost(err error) bool {
	return errors.Is(err, tunnel.ErrPeerLost) || errors.Is(err, tunnel.ErrPeerClosed) ||
		errors.Is(err, tunnel.ErrClosed) || errors.Is(err, tunnel.ErrProtocol)
}

// move gives up the slot and queues the lease where it would stand had it
// waited since it came. An instance that could not even take a request gets
// no more of them.
func (l *Lease) move(cause error) {
	p := l.pool
	now := time.Now()
	p.mu.Lock()
	switch {
	case tunnelLost(cause):
		// Its own goroutine will say so too, but perhaps after this request
		// has been given to it again.
		p.retire(l.in, "tunnel closed")
	case unprocessed(cause):
		p.retire(l.in, "request not taken")
	}
	p.free(l.in, now)
	l.in = nil
	if l.granted == nil {
		l.granted = make(chan struct{}, 1)
	}
	l.queued, l.queuedAt = true, now
	if slot := p.disp.Requeue(&l.waiter); slot != nil {
		grant(&l.waiter, slot)
	} else if err := p.unavailable(now); err != nil {
		p.disp.Cancel(&l.waiter)
		l.err = err
		l.granted <- struct{}{}
	}
	p.observe(now)
	p.mu.Unlock()
	p.wake()
}

// watchedBody notices whether the body was touched, and keeps it open for as
// long as another attempt may need it: a failed attempt closes the body that it
// was given. After that, closing it must reach the client's body, because an
// attempt that reads from a client that has stopped sending ends only so.
type watchedBody struct {
	io.ReadCloser
	read atomic.Bool

	mu       sync.Mutex // guards the following
	closed   bool
	released bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

func (b *watchedBody) Close() error {
	b.mu.Lock()
	b.closed = true
	released := b.released
	b.mu.Unlock()
	if !released {
		return nil
	}
	return b.ReadCloser.Close()
}

// release lets Close reach the client's body, and makes up for one that has not.
func (b *watchedBody) release() {
	b.mu.Lock()
	b.released = true
	closed := b.closed
	b.mu.Unlock()
	if closed {
		_ = b.ReadCloser.Close()
	}
}
