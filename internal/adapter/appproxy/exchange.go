package appproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// exchange is one request on one connection.
type exchange struct {
	p *Proxy
	s *Scope
	c *conn
	w http.ResponseWriter
	r *http.Request

	framing framing
	upload  *upload // nil without a body
	waits   waiter

	sent  bool   // the request's head has been written
	began bool   // the final answer's head is on its way to the client
	fault *Fault // why the request was aborted, nil if it was not
	lost  bool   // the app ended the connection
	keep  bool   // the connection can serve another request
}

// run sends the request and passes the answer on. After it the connection is
// back in the pool or closed, and nothing reads the request's body.
func (x *exchange) run(head []byte) error {
	c := x.c
	c.in.begin()
	// Whatever waits on the connection ends at once when the client goes,
	// and the app notices in the way it would without us.
	stop := context.AfterFunc(x.r.Context(), c.onClose)
	err := x.serve(head)
	if !x.settle() {
		x.keep = false
	}
	if !stop() {
		x.keep = false
	}
	x.fault = x.s.leave(c)
	if err == nil && x.keep && x.fault == nil {
		x.p.put(c)
		return nil
	}
	c.close()
	x.upload.join(x.r)
	return err
}

func (x *exchange) serve(head []byte) error {
	resp, err := x.ask(head)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return x.switched(resp)
	}
	return x.deliver(resp)
}

// ask sends the request, or begins to, and returns the answer's head.
func (x *exchange) ask(head []byte) (*http.Response, error) {
	x.waits.all = &x.p.activity
	x.waits.ask(true)
	defer x.waits.ask(false)
	if n, err := x.c.Write(head); err != nil {
		if n == 0 && x.c.reused && closedByPeer(err) {
			return nil, errStale
		}
		// The app may have answered without reading a long head, so what it
		// sent counts; if it sent nothing, reading tells why.
	} else {
		x.sent = true
		x.beginUpload()
	}
	resp, err := x.readAnswer()
	if err != nil {
		return nil, x.explain(err)
	}
	return resp, nil
}

func (x *exchange) beginUpload() {
	if !x.framing.body {
		return
	}
	x.upload = newUpload(x)
	if !x.framing.expect {
		x.upload.begin()
	}
}

// explain finds the cause of an answer that did not come.
func (x *exchange) explain(err error) error {
	if x.upload != nil {
		if cause := x.upload.clientError(); cause != nil {
			return cause
		}
	}
	x.lost = lostConnection(err)
	if x.c.in.any && errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the app closed the connection within the head of its answer")
	}
	if x.c.in.any {
		return fmt.Errorf("the app's answer is not HTTP: %w", err)
	}
	// A body that cannot be had again is partly gone.
	whole := x.upload == nil || x.r.GetBody != nil
	if x.c.reused && whole && httprules.Idempotent(x.r.Method) && x.r.Context().Err() == nil &&
		x.lost {
		return errStale
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the app closed the connection without an answer")
	}
	return fmt.Errorf("the app gave no answer: %w", err)
}

func lostConnection(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || closedByPeer(err)
}

// readAnswer reads the final answer's head, or a 101, and passes informational
// answers on. Their number is bounded by the size allowed for the head.
func (x *exchange) readAnswer() (*http.Response, error) {
	for {
		if x.upload != nil && !x.upload.started && x.c.r.Buffered() == 0 {
			x.awaitContinue()
		}
		resp, err := http.ReadResponse(x.c.r, x.r)
		if err != nil {
			return nil, err
		}
		switch code := resp.StatusCode; {
		case code == http.StatusContinue:
			// Reading the body makes the server send its own.
			x.upload.begin()
		case code == http.StatusSwitchingProtocols:
			if !strings.EqualFold(resp.Header.Get("Upgrade"), x.framing.upgrade) || x.framing.upgrade == "" {
				return nil, fmt.Errorf("it switches to protocol %q, asked for was %q", resp.Header.Get("Upgrade"), x.framing.upgrade)
			}
			return resp, nil
		case code >= 200 && code <= 999:
			return resp, nil
		case code >= 100:
			x.inform(resp)
		default:
			return nil, fmt.Errorf("its status is %d", code)
		}
	}
}

// continueTimeout is how long a body waits for an app that may not know
// 100 Continue (RFC 9110, section 10.1.1: not indefinitely).
const continueTimeout = time.Second

// awaitContinue sends the body after a while in any case. The deadline ends
// the wait without taking a byte from the connection.
func (x *exchange) awaitContinue() {
	_ = x.c.SetReadDeadline(time.Now().Add(continueTimeout))
	_, err := x.c.r.Peek(1)
	_ = x.c.SetReadDeadline(time.Time{})
	if err != nil && isTimeout(err) {
		x.upload.begin()
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// inform passes an informational answer on, such as 103 Early Hints.
func (x *exchange) inform(resp *http.Response) {
	h := x.w.Header()
	copyHeader(h, resp.Header, false)
	x.w.WriteHeader(resp.StatusCode)
	for name := range resp.Header {
		delete(h, name) // not part of the final answer
	}
}

// writeHead writes the head of the final answer and returns how many trailers
// it announces.
func writeHead(w http.ResponseWriter, resp *http.Response) (announced int) {
	h := w.Header()
	copyHeader(h, resp.Header, false)
	if resp.StatusCode == http.StatusNoContent {
		// It must not have one (RFC 9110, section 8.6), and Go's HTTP/2 client
		// then misses a body.
		delete(h, "Content-Length")
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or the server would guess one
	}
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	// Counted now: reading the body adds those that were not announced.
	announced = len(resp.Trailer)
	w.WriteHeader(resp.StatusCode)
	return announced
}

// deliver passes the final answer on.
func (x *exchange) deliver(resp *http.Response) error {
	if options := x.c.in.check.options(); options != nil {
		resp.Header["Connection"] = options
	}
	x.began = true
	announced := writeHead(x.w, resp)
	if err := x.copyBody(resp); err != nil {
		return err
	}
	sendTrailer(x.w.Header(), resp.Trailer, announced)
	x.keep = !resp.Close && x.c.r.Buffered() == 0
	x.c.idleFor = idleFor(x.p.cfg.IdleTimeout, resp.Header)
	return nil
}

// idleFor is how long a connection may wait for its next request. An app that
// says when it will close it is believed, with a margin: a request that meets
// the close is lost, unless it is one that may be sent twice.
func idleFor(most time.Duration, h http.Header) time.Duration {
	for _, v := range h["Keep-Alive"] {
		for param := range strings.SplitSeq(v, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			if !strings.EqualFold(name, "timeout") {
				continue
			}
			if seconds, err := strconv.ParseUint(value, 10, 16); err == nil {
				said := time.Duration(seconds) * time.Second
				most = min(most, said-min(said/2, time.Second))
			}
		}
	}
	return most
}

func (x *exchange) copyBody(resp *http.Response) error {
	if resp.Body == http.NoBody || x.r.Method == http.MethodHead {
		return nil
	}
	x.c.in.stream(flusherOf(x.w))
	if resp.ContentLength >= 0 && resp.ContentLength <= smallBuffer {
		b := smallBuffers.Get().(*[smallBuffer]byte)
		defer smallBuffers.Put(b)
		return x.copy(resp.Body, b[:])
	}
	b := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(b)
	return x.copy(resp.Body, b[:])
}

func (x *exchange) copy(from io.Reader, buf []byte) error {
	for {
		n, err := from.Read(buf)
		if n > 0 {
			x.c.in.dirty = true
			if _, err := x.w.Write(buf[:n]); err != nil {
				return fmt.Errorf("writing to the client: %w", err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the app's answer was cut: %w", err)
		}
	}
}

// settle reports whether the whole request was sent. An app may answer before
// that; the rest of the body is then of no use.
func (x *exchange) settle() bool {
	if x.upload == nil {
		return x.sent && !x.framing.body && x.framing.upgrade == ""
	}
	return x.upload.settled()
}

// copyHeader adds the app's fields but those about its connection with us.
// The values are shared, not copied.
func copyHeader(to, from http.Header, upgrade bool) {
	connection := from["Connection"]
	for name, values := range from {
		switch name {
		case "Keep-Alive", "Proxy-Connection", "Te", "Transfer-Encoding", "Trailer":
			continue
		case "Connection", "Upgrade":
			if !upgrade {
				continue
			}
		default:
			if len(connection) > 0 && httprules.HasToken(connection, name) {
				continue
			}
		}
		to[name] = values
	}
}

// sendTrailer sets the trailer in the way of [http.ResponseWriter].
func sendTrailer(h, trailer http.Header, announced int) {
	prefix := ""
	if len(trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for name, values := range trailer {
		h[prefix+name] = values
	}
}
