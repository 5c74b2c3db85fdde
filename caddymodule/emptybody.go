package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// emptyBodyWait is how long a request may leave it open whether it has a body.
const emptyBodyWait = 200 * time.Millisecond

// dropEmptyBody finds out that a request has no body, where neither a length
// nor the end of the stream came with its header: HTTP/3 servers never know the
// latter. An app would otherwise get each GET with a chunked body, and no such
// request could be sent twice.
//
// It returns what must be called before the handler returns.
func dropEmptyBody(r *http.Request) (finish func()) {
	if r.ProtoMajor < 2 || r.ContentLength >= 0 || r.Body == nil || r.Body == http.NoBody ||
		len(r.Trailer) > 0 || !usuallyEmpty(r.Method) {
		return func() {}
	}
	b := &probedBody{ReadCloser: r.Body, probed: make(chan struct{})}
	go b.probe()
	t := time.NewTimer(emptyBodyWait)
	defer t.Stop()
	select {
	case <-b.probed:
	case <-t.C:
	case <-r.Context().Done():
	}
	if b.empty() {
		r.Body, r.ContentLength = http.NoBody, 0
		return func() {}
	}
	r.Body = b
	return b.finish
}

// usuallyEmpty reports whether requests with the method have no body as a rule.
// Those are the ones that a body would surprise an app in.
func usuallyEmpty(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, "PROPFIND", "SEARCH":
		return true
	}
	return false
}

// probedBody is a body whose first byte is read ahead.
type probedBody struct {
	io.ReadCloser
	probed chan struct{} // closed when first, n and err are set
	first  [1]byte
	n      int
	err    error

	once sync.Once // for passing on the first byte
}

func (b *probedBody) probe() {
	defer close(b.probed)
	for b.n == 0 && b.err == nil {
		b.n, b.err = b.ReadCloser.Read(b.first[:])
	}
}

func (b *probedBody) empty() bool {
	select {
	case <-b.probed:
		return b.n == 0 && errors.Is(b.err, io.EOF)
	default:
		return false
	}
}

func (b *probedBody) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	<-b.probed
	b.once.Do(func() { n = copy(p, b.first[:b.n]) })
	if n > 0 || b.err != nil {
		return n, b.err
	}
	return b.ReadCloser.Read(p)
}

// finish waits for the probe. Over HTTP/2 and 3 closing a body ends its Read.
func (b *probedBody) finish() {
	select {
	case <-b.probed:
	default:
		_ = b.Close()
		<-b.probed
	}
}
