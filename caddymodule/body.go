package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// maxKeptBody is the largest request body, in bytes, that is read into
// memory before its request asks for a slot. net/http notices that an
// HTTP/1.1 client went away only when the body has been read, and a body
// in memory can be sent to a second instance.
const maxKeptBody = 64 << 10

// keepBody reads a small body into memory, before the request takes a place in
// the queue or a slot that a slow client could hold. It returns nil for larger
// ones and those of unknown length, which stay where they are; so does one
// whose client waits for a "100 Continue", which it should get when the request
// is served and not before.
func keepBody(r *http.Request) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength > maxKeptBody || r.Header.Get("Expect") != "" {
		return nil, nil
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return nil, err
	}
	// The end must be read too: only then does net/http watch the connection.
	if _, err := r.Body.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}

// statusOfBody returns the status for a request whose body could not be read:
// its client has left, or sends what is not HTTP.
func statusOfBody(r *http.Request, err error) int {
	if r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return statusClientGone
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok && tooLarge != nil {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}
