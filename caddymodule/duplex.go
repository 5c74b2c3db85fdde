package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// errBodyDone is what reading a request's body after its handler gives.
var errBodyDone = errors.New("request is over")

// fullDuplex lets an HTTP/1.x client send its body while it receives the
// response. Without it net/http reads the rest of the body away before the
// first byte of the response, which an app that answers while it reads would
// then never get.
//
// A response that begins before the end of the body closes the connection:
// net/http would otherwise look for that end when the handler has returned,
// and panics when it then reads the next request (as of Go 1.26).
//
// It returns the writer to use in place of w, replaces the request's body, and
// returns what must be called before the handler returns: nothing may read the
// body after that, but the tunnel can still be doing so when an app answers
// early.
func fullDuplex(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, func()) {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return w, func() {}
	}
	body := &clientBody{ReadCloser: r.Body}
	r.Body = body
	if r.ProtoMajor != 1 {
		return w, body.finish
	}
	ctrl := http.NewResponseController(w)
	if ctrl.EnableFullDuplex() != nil {
		return w, body.finish // a writer that cannot do it is as before
	}
	body.ctrl = ctrl
	return &duplexWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		body:                  body,
	}, body.finish
}

// clientBody knows whether its end has been read, and can be closed while it is
// being read.
type clientBody struct {
	io.ReadCloser
	ctrl  *http.ResponseController // of a full-duplex HTTP/1.x connection, else nil
	ended atomic.Bool

	reading sync.Mutex // held while reading; guards done
	done    bool
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.done {
		return 0, errBodyDone
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
}

// Close ends a Read that waits for a client which does not send. Over HTTP/1.x
// net/http's own would wait for it instead; no request follows on such a
// connection, see fullDuplex.
func (b *clientBody) Close() error {
	if b.ctrl != nil && !b.ended.Load() {
		_ = b.ctrl.SetReadDeadline(time.Unix(1, 0))
	}
	return b.ReadCloser.Close()
}

// finish ends the use of the body.
func (b *clientBody) finish() {
	if !b.ended.Load() {
		_ = b.Close()
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	b.done = true
}

// duplexWriter announces the end of the connection where it has to end.
type duplexWriter struct {
	*caddyhttp.ResponseWriterWrapper
	body  *clientBody
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
