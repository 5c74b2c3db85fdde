package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
)

// An upgraded stream carries bytes both ways. From the router to the adapter
// they are the request's body, and the end of one is the end of the other. In
// the other direction that would not do: net/http's server ends a response
// only when its handler returns, and then the request's body is gone as well.
// So the response's body is a sequence of chunks, each preceded by its length
// as 4 bytes in network order, and a length of 0 ends the direction.

var errUpgradeEnded = errors.New("upgraded stream has ended")

const chunkHeader = 4

// chunkReader takes the chunks apart.
type chunkReader struct {
	r    io.Reader
	left uint32 // of the current chunk
	head [chunkHeader]byte
	err  error // sticky
}

func newChunkReader(r io.Reader) *chunkReader { return &chunkReader{r: r} }

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	if c.left == 0 {
		if _, err := io.ReadFull(c.r, c.head[:]); err != nil {
			return 0, c.fail(err)
		}
		if c.left = binary.BigEndian.Uint32(c.head[:]); c.left == 0 {
			c.err = io.EOF
			return 0, c.err
		}
	}
	n, err := c.r.Read(p[:min(uint64(len(p)), uint64(c.left))])
	c.left -= uint32(n)
	if err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
		return n, c.fail(err)
	}
	return n, nil
}

// fail records the error that ends the stream. The stream's own end is not the
// direction's.
func (c *chunkReader) fail(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	c.err = err
	return err
}

// chunkWriter makes the chunks.
type chunkWriter struct {
	w     io.Writer
	flush func() error
	head  [chunkHeader]byte
	ended bool
}

func (c *chunkWriter) Write(p []byte) (int, error) {
	if c.ended {
		return 0, errUpgradeEnded
	}
	written := 0
	for len(p) > 0 {
		chunk := p[:min(len(p), 1<<30)]
		binary.BigEndian.PutUint32(c.head[:], uint32(len(chunk)))
		if _, err := c.w.Write(c.head[:]); err != nil {
			return written, err
		}
		n, err := c.w.Write(chunk)
		written += n
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, c.flush()
}

func (c *chunkWriter) CloseWrite() error {
	if c.ended {
		return nil
	}
	c.ended = true
	c.head = [chunkHeader]byte{}
	if _, err := c.w.Write(c.head[:]); err != nil {
		return err
	}
	return c.flush()
}

// duplex is the body of a response with status 101.
type duplex struct {
	down *chunkReader
	body io.ReadCloser
	up   *io.PipeWriter
}

func (d *duplex) Read(p []byte) (int, error) { return d.down.Read(p) }

func (d *duplex) Write(p []byte) (int, error) { return d.up.Write(p) }

// CloseWrite ends the direction to the app; the other goes on.
func (d *duplex) CloseWrite() error { return d.up.Close() }

// Wait waits for the end of the stream, after both directions have ended: only
// then has the adapter passed on everything that was written. Close ends the
// wait, and throws away what is still on its way.
func (d *duplex) Wait() error {
	_, err := io.Copy(io.Discard, d.body)
	return err
}

// Close ends both directions. Unless the app has ended its own, the adapter
// sees the stream being cancelled.
func (d *duplex) Close() error {
	err := d.body.Close()
	_ = d.up.CloseWithError(errUpgradeEnded)
	return err
}

// CloseWrite ends what a handler of a [Session] sends after it has answered
// with status 101, while it goes on reading the request's body. A handler that
// returns ends both directions.
func CloseWrite(w http.ResponseWriter) error {
	rw := findWriter(w)
	if rw == nil || rw.chunks == nil {
		return errors.ErrUnsupported
	}
	return rw.chunks.CloseWrite()
}
