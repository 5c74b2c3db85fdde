package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
)

const (
	// maxKeptBody is the largest request body, in bytes, that is read into
	// memory before its request asks for a slot. net/http notices that an
	// HTTP/1.1 client went away only when the body has been read, and a body
	// in memory can be sent to a second instance.
	maxKeptBody = 64 << 10

	// maxBodyMemory is how many bytes of memory request bodies take in the
	// whole process, both those that are kept and what is read ahead of
	// requests in the queue. A body that finds it used up stays with the
	// kernel and the client until its request has a slot.
	maxBodyMemory = 128 << 20
)

// bodyMemory is shared by all pools, because the process has one memory.
var bodyMemory = newMemory(maxBodyMemory)

// memory is an amount of bytes that can be taken and given back.
type memory struct{ left atomic.Int64 }

func newMemory(size int64) *memory {
	m := &memory{}
	m.left.Store(size)
	return m
}

func (m *memory) take(n int) bool {
	if m.left.Add(-int64(n)) >= 0 {
		return true
	}
	m.give(n)
	return false
}

func (m *memory) give(n int) { m.left.Add(int64(n)) }

// keepBody reads a small body into memory, before the request takes a place in
// the queue or a slot that a slow client could hold. It returns nil for larger
// ones and those of unknown length, which stay where they are; so does one
// whose client waits for a "100 Continue", which it should get when the request
// is served and not before. A body that is returned is to be given up with
// dropBody.
func keepBody(r *http.Request) ([]byte, error) {
	n := r.ContentLength
	if n <= 0 || n > maxKeptBody || r.Header.Get("Expect") != "" || !bodyMemory.take(int(n)) {
		return nil, nil
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		dropBody(body)
		return nil, err
	}
	// The end must be read too: only then does net/http watch the connection.
	if _, err := r.Body.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		dropBody(body)
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}

// dropBody gives the memory of a kept body back.
func dropBody(body []byte) { bodyMemory.give(len(body)) }

// statusOfBody returns the status for a request whose body could not be read:
// its client has left, is too slow, or sends what is too large or not HTTP.
func statusOfBody(r *http.Request, err error) int {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok && tooLarge != nil {
		return http.StatusRequestEntityTooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return http.StatusRequestTimeout // Caddy's read_timeout
	}
	// HTTP/2 and 3 end a stream whose client breaks the rules, and it can be
	// reset a moment before the context ends.
	if r.ProtoMajor > 1 || r.Context().Err() != nil || isDisconnect(err) {
		return statusClientGone
	}
	return http.StatusBadRequest
}
