//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// maxHead bounds a response's head, far above what any variant sends.
const maxHead = 64 << 10

var (
	errHead    = errors.New("malformed response head")
	errChunk   = errors.New("malformed chunked body")
	errNoFrame = errors.New("response has neither a length nor chunks, so the connection cannot be kept")
)

type phase int

const (
	phaseHead phase = iota
	phaseBody
	phaseChunkSize
	phaseChunkData
	phaseChunkEnd // the line end behind a chunk's data
	phaseTrailer
)

// parser reads one HTTP/1.1 response after another (RFC 9112) and keeps
// nothing of it but its status and the length of its body. It is as small as
// it can be, because the load generator shares the machine with what it
// measures. The zero value is ready for the first response.
type parser struct {
	status int
	body   int64 // length of the body so far, without chunk framing

	phase   phase
	partial []byte // a head or a line that is not complete yet
	left    int64  // of the body or the chunk
}

// feed takes the next bytes from the connection. It returns what follows the
// response when that is complete; done says whether it is.
func (p *parser) feed(b []byte) (rest []byte, done bool, err error) {
	for {
		switch p.phase {
		case phaseHead:
			head, rest, ok := p.until(b, "\r\n\r\n")
			if !ok {
				return nil, false, p.tooLong()
			}
			b = rest
			more, err := p.parseHead(head)
			p.partial = p.partial[:0]
			if err != nil {
				return nil, false, err
			}
			if !more {
				return b, true, nil
			}
		case phaseBody, phaseChunkData:
			n := min(p.left, int64(len(b)))
			b = b[n:]
			p.body += n
			p.left -= n
			if p.left > 0 {
				return nil, false, nil
			}
			if p.phase == phaseBody {
				return b, true, nil
			}
			p.phase = phaseChunkEnd
		default: // what is left comes in lines
			line, rest, ok := p.until(b, "\r\n")
			if !ok {
				return nil, false, p.tooLong()
			}
			b = rest
			last, err := p.parseLine(line)
			p.partial = p.partial[:0]
			if err != nil {
				return nil, false, err
			}
			if last {
				return b, true, nil
			}
		}
	}
}

// reset makes the parser ready for the next response.
func (p *parser) reset() {
	*p = parser{partial: p.partial[:0]}
}

// until returns everything before the mark, joined with what earlier calls
// kept, and what follows the mark.
func (p *parser) until(b []byte, mark string) (before, after []byte, ok bool) {
	if len(p.partial) == 0 { // nearly always: no copy
		if i := bytes.Index(b, []byte(mark)); i >= 0 {
			return b[:i], b[i+len(mark):], true
		}
		p.partial = append(p.partial, b...)
		return nil, nil, false
	}
	kept := len(p.partial)
	p.partial = append(p.partial, b...)
	from := max(0, kept-len(mark)+1)
	i := bytes.Index(p.partial[from:], []byte(mark))
	if i < 0 {
		return nil, nil, false
	}
	i += from
	return p.partial[:i], b[i+len(mark)-kept:], true
}

func (p *parser) tooLong() error {
	if len(p.partial) > maxHead {
		return errHead
	}
	return nil
}

// parseHead decides how the body is framed; more is false when there is none.
func (p *parser) parseHead(head []byte) (more bool, err error) {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return false, errHead
	}
	if p.status, err = strconv.Atoi(string(line[9:12])); err != nil || p.status < 100 {
		return false, errHead
	}
	if p.status < 200 {
		return true, nil // informational: the real head follows
	}
	length, chunked := int64(-1), false
	for len(fields) > 0 {
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return false, errHead
		}
		value = bytes.TrimSpace(value)
		switch {
		case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 {
				return false, fmt.Errorf("%w: Content-Length %q", errHead, value)
			}
		case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
	switch {
	case p.status == 204 || p.status == 304:
		return false, nil
	case chunked:
		p.phase, p.left = phaseChunkSize, 0
		return true, nil
	case length < 0:
		return false, errNoFrame
	default:
		p.phase, p.left = phaseBody, length
		return length > 0, nil
	}
}

// parseLine reads a line of chunk framing; last is true at the end of the body.
func (p *parser) parseLine(line []byte) (last bool, err error) {
	switch p.phase {
	case phaseChunkSize:
		size, _, _ := bytes.Cut(line, []byte(";"))
		p.left, err = strconv.ParseInt(string(bytes.TrimSpace(size)), 16, 64)
		if err != nil || p.left < 0 {
			return false, fmt.Errorf("%w: size %q", errChunk, line)
		}
		p.phase = phaseChunkData
		if p.left == 0 {
			p.phase = phaseTrailer
		}
	case phaseChunkEnd:
		if len(line) > 0 {
			return false, fmt.Errorf("%w: %q behind a chunk", errChunk, line)
		}
		p.phase = phaseChunkSize
	default:
		return len(line) == 0, nil
	}
	return false, nil
}
