package appproxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// errRequestBody: the request's body could not be read to its end, so that
// nobody waits for an answer.
var errRequestBody = errors.New("reading the request's body")

// settleTime is how long a connection waits for a body that has been read to
// its end to be written to its end, too, after the app has answered.
const settleTime = 20 * time.Millisecond

// upload sends a request's body beside the answer being read, because an app
// may answer before, while and after it reads the body. Its goroutine is
// owned by the exchange.
type upload struct {
	c       *conn
	body    io.Reader
	waits   *waiter
	trailer http.Header
	length  int64 // -1: chunked

	started bool // touched by the exchange only
	done    chan struct{}
	read    atomic.Bool // the body has been read to its end
	broken  atomic.Bool // the body cannot be read; set before the connection is closed for it
	err     error       // readable after done
}

func newUpload(x *exchange) *upload {
	return &upload{
		c: x.c, body: x.r.Body, waits: &x.waits, trailer: x.r.Trailer, length: x.framing.length,
		done: make(chan struct{}),
	}
}

// begin starts to send the body, once. A nil upload has none.
func (u *upload) begin() {
	if u == nil || u.started {
		return
	}
	u.started = true
	go func() {
		defer close(u.done)
		u.err = u.send()
		if errors.Is(u.err, errRequestBody) {
			// Not even by accident may the app take the part for the whole.
			u.broken.Store(true)
			u.c.close()
		}
	}()
}

// settled reports whether the whole body was sent, and gives its last piece
// a moment: the app's answer can be here before the writer has noticed.
func (u *upload) settled() bool {
	if !u.started {
		return false
	}
	select {
	case <-u.done:
		return u.err == nil
	default:
	}
	if !u.read.Load() {
		return false
	}
	t := time.NewTimer(settleTime)
	defer t.Stop()
	select {
	case <-u.done:
		return u.err == nil
	case <-t.C:
		return false
	}
}

// clientError returns why the body could not be read, if that is so. The
// connection is closed then, which is why it was asked.
func (u *upload) clientError() error {
	if !u.broken.Load() {
		return nil
	}
	<-u.done
	return u.err
}

// join waits for the goroutine. The connection is closed, which ends a
// pending Write, and closing the body ends a pending Read.
func (u *upload) join(r *http.Request) {
	if u == nil || !u.started {
		return
	}
	select {
	case <-u.done:
	default:
		_ = r.Body.Close()
		<-u.done
	}
}

func (u *upload) send() error {
	buf := uploadBuffers.Get().(*[uploadBuffer]byte)
	defer uploadBuffers.Put(buf)
	if u.length < 0 {
		return u.sendChunked(buf[:])
	}
	return u.sendLength(buf[:])
}

// sendLength sends exactly as many bytes as the head says: the app would take
// any more for another request.
func (u *upload) sendLength(buf []byte) error {
	for left := u.length; left > 0; {
		n, err := u.readBody(buf[:min(int64(len(buf)), left)])
		if left -= int64(n); left == 0 {
			u.read.Store(true)
		}
		if n > 0 {
			if _, err := u.c.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil && left > 0 {
			return bodyError(err)
		}
	}
	return nil
}

func (u *upload) sendChunked(buf []byte) error {
	const room = 10 // up to 8 digits and CRLF before a chunk, CRLF behind it
	for {
		n, err := u.readBody(buf[room : len(buf)-2])
		ended := errors.Is(err, io.EOF)
		if ended {
			u.read.Store(true)
		}
		if n > 0 {
			if _, err := u.c.Write(chunk(buf, room, n)); err != nil {
				return err
			}
		}
		if ended {
			return u.sendTrailer(buf[:0])
		}
		if err != nil {
			return bodyError(err)
		}
	}
}

func (u *upload) readBody(p []byte) (int, error) {
	u.waits.awaitClient(true)
	defer u.waits.awaitClient(false)
	return u.body.Read(p)
}

// chunk frames the n bytes at buf[room:] in place (RFC 9112, section 7.1).
func chunk(buf []byte, room, n int) []byte {
	var size [16]byte
	digits := strconv.AppendInt(size[:0], int64(n), 16)
	digits = append(digits, "\r\n"...)
	start := room - len(digits)
	copy(buf[start:], digits)
	copy(buf[room+n:], "\r\n")
	return buf[start : room+n+2]
}

func (u *upload) sendTrailer(buf []byte) error {
	end, err := appendTrailer(buf, u.trailer)
	if err != nil {
		return fmt.Errorf("%w: %w", errRequestBody, err)
	}
	_, err = u.c.Write(end)
	return err
}

func bodyError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", errRequestBody, err)
}
