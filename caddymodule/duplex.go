package caddymodule

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// errBodyDone is what reading a request's body after its handler gives.
var errBodyDone = errors.New("request is over")

const (
	// skipTime is how long an answer without an app waits for the rest of the
	// body: long enough for what the kernel has, too short to be noticed.
	skipTime = 5 * time.Millisecond
	// maxSkip is how many bytes of a body are skipped.
	maxSkip = 256 << 10
)

// fullDuplex lets an HTTP/1.x client send its body while it receives the
// response. Without it net/http reads the rest of the body away before the
// first byte of the response, which an app that answers while it reads would
// then never get, and a client that is to hear that the queue is full would
// hear it late.
//
// A response that begins before the end of the body closes the connection:
// net/http would otherwise look for that end when the handler has returned,
// and panics when it then reads the next request (as of Go 1.26). The client
// still has time to read the response, see linger.
//
// As long as the body has not been read, net/http does not notice that an
// HTTP/1.x client left; then the context of the request that is returned ends.
// A client that only ends its half of the connection counts as gone, as it does
// for net/http.
//
// It returns what to use in place of w and r, and the body, which is nil if
// there is none and whose finish must be called before the handler returns:
// nothing may read the body after that, but the tunnel can still be doing so
// when an app answers early.
func fullDuplex(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, *clientBody) {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return w, r, nil
	}
	body := &clientBody{ReadCloser: r.Body, cancel: func() {}, unwatch: func() {}}
	if r.ProtoMajor != 1 {
		r.Body = body
		return w, r, body
	}
	r = r.WithContext(body.watch(r.Context()))
	r.Body = body
	ctrl := http.NewResponseController(w)
	if ctrl.EnableFullDuplex() != nil {
		return w, r, body // a writer that cannot do it is as before
	}
	body.ctrl = ctrl
	body.expects = r.Header.Get("Expect") != ""
	if len(r.Trailer) > 0 {
		body.received = r.Trailer
		body.trailer = make(http.Header, len(r.Trailer))
		for k := range r.Trailer {
			body.trailer[k] = nil
		}
		r.Trailer = body.trailer
	}
	return &duplexWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		body:                  body,
	}, r, body
}

// clientBody is a request's body on its way to the app. It can be closed while
// it is being read.
type clientBody struct {
	io.ReadCloser
	cancel  context.CancelFunc       // ends an HTTP/1.x request
	unwatch func()                   // ends looking at its connection
	ctrl    *http.ResponseController // of a full-duplex HTTP/1.x connection, else nil
	expects bool                     // the client waits for a "100 Continue"

	closed atomic.Bool           // it was closed, which makes reading fail
	fault  atomic.Pointer[error] // why it could not be read

	state sync.Mutex // guards the following
	ended bool       // its end has been read
	cut   bool       // reading from the connection was made to fail

	// net/http writes the trailers into received when it reads the end, which
	// can be ahead of time; trailer is what others may look at meanwhile.
	received, trailer http.Header

	reading sync.Mutex // held while reading; guards the following
	done    bool
	ahead   *readAhead // nil: nothing was read ahead, or it has been taken
}

// watch returns the context of the request: it ends when the client leaves.
func (b *clientBody) watch(ctx context.Context) context.Context {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unwatch := watchClient(ctx, cancel)
	// Once the end of the body has been read, net/http watches the connection
	// by reading from it. It may get to that end while the body is being cut,
	// and then takes our deadline for a client that left.
	stop := context.AfterFunc(ctx, func() {
		if !b.wasCut() {
			cancel()
		}
	})
	b.cancel = cancel
	b.unwatch = func() {
		stop()
		unwatch()
	}
	return own
}

// cutReading makes reading from the connection fail, also what is under way,
// unless the body's end has been read.
func (b *clientBody) cutReading() {
	b.state.Lock()
	defer b.state.Unlock()
	if b.ctrl == nil || b.ended {
		return
	}
	b.cut = true
	_ = b.ctrl.SetReadDeadline(time.Unix(1, 0))
}

func (b *clientBody) wasCut() bool {
	b.state.Lock()
	defer b.state.Unlock()
	return b.cut
}

func (b *clientBody) setEnded() {
	b.state.Lock()
	defer b.state.Unlock()
	b.ended = true
}

func (b *clientBody) hasEnded() bool {
	b.state.Lock()
	defer b.state.Unlock()
	return b.ended
}

// reusable reports whether another request may follow on the connection.
func (b *clientBody) reusable() bool {
	b.state.Lock()
	defer b.state.Unlock()
	return b.ended && !b.cut
}

// readAhead begins to read the body although nobody asks for it, while its
// request waits in the queue: a client that leaves is noticed behind what it
// sent before.
func (b *clientBody) readAhead() {
	if b == nil || b.ctrl == nil || b.expects {
		return
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	b.ahead = startReadAhead(b.ReadCloser, bodyMemory, maxReadAhead, b.stopped)
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.done {
		return 0, errBodyDone
	}
	n, err := b.read(p)
	if errors.Is(err, io.EOF) {
		maps.Copy(b.trailer, b.received)
	}
	return n, err
}

func (b *clientBody) read(p []byte) (int, error) {
	if b.ahead != nil {
		n, err := b.ahead.Read(p)
		if err != errDrained { //nolint:errorlint // it is never wrapped
			return n, err
		}
		b.ahead = nil
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.stopped(err, false)
	}
	return n, err
}

// stopped is called when the body's end has been read, or cannot be. A request
// that only waits in the queue is over then, and any request whose client left.
func (b *clientBody) stopped(err error, waiting bool) {
	if errors.Is(err, io.EOF) {
		b.setEnded()
		return
	}
	if b.closed.Load() {
		return
	}
	b.fault.CompareAndSwap(nil, &err)
	if waiting || isDisconnect(err) {
		b.cancel()
	}
}

// failure returns why the body could not be read, if that was the client's
// doing.
func (b *clientBody) failure() error {
	if b == nil {
		return nil
	}
	if err := b.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// isDisconnect reports whether reading from a client gave the error because the
// client went away.
func isDisconnect(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && !op.Timeout()
}

// Close ends a Read that waits for a client which does not send. Over HTTP/1.x
// net/http's own would wait for it instead; no request follows on such a
// connection, see fullDuplex.
func (b *clientBody) Close() error {
	b.closed.Store(true)
	b.cutReading()
	return b.ReadCloser.Close()
}

// skip reads what has come already of a body that nobody wants. If that is all
// of it, the connection can be used again.
func (b *clientBody) skip() {
	if b == nil || b.ctrl == nil || b.expects || b.hasEnded() || b.closed.Swap(true) {
		return
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	deadline := time.Now().Add(skipTime)
	_ = b.ctrl.SetReadDeadline(deadline)
	if b.ahead != nil {
		<-b.ahead.ended
		b.ahead.release()
		b.ahead = nil
	}
	for left := int64(maxSkip); left > 0 && !b.hasEnded(); {
		n, err := io.CopyN(io.Discard, b.ReadCloser, min(left, smallBuffer))
		left -= n
		if errors.Is(err, io.EOF) {
			b.setEnded()
		}
		if err != nil {
			break
		}
	}
	_ = b.ctrl.SetReadDeadline(time.Time{})
	if !time.Now().Before(deadline) {
		// net/http may have met it, as in watch.
		b.state.Lock()
		b.cut = true
		b.state.Unlock()
	}
}

// finish ends the use of the body.
func (b *clientBody) finish() {
	if b == nil {
		return
	}
	b.unwatch()
	if !b.hasEnded() {
		_ = b.Close()
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	b.done = true
	if b.ahead != nil {
		<-b.ahead.ended
		b.ahead.release()
		b.ahead = nil
	}
	b.cancel()
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
	if !w.body.reusable() {
		w.Header().Set("Connection", "close")
		linger(w.ResponseWriter)
	}
}

// linger has net/http close the connection in two steps, half a second apart.
// A socket that is closed while its peer still sends answers with a reset, which
// can take the response from a client that has not yet read it (RFC 9112,
// section 9.6). net/http does that by itself only after bodies that are larger
// than a limit of its own or of a [http.MaxBytesReader].
func linger(w http.ResponseWriter) {
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = inner.Unwrap()
	}
	over := http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0)
	_, _ = over.Read(make([]byte, 1))
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
