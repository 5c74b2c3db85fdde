package directevent

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// maxDepth is how deep arrays and objects may be nested, as in encoding/json.
const maxDepth = 10000

var (
	errSyntax = errors.New("not valid JSON")
	errDepth  = errors.New("JSON is nested too deeply")
)

// scanner walks over JSON once, from left to right, and keeps nothing but its
// place. encoding/json looks at every byte three times, which at 6 MB is most
// of what a direct event would cost; what counts as valid is the same.
//
// The first error sticks: after it everything returns nothing.
type scanner struct {
	data   []byte
	pos    int
	depth  int
	simple bool // the last string means itself: it is ASCII without escapes
	err    error
}

// token is a piece of valid JSON: a whole value.
type token []byte

// kind returns the token's first byte, which tells what it is: one of
// { [ " t f n - 0…9, or 0 for no token.
func (t token) kind() byte {
	if len(t) == 0 {
		return 0
	}
	return t[0]
}

func (t token) isNull() bool { return t.kind() == 'n' || t.kind() == 0 }

func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.pos = len(s.data)
}

// next skips white space and returns the byte after it without taking it; 0 at
// the end of the data.
func (s *scanner) next() byte {
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		if c > ' ' || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
		s.pos++
	}
	return 0
}

// open enters an array or object and reports whether it has a first element.
// Its elements are read with value, after key in an object.
func (s *scanner) open(bracket byte) bool {
	if s.next() != bracket {
		s.fail(errSyntax)
		return false
	}
	s.pos++
	s.depth++
	if s.depth > maxDepth {
		s.fail(errDepth)
		return false
	}
	if s.next() == bracket+2 { // the closing one, in ASCII
		s.close()
		return false
	}
	return s.err == nil
}

func (s *scanner) close() {
	s.pos++
	s.depth--
}

// more reports whether another element follows, and leaves the array or object
// if not.
func (s *scanner) more(bracket byte) bool {
	switch s.next() {
	case ',':
		s.pos++
		return s.err == nil
	case bracket + 2:
		s.close()
	default:
		s.fail(errSyntax)
	}
	return false
}

// key reads the name of an object's member, and the colon after it.
func (s *scanner) key() []byte {
	if s.next() != '"' {
		s.fail(errSyntax)
		return nil
	}
	key := s.string()
	simple := s.simple
	if s.next() != ':' {
		s.fail(errSyntax)
		return nil
	}
	s.pos++
	if simple {
		return key[1 : len(key)-1]
	}
	return key.text()
}

// value reads a value whole.
func (s *scanner) value() token {
	c := s.next()
	start := s.pos
	switch {
	case c == '"':
		return s.string()
	case c == '{':
		for ok := s.open('{'); ok; ok = s.more('{') {
			s.key()
			s.value()
		}
	case c == '[':
		for ok := s.open('['); ok; ok = s.more('[') {
			s.value()
		}
	case c == '-' || c >= '0' && c <= '9':
		s.number()
	case c == 't':
		s.literal("true")
	case c == 'f':
		s.literal("false")
	case c == 'n':
		s.literal("null")
	default:
		s.fail(errSyntax)
	}
	if s.err != nil {
		return nil
	}
	return s.data[start:s.pos]
}

// end checks that nothing but white space is left.
func (s *scanner) end() {
	if s.next() != 0 || s.pos < len(s.data) {
		s.fail(errSyntax)
	}
}

func (s *scanner) literal(text string) {
	if len(s.data)-s.pos < len(text) || string(s.data[s.pos:s.pos+len(text)]) != text {
		s.fail(errSyntax)
		return
	}
	s.pos += len(text)
}

func (s *scanner) number() {
	if s.data[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.data) && s.data[s.pos] == '0' {
		s.pos++
	} else {
		s.digits()
	}
	if s.pos < len(s.data) && s.data[s.pos] == '.' {
		s.pos++
		s.digits()
	}
	if s.pos < len(s.data) && (s.data[s.pos] == 'e' || s.data[s.pos] == 'E') {
		s.pos++
		if s.pos < len(s.data) && (s.data[s.pos] == '+' || s.data[s.pos] == '-') {
			s.pos++
		}
		s.digits()
	}
}

// digits takes one digit or more.
func (s *scanner) digits() {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	if s.pos == start {
		s.fail(errSyntax)
	}
}

// string reads a string, with its quotes. It looks at eight bytes at once, and
// at four times as many where nothing special has come for a while.
func (s *scanner) string() token {
	data, i := s.data, s.pos+1
	all, escaped := uint64(0), false // all has the high bits of all bytes
	run := 0                         // words in a row that have nothing special
	for {
		for run >= 8 && len(data)-i >= 32 {
			d := data[i : i+32]
			w, x := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])
			y, z := binary.LittleEndian.Uint64(d[16:]), binary.LittleEndian.Uint64(d[24:])
			if special(w)|special(x)|special(y)|special(z) != 0 {
				run = 0
				break
			}
			all |= w | x | y | z
			i += 32
		}
		if len(data)-i >= 8 {
			x := binary.LittleEndian.Uint64(data[i:])
			marks := special(x)
			if marks == 0 {
				all |= x
				i += 8
				run++
				continue
			}
			run = 0
			first := bits.TrailingZeros64(marks) &^ 7
			all |= x & (1<<first - 1)
			i += first / 8
		} else if i >= len(data) {
			break
		}
		c := data[i]
		switch {
		case c == '"':
			t := token(data[s.pos : i+1])
			s.pos, s.simple = i+1, all&highs == 0 && !escaped
			return t
		case c == '\\':
			n := escapeLen(data[i:])
			if n == 0 {
				s.fail(errSyntax)
				return nil
			}
			escaped = true
			i += n
		case c < ' ':
			s.fail(errSyntax)
			return nil
		default:
			all |= uint64(c)
			i++
		}
	}
	s.fail(errSyntax)
	return nil
}

// escapeLen returns the length of the escape at the beginning of b, 0 for one
// that is none.
func escapeLen(b []byte) int {
	switch {
	case len(b) < 2:
		return 0
	case unescaped[b[1]] != 0:
		return 2
	case b[1] == 'u':
		if _, ok := hex4(b[2:]); ok {
			return 6
		}
	}
	return 0
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks the quotes, backslashes and control characters among the eight
// bytes of x, by their highest bits. Subtracting borrows from the byte above, so
// a mark may be wrong, but only above a right one: the lowest is what counts.
func special(x uint64) uint64 {
	quote, backslash := x^'"'*ones, x^'\\'*ones
	return highs & (((x - 0x20*ones) &^ x) | ((quote - ones) &^ quote) | ((backslash - ones) &^ backslash))
}

// isPrintable reports whether b is ASCII without control characters.
func isPrintable(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if highs&(x|(x-0x20*ones)|(del-ones)) != 0 {
			return false
		}
	}
	for _, c := range b {
		if c < ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// valid reports whether data is one JSON value and nothing else.
func valid(data []byte) bool {
	s := scanner{data: data}
	s.value()
	s.end()
	return s.err == nil
}
