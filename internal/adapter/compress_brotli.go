package adapter

import (
	"errors"
	"io"
	"math/bits"

	"github.com/andybalholm/brotli"
	"github.com/andybalholm/brotli/matchfinder"
)

// brotliBlock is the size of the pieces that are compressed at a time.
const brotliBlock = 64 << 10

// brotliWriter compresses in brotli's format (RFC 7932). It is put together from
// the parts of the library that do without brotli's built-in dictionary: the
// library's own Writer would make the adapter 800 KB larger, and its smaller
// one cannot flush.
type brotliWriter struct {
	to      io.Writer
	finder  matchfinder.M4
	encoder brotli.Encoder

	block   []byte // what has not been compressed yet
	matches []matchfinder.Match
	out     []byte
	err     error // for good
}

func newBrotliWriter() *brotliWriter {
	return &brotliWriter{finder: matchfinder.M4{
		MaxDistance: compressWindow,
		HashLen:     5,
		TableBits:   15,
		// Bytes far away take more bits to refer to.
		DistanceBitCost: 57,
	}}
}

func (w *brotliWriter) Reset(to io.Writer) {
	w.finder.Reset()
	w.encoder.Reset()
	w.to, w.block, w.err = to, w.block[:0], nil
}

func (w *brotliWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		take := min(len(p), brotliBlock-len(w.block))
		w.block = append(w.block, p[:take]...)
		p = p[take:]
		n += take
		if len(w.block) == brotliBlock {
			w.emit(w.encode(false))
		}
	}
	return n, w.err
}

// Flush does nothing if nothing was written since the last one.
func (w *brotliWriter) Flush() error {
	if len(w.block) > 0 && w.err == nil {
		w.emit(continued(w.encode(true)))
	}
	return w.err
}

func (w *brotliWriter) Close() error {
	if w.err == nil {
		w.emit(w.encode(true))
	}
	if w.err != nil {
		return w.err
	}
	w.err = errors.New("brotli: the stream has ended")
	return nil
}

func (w *brotliWriter) encode(last bool) []byte {
	w.matches = w.matches[:0]
	if len(w.block) > 0 { // the finder of an empty block would see a match of nothing
		w.matches = w.finder.FindMatches(w.matches, w.block)
	}
	w.out = w.encoder.Encode(w.out[:0], w.block, w.matches, last)
	w.block = w.block[:0]
	return w.out
}

func (w *brotliWriter) emit(p []byte) {
	if len(p) > 0 {
		_, w.err = w.to.Write(p)
	}
}

// continued turns the end of a stream into a place where it goes on. The end is
// two set bits, ISLAST and ISLASTEMPTY, and then zeros up to the end of a byte,
// so that they are the last bits that are set. They become an empty metadata
// block, which ends with a byte, too: ISLAST 0, MNIBBLES 11, and three bits 0
// (RFC 7932, section 9.2).
func continued(p []byte) []byte {
	last := len(p) - 1
	at := bits.Len8(p[last]) - 1 // of ISLASTEMPTY, which becomes the first bit of MNIBBLES
	if at == 0 {
		p[last-1] &^= 0x80
	} else {
		p[last] &^= 1 << (at - 1)
	}
	if at < 7 {
		p[last] |= 1 << (at + 1)
	}
	switch {
	case at == 7:
		p = append(p, 1)
	case at+4 > 7:
		p = append(p, 0)
	}
	return p
}
