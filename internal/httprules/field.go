// Package httprules has the rules of HTTP that everything which handles requests
// has to agree on and that package net/http keeps to itself. It must not do I/O.
//
// golang.org/x/net has them as well, in packages that bring the tables of
// international domain names with them. Those are 20 KB of the adapter, whose
// size counts with each cold start, and none of its names is international. What
// is not part of the adapter uses golang.org/x/net; tests compare the two.
package httprules

import (
	"net/textproto"
	"strings"
)

// byteSet is a table, because it is asked about each byte of each header.
type byteSet [256]bool

// setOf returns the ASCII letters and digits and the bytes of extra.
func setOf(extra string) *byteSet {
	var s byteSet
	for c := byte('0'); c <= '9'; c++ {
		s[c] = true
	}
	for c := byte('a'); c <= 'z'; c++ {
		s[c], s[c-'a'+'A'] = true, true
	}
	for i := range len(extra) {
		s[extra[i]] = true
	}
	return &s
}

func (s *byteSet) hasAll(text string) bool {
	for i := range len(text) {
		if !s[text[i]] {
			return false
		}
	}
	return true
}

var (
	tokenBytes = setOf("!#$%&'*+-.^_`|~")     // RFC 9110, section 5.6.2
	hostBytes  = setOf("!$%&'()*+,-.:;=[]_~") // RFC 3986, section 3.2.2, and the port's colon
)

// ValidFieldName reports whether a header or trailer can have the name, which
// has to be a token (RFC 9110, section 5.1).
func ValidFieldName(name string) bool { return name != "" && tokenBytes.hasAll(name) }

// ValidFieldValue reports whether a header or trailer can have the value:
// anything but control characters (RFC 9110, section 5.5).
func ValidFieldValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// ValidHost reports whether a Host header can have the value. It looks at the
// bytes only. An empty one is valid (RFC 9112, section 3.2).
func ValidHost(host string) bool { return hostBytes.hasAll(host) }

// ValidTrailer reports whether a field may come behind the body: not those that
// say how to read the message, whom it is for, or who sends it (RFC 9110,
// section 6.5.1).
func ValidTrailer(name string) bool {
	name = textproto.CanonicalMIMEHeaderKey(name)
	if strings.HasPrefix(name, "If-") {
		return false
	}
	switch name {
	case "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
		"Expect", "Host", "Keep-Alive", "Max-Forwards", "Pragma", "Proxy-Authenticate", "Proxy-Authorization",
		"Proxy-Connection", "Range", "Realm", "Te", "Trailer", "Transfer-Encoding", "Www-Authenticate":
		return false
	}
	return true
}

// HasToken reports whether a token is in the comma-separated lists that are the
// values of a field, whatever its case.
func HasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.Trim(part, " \t"); tokenEqual(part, token) {
				return true
			}
		}
	}
	return false
}

// tokenEqual compares ASCII only: Unicode has other letters that fold to k and s.
func tokenEqual(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i] >= 0x80 || lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
