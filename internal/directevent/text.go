package directevent

import (
	"bytes"
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
	for len(s) > 0 {
		n := bytes.IndexByte(s, '\\')
		if n < 0 {
			n = len(s)
		}
		if utf8.Valid(s[:n]) {
			dst = append(dst, s[:n]...)
		} else {
			dst = appendReplaced(dst, s[:n])
		}
		if s = s[n:]; len(s) > 0 {
			dst, s = appendEscaped(dst, s)
		}
	}
	return dst
}

// appendReplaced appends s with each byte that is not a part of UTF-8 replaced.
func appendReplaced(dst, s []byte) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		dst = utf8.AppendRune(dst, r)
		s = s[n:]
	}
	return dst
}

// appendEscaped appends the character that the escape at the beginning of s
// stands for, and returns what comes after it.
func appendEscaped(dst, s []byte) (text, rest []byte) {
	switch c := s[1]; c {
	case 'b':
		return append(dst, '\b'), s[2:]
	case 'f':
		return append(dst, '\f'), s[2:]
	case 'n':
		return append(dst, '\n'), s[2:]
	case 'r':
		return append(dst, '\r'), s[2:]
	case 't':
		return append(dst, '\t'), s[2:]
	case 'u':
	default:
		return append(dst, c), s[2:]
	}
	r, _ := hex4(s[2:])
	s = s[6:]
	if utf16.IsSurrogate(r) {
		low, ok := rune(0), false
		if len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
			low, ok = hex4(s[2:])
		}
		if r = utf16.DecodeRune(r, low); ok && r != utf8.RuneError {
			s = s[6:]
		}
	}
	return utf8.AppendRune(dst, r), s
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
func appendString[T string | []byte](dst []byte, s T) []byte {
	b := []byte(s)
	if !utf8.Valid(b) {
		b = bytes.ToValidUTF8(b, []byte("\ufffd"))
	}
	dst = append(dst, '"')
	for {
		n := plain(b)
		dst = append(dst, b[:n]...)
		if n == len(b) {
			return append(dst, '"')
		}
		switch c := b[n]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		b = b[n+1:]
	}
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
