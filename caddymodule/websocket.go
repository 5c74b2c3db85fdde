package caddymodule

import "encoding/binary"

// Close frames with a status only (RFC 6455, sections 5.5.1 and 7.4). What goes
// to an app is masked as a client's, with a key of zeros: it hides nothing here.
var (
	goingAway      = []byte{0x88, 0x02, 0x03, 0xe9} // 1001
	serviceRestart = []byte{0x88, 0x02, 0x03, 0xf4} // 1012
	clientLeaves   = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9}
)

// frames follows one direction of a WebSocket from frame to frame (RFC 6455,
// section 5.2), so that something can be said in between. It looks at nothing
// but lengths and at whether a frame closes the connection.
type frames struct {
	head [14]byte // of the frame under way, as far as it has come
	have int
	left uint64 // of the frame's payload, once the head is complete

	// ended is set when a Close frame has passed: nothing follows it.
	ended bool
}

const (
	opcodeClose  = 0x8
	opcodeMask   = 0x0f
	maskBit      = 0x80
	lengthMask   = 0x7f
	lengthIn16   = 126
	lengthIn64   = 127
	maskKeyBytes = 4
)

// between reports whether the last frame is complete and no other has begun.
func (f *frames) between() bool { return f.have == 0 }

// next takes what comes up to the end of the frame under way and returns its
// length.
func (f *frames) next(p []byte) int {
	n := 0
	for n < len(p) {
		if f.have < f.headSize() {
			f.head[f.have] = p[n]
			f.have++
			n++
			if f.have < f.headSize() {
				continue
			}
			f.left = f.length()
		} else {
			part := min(uint64(len(p)-n), f.left)
			f.left -= part
			n += int(part)
		}
		if f.left == 0 {
			f.ended = f.ended || f.head[0]&opcodeMask == opcodeClose
			f.have = 0
			return n
		}
	}
	return n
}

// headSize is the size of the head, as far as it is known.
func (f *frames) headSize() int {
	if f.have < 2 {
		return 2
	}
	size := 2
	switch f.head[1] & lengthMask {
	case lengthIn16:
		size += 2
	case lengthIn64:
		size += 8
	}
	if f.head[1]&maskBit != 0 {
		size += maskKeyBytes
	}
	return size
}

func (f *frames) length() uint64 {
	switch n := f.head[1] & lengthMask; n {
	case lengthIn16:
		return uint64(binary.BigEndian.Uint16(f.head[2:]))
	case lengthIn64:
		return binary.BigEndian.Uint64(f.head[2:])
	default:
		return uint64(n)
	}
}
