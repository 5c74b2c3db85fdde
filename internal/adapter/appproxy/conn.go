package appproxy

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// connBuffer holds the heads of answers, and whole small answers.
	connBuffer = 4 << 10
	// maxAnswerHead bounds the heads of one answer, informational ones
	// included. The tunnel could not carry more.
	maxAnswerHead = 1 << 20
	// copyBuffer is the size of the pieces in which answers go on: the
	// tunnel's frame size, which measured best.
	copyBuffer = 128 << 10
	// smallBuffer serves answers that are known to be small, so that many of
	// them at once do not take a copyBuffer each.
	smallBuffer = 8 << 10
	// uploadBuffer is the size of the pieces in which request bodies go on.
	uploadBuffer = 32 << 10
)

var (
	headBuffers   = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}
	copyBuffers   = sync.Pool{New: func() any { return new([copyBuffer]byte) }}
	smallBuffers  = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	uploadBuffers = sync.Pool{New: func() any { return new([uploadBuffer]byte) }}
)

var (
	// errStale: the app had closed a reused connection before it could see
	// the request, so that it can be sent again.
	errStale = errors.New("connection was stale")

	errHeadTooLarge = errors.New("the app's answer has a head of more than 1 MB")
)

// conn is a connection to the app. It belongs to one request at a time.
type conn struct {
	net.Conn
	r       *bufio.Reader // reads from in
	in      source
	onClose func() // close, as a value made once

	reused    bool
	idleSince time.Time
	idleFor   time.Duration // how long it may wait for its next request
}

func newConn(nc net.Conn, reads *atomic.Uint64) *conn {
	c := &conn{Conn: nc}
	c.in.init(nc, reads)
	c.r = bufio.NewReaderSize(&c.in, connBuffer)
	c.onClose = c.close
	return c
}

// close may be called more than once and from anywhere.
func (c *conn) close() { _ = c.Conn.Close() }

// abort implements aborter.
func (c *conn) abort() { c.close() }

// quiet reports whether an idle connection is still open and silent.
func (c *conn) quiet() bool {
	var b [1]byte
	_, err := c.in.try(b[:])
	return err == errWouldWait //nolint:errorlint // never wrapped
}

// errWouldWait is returned by source.try when there is nothing to read yet.
var errWouldWait = errors.New("read would wait")

// source reads from the connection. It flushes what has been written to the
// client before it waits for more, and only then: an answer that is there
// already goes out in as few pieces as possible, and one that the app sends
// bit by bit is never held back.
type source struct {
	conn  net.Conn
	reads *atomic.Uint64 // counts what the app sends, on all connections
	head  int64          // bytes that the head may still take; negative: no limit
	any   bool           // whether a byte came since begin
	check headCheck

	client  flusher // flushed before waiting if dirty
	dirty   bool
	rawRead // how to read without waiting
}

type flusher interface{ FlushError() error }

func (s *source) init(nc net.Conn, reads *atomic.Uint64) {
	s.conn, s.reads = nc, reads
	s.rawRead.init(nc)
}

// begin prepares for the answer to a new request.
func (s *source) begin() {
	s.head, s.any, s.client, s.dirty = maxAnswerHead, false, nil, false
	s.check.begin()
}

// stream says that the head is over and that the rest goes to client.
func (s *source) stream(client flusher) {
	s.head, s.client, s.dirty = -1, client, true
}

// Read implements [io.Reader] for the bufio.Reader.
func (s *source) Read(p []byte) (int, error) {
	if s.head >= 0 {
		return s.readHead(p)
	}
	if s.dirty {
		n, err := s.try(p)
		if err != errWouldWait { //nolint:errorlint // never wrapped
			s.reads.Add(1)
			return n, err
		}
		if err := s.client.FlushError(); err != nil {
			return 0, err
		}
		s.dirty = false
	}
	n, err := s.conn.Read(p)
	s.reads.Add(1)
	return n, err
}

func (s *source) readHead(p []byte) (int, error) {
	if s.head == 0 {
		return 0, errHeadTooLarge
	}
	if int64(len(p)) > s.head {
		p = p[:s.head]
	}
	n, err := s.conn.Read(p)
	s.head -= int64(n)
	if n > 0 {
		s.any = true
		s.reads.Add(1)
		if err := s.check.feed(p[:n]); err != nil {
			return 0, err
		}
	}
	return n, err
}

// flusherOf finds how to flush w, which may be wrapped.
func flusherOf(w http.ResponseWriter) flusher {
	if f, ok := w.(flusher); ok {
		return f
	}
	return controller{http.NewResponseController(w)}
}

type controller struct{ *http.ResponseController }

func (c controller) FlushError() error {
	err := c.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil // then the answer arrives when it is complete
	}
	return err
}

// closedByPeer reports whether err is what an endpoint sees whose peer closed
// the connection before or while it was written to.
func closedByPeer(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
