package directevent

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// text returns what the string token t says, as encoding/json does: what is not
// valid Unicode becomes U+FFFD. Where nothing is escaped it is a part of t.
func (t token) text() []byte {
	inner := t[1 : len(t)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return inner
	}
	return appendText(make([]byte, 0, len(inner)+2*utf8.UTFMax), inner)
}

// appendText appends what the inside of a valid JSON string means.
func appendText(dst, s []byte) []byte {
	if !utf8.Valid(s) {
		s = appendReplaced(make([]byte, 0, len(s)+64), s)
	}
	for {
		n := bytes.IndexByte(s, '\\')
		if n < 0 {
			return append(dst, s...)
		}
		dst = append(dst, s[:n]...)
		if c := s[n+1]; c != 'u' {
			dst = append(dst, unescaped[c])
			s = s[n+2:]
			continue
		}
		var r rune
		r, s = unicodeEscape(s[n:])
		dst = utf8.AppendRune(dst, r)
	}
}

// unescaped has the characters that the escapes of one letter stand for.
var unescaped = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// appendReplaced appends s with each byte that is not a part of UTF-8 replaced.
func appendReplaced(dst, s []byte) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		dst = utf8.AppendRune(dst, r)
		s = s[n:]
	}
	return dst
}

// unicodeEscape reads the \u at the beginning of s, which may be two for a
// character outside of the BMP, and returns what comes after it.
func unicodeEscape(s []byte) (r rune, rest []byte) {
	r, _ = hex4(s[2:])
	s = s[6:]
	if !utf16.IsSurrogate(r) {
		return r, s
	}
	var low rune
	if len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
		low, _ = hex4(s[2:])
	}
	if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
		s = s[6:]
	}
	return r, s
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Only what has to be is escaped:
// every escape counts against the 6 MB that a result may have. What is not
// UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	b := []byte(s)
	if !utf8.Valid(b) {
		b = bytes.ToValidUTF8(b, []byte("\ufffd"))
	}
	return appendUTF8(dst, b)
}

// appendUTF8 is appendString for what is known to be UTF-8. It copies eight
// bytes at once and takes back those behind the first that needs an escape.
func appendUTF8(dst, b []byte) []byte {
	const room = 16 // a word, or an escape, and the last quote
	dst = append(dst, '"')
	for len(b) >= 8 {
		dst = slices.Grow(dst, room)
		word := binary.LittleEndian.Uint64(b)
		at := len(dst)
		binary.LittleEndian.PutUint64(dst[at:at+8], word)
		marks := special(word)
		if marks == 0 {
			dst, b = dst[:at+8], b[8:]
			continue
		}
		n := bits.TrailingZeros64(marks) / 8
		dst = appendEscape(dst[:at+n], b[n])
		b = b[n+1:]
	}
	for _, c := range b {
		if c < ' ' || c == '"' || c == '\\' {
			dst = appendEscape(dst, c)
		} else {
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// appendEscape appends the shortest escape for c.
func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// escapes returns about how many bytes the escapes of b will add.
func escapes(b []byte) int {
	n := 0
	for _, c := range []byte{'"', '\\', '\n', '\r', '\t'} {
		n += bytes.Count(b, []byte{c})
	}
	return n
}

// appendHeaderJSON appends valid JSON so that it fits into a header and is
// still the same value: characters that a header cannot carry, or that some
// app would read in another charset, become escapes, and white space between
// tokens goes.
func appendHeaderJSON(dst []byte, json token) []byte {
	inString := false
	for i := 0; i < len(json); i++ {
		c := json[i]
		switch {
		case c == '\\': // in a string, with a character after it
			i++
			dst = append(dst, c, json[i])
		case c == '"':
			inString = !inString
			dst = append(dst, c)
		case c <= ' ' && !inString:
		case c == 0x7f:
			dst = append(dst, `\u007f`...)
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(json[i:])
			i += n - 1
			dst = appendUnicodeEscape(dst, r)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

func appendUnicodeEscape(dst []byte, r rune) []byte {
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		return appendUnicodeEscape(appendUnicodeEscape(dst, high), low)
	}
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
