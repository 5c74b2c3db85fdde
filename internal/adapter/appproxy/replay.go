package appproxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// maxReplay is how much of a request's body is kept until the answer begins,
// so that a request can be sent again that the app did not take.
const maxReplay = 64 << 10

// replay lets several attempts, one after the other, read a request's body
// from its beginning. A goroutine of its own reads the body: an attempt that
// is over must not have to wait for a client that sends nothing.
type replay struct {
	body    io.ReadCloser
	trailer http.Header // of the request, complete when the body ends
	done    chan struct{}

	mu      sync.Mutex
	changed *sync.Cond  // on mu
	kept    []byte      // guarded by mu; the body so far, while keeping
	keeping bool        // guarded by mu
	next    []byte      // guarded by mu; read, for the attempt that has all of kept
	err     error       // guarded by mu; the body's end
	current *replayBody // guarded by mu
	asked   bool        // guarded by mu; an attempt has wanted the body
	stopped bool        // guarded by mu
}

func newReplay(body io.ReadCloser, trailer http.Header) *replay {
	r := &replay{body: body, trailer: trailer, done: make(chan struct{}), keeping: true}
	r.changed = sync.NewCond(&r.mu)
	go r.pump()
	return r
}

var errReplayEnded = errors.New("the attempt is over")

// pump reads a piece whenever the one before has been taken, so that a slow
// app slows the client.
func (r *replay) pump() {
	defer close(r.done)
	buf := uploadBuffers.Get().(*[uploadBuffer]byte)
	defer uploadBuffers.Put(buf)
	for r.wanted() {
		n, err := r.body.Read(buf[:])
		r.mu.Lock()
		if r.keeping && len(r.kept)+n <= maxReplay {
			r.kept = append(r.kept, buf[:n]...)
		} else {
			r.keeping = false
			r.next = buf[:n]
		}
		r.err = err
		r.changed.Broadcast()
		r.mu.Unlock()
	}
}

// wanted waits until all that was read has been taken, and reports whether
// there should be more. Nothing is read before an attempt asks for it: reading
// tells a client that waits for a 100 to send its body.
func (r *replay) wanted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.stopped && (!r.asked || len(r.next) > 0 || (r.err == nil && (r.current == nil || r.current.off < len(r.kept)))) {
		r.changed.Wait()
	}
	return !r.stopped && r.err == nil
}

// again returns the body from its beginning for another attempt, or nil if its
// beginning is gone. The attempt before sees no more of it.
func (r *replay) again(trailer http.Header) *replayBody {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.keeping {
		return nil
	}
	r.current = &replayBody{r: r, trailer: trailer}
	r.changed.Broadcast()
	return r.current
}

// commit gives up the beginning: there will be no other attempt.
func (r *replay) commit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keeping = false
}

// broken returns why the body could not be read; nil if it could.
func (r *replay) broken() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil || errors.Is(r.err, io.EOF) {
		return nil
	}
	return bodyError(r.err)
}

// stop ends reading the body and waits for that.
func (r *replay) stop() {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.stopped = true
	r.changed.Broadcast()
	r.mu.Unlock()
	_ = r.body.Close()
	<-r.done
}

// replayBody is the body of one attempt.
type replayBody struct {
	r       *replay
	trailer http.Header // gets the request's trailers at the end
	off     int         // guarded by r.mu; what was read of r.kept
	closed  bool        // guarded by r.mu
}

func (b *replayBody) Read(p []byte) (int, error) {
	r := b.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked {
		r.asked = true
		r.changed.Broadcast()
	}
	for {
		switch {
		case b.closed || r.stopped || r.current != b:
			return 0, errReplayEnded
		case b.off < len(r.kept):
			n := copy(p, r.kept[b.off:])
			b.off += n
			if !r.keeping && b.off == len(r.kept) {
				r.kept, b.off = nil, 0
			}
			r.changed.Broadcast()
			return n, nil
		case len(r.next) > 0:
			n := copy(p, r.next)
			r.next = r.next[n:]
			r.changed.Broadcast()
			return n, nil
		case r.err != nil:
			if errors.Is(r.err, io.EOF) {
				for name := range b.trailer {
					b.trailer[name] = r.trailer[name]
				}
			}
			return 0, r.err
		}
		r.changed.Wait()
	}
}

func (b *replayBody) Close() error {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	b.closed = true
	b.r.changed.Broadcast()
	return nil
}
