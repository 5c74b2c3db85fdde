package caddymodule

import (
	"errors"
	"io"
	"sync"
)

const (
	// maxReadAhead is how many bytes of one body are read while its request is
	// in the queue. A client that leaves is noticed once everything it sent
	// before has been taken off its hands: the network says nothing earlier.
	maxReadAhead = 8 << 20

	firstPiece = 4 << 10  // most bodies of unknown length are small
	otherPiece = 64 << 10 // bytes
)

// piecePool has pieces of the larger size. Without it, clients that queue, send
// and leave would keep the collector busy.
var piecePool = bufferPool(otherPiece)

func newPiece(size int) []byte {
	if size == otherPiece {
		return *piecePool.Get().(*[]byte)
	}
	return make([]byte, size)
}

// readAhead is the beginning of a body, read by a goroutine of its own.
type readAhead struct {
	memory *memory
	ended  chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // guards the following
	stopped bool       // the goroutine reads no more
	pieces  [][]byte   // what has been read and not yet been taken
	taken   int        // how many bytes of the first piece have been taken
	err     error      // what ended the reading
}

// startReadAhead begins to read src. Nobody else may do so until the channel
// ended is closed. What then ended the reading, io.EOF included, is told to
// failed before anybody else learns of it; waiting is false if what was read
// ahead is being taken already.
func startReadAhead(src io.Reader, m *memory, limit int, failed func(err error, waiting bool)) *readAhead {
	a := &readAhead{memory: m, ended: make(chan struct{})}
	go func() {
		defer close(a.ended)
		a.fill(src, limit, failed)
	}()
	return a
}

func (a *readAhead) fill(src io.Reader, limit int, failed func(error, bool)) {
	for size, total := firstPiece, 0; total < limit; total, size = total+size, otherPiece {
		size = min(size, limit-total)
		if !a.hold(size) {
			return
		}
		buf := newPiece(size)
		for n := 0; n < size; {
			k, err := src.Read(buf[n:])
			if err != nil {
				failed(err, !a.isStopped())
			}
			if !a.add(buf[:n+k], n == 0, err) || err != nil {
				return
			}
			n += k
		}
	}
}

func (a *readAhead) isStopped() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stopped
}

// hold takes memory for a piece.
func (a *readAhead) hold(size int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.stopped && a.memory.take(size)
}

// add makes known what has been read of a piece so far. It reports whether more
// is wanted.
func (a *readAhead) add(piece []byte, first bool, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if first {
		a.pieces = append(a.pieces, piece)
	} else {
		a.pieces[len(a.pieces)-1] = piece
	}
	a.err = err
	return !a.stopped
}

// errDrained says that everything that was read ahead has been taken.
var errDrained = errors.New("nothing is left")

// Read takes what has been read. From the first call on nothing is read ahead
// any more, apart from what is under way. After the last byte it gives the error
// that ended the reading, if any, else errDrained: the rest is to be read from
// the source.
func (a *readAhead) Read(p []byte) (int, error) {
	if n := a.take(p); n > 0 || len(p) == 0 {
		return n, nil
	}
	<-a.ended // it may be about to get something
	if n := a.take(p); n > 0 {
		return n, nil
	}
	a.release()
	if a.err != nil {
		return 0, a.err
	}
	return 0, errDrained
}

func (a *readAhead) take(p []byte) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	// The last piece may still grow.
	for len(a.pieces) > 1 && a.taken == len(a.pieces[0]) {
		a.drop(a.pieces[0])
		a.pieces, a.taken = a.pieces[1:], 0
	}
	if len(a.pieces) == 0 {
		return 0
	}
	n := copy(p, a.pieces[0][a.taken:])
	a.taken += n
	return n
}

// drop gives the memory of a piece back. Callers hold a.mu.
func (a *readAhead) drop(piece []byte) {
	a.memory.give(cap(piece))
	if cap(piece) == otherPiece {
		piece = piece[:otherPiece]
		piecePool.Put(&piece)
	}
}

// release gives all memory back. The goroutine must have ended.
func (a *readAhead) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, piece := range a.pieces {
		a.drop(piece)
	}
	a.pieces, a.taken = nil, 0
}
