package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// fullDuplex lets an HTTP/1.x client send its body while it receives the
// response. Without it net/http reads the rest of the body away before the
// first byte of the response, which an app that answers while it reads would
// then never get.
//
// A response that begins before the end of the body closes the connection:
// net/http would otherwise look for that end when the handler has returned,
// and panics when it then reads the next request (as of Go 1.26). It returns
// the writer to use in place of w, and replaces the request's body.
func fullDuplex(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Body == nil {
		return w
	}
	ctrl := http.NewResponseController(w)
	if ctrl.EnableFullDuplex() != nil {
		return w // a writer that cannot do it is as before
	}
	body := &duplexBody{ReadCloser: r.Body, ctrl: ctrl}
	r.Body = body
	return &duplexWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		body:                  body,
	}
}

// duplexBody knows whether its end has been read, and can be closed while it is
// being read.
type duplexBody struct {
	io.ReadCloser
	ctrl  *http.ResponseController
	ended atomic.Bool
}

func (b *duplexBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
}

// Close ends a Read that waits for a client which does not send: net/http's
// own would wait for it. No request follows on the connection, see fullDuplex.
func (b *duplexBody) Close() error {
	if !b.ended.Load() {
		_ = b.ctrl.SetReadDeadline(time.Unix(1, 0))
	}
	return b.ReadCloser.Close()
}

// duplexWriter announces the end of the connection where it has to end.
type duplexWriter struct {
	*caddyhttp.ResponseWriterWrapper
	body  *duplexBody
	wrote bool
}

// begin is called before the header of the final response is written.
func (w *duplexWriter) begin() {
	if w.wrote {
		return
	}
	w.wrote = true
	if !w.body.ended.Load() {
		w.Header().Set("Connection", "close")
	}
}

func (w *duplexWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		w.begin()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *duplexWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriterWrapper.Write(p)
}
