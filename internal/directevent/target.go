package directevent

import (
	"errors"
	"strings"
)

// The bytes that need no percent-encoding.
var (
	// lineByte: what can be written in a request line at all.
	lineByte = byteSet(func(c byte) bool { return c > ' ' && c < 0x7f })
	// queryByte: the same without '#', which ends a query.
	queryByte = byteSet(func(c byte) bool { return c > ' ' && c < 0x7f && c != '#' })
	// pathByte: the same without '?'.
	pathByte = byteSet(func(c byte) bool { return c > ' ' && c < 0x7f && c != '#' && c != '?' })
	// pchar: what a path may have (RFC 3986, section 3.3).
	pchar = byteSet(func(c byte) bool { return unreserved(c) || strings.IndexByte("!$&'()*+,;=:@/%", c) >= 0 })
	// encodedName and encodedValue: what is in a query that has been taken
	// apart and not decoded. A '&' there has been decoded after all.
	encodedName  = byteSet(func(c byte) bool { return queryByte[c] && c != '&' && c != '=' })
	encodedValue = byteSet(func(c byte) bool { return queryByte[c] && c != '&' })
	// unreservedByte: what means itself everywhere (RFC 3986, section 2.3).
	unreservedByte = byteSet(unreserved)
)

func byteSet(in func(byte) bool) *[256]bool {
	var set [256]bool
	for c := range set {
		set[c] = in(byte(c))
	}
	return &set
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// escape percent-encodes the bytes that are not in the set.
func escape(s string, plain *[256]bool) string {
	for i := 0; i < len(s); i++ {
		if !plain[s[i]] {
			return string(appendPercent(make([]byte, 0, len(s)+16), s, plain))
		}
	}
	return s
}

func appendPercent(dst []byte, s string, plain *[256]bool) []byte {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		if c := s[i]; plain[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		}
	}
	return dst
}

// escapePath also encodes each '%' that encodes nothing: nobody could decode
// such a path.
func escapePath(path string, plain *[256]bool) string {
	path = escape(path, plain)
	for i := strings.IndexByte(path, '%'); i >= 0 && i < len(path); i++ {
		if path[i] == '%' && (i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2])) {
			path = path[:i] + "%25" + path[i+1:]
		}
	}
	return path
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func rooted(path string) string {
	if !strings.HasPrefix(path, "/") {
		return "/" + path
	}
	return path
}

// target returns the path and query of a request line.
//
// What the paths are like differs. HTTP APIs have decoded theirs, so that all
// that may not be in a path is encoded again; which of the characters that may
// be in it the client had encoded is lost. All others pass the path on as the
// client wrote it, and so does this. The stage is in the path only where the
// source puts it: HTTP APIs do for a named stage, REST APIs never.
func (e *envelope) target(source Source, s shape, basePath string) (string, error) {
	path := e.path(s)
	var query string
	var err error
	switch s {
	case shapeV2:
		query = escape(e.string(keyRawQueryString), queryByte)
	case shapeLattice:
		var has bool
		if path, query, has = strings.Cut(path, "?"); has {
			query = escape(query, queryByte)
			break
		}
		single := e.members[keyQuery]
		if source == VPCLatticeV1 {
			single = e.members[keyLatticeQuery]
		}
		query, err = joinQuery(nil, single, encodedName, encodedValue)
	case shapeALB, shapeALBMulti:
		query, err = joinQuery(e.members[keyMultiQuery], e.members[keyQuery], encodedName, encodedValue)
	default:
		query, err = joinQuery(e.members[keyMultiQuery], e.members[keyQuery], unreservedByte, unreservedByte)
	}
	legal := pathByte
	if source == HTTPAPI {
		legal = pchar
	}
	path = withoutBase(rooted(escapePath(path, legal)), escapePath(basePath, legal))
	if query != "" {
		path += "?" + query
	}
	return path, err
}

func (e *envelope) path(s shape) string {
	switch {
	case s == shapeLattice && !e.hasAll(keySet(keyPath)):
		return e.string(keyLatticePath)
	case s != shapeV2:
		return e.string(keyPath)
	case e.hasAll(keySet(keyRawPath)):
		return e.string(keyRawPath)
	}
	return stringOf(e.context.path)
}

// withoutBase removes the base path, once and between segments.
func withoutBase(path, base string) string {
	base = strings.Trim(base, "/")
	if base == "" {
		return path
	}
	rest, found := strings.CutPrefix(path[1:], base)
	switch {
	case !found:
		return path
	case rest == "":
		return "/"
	case rest[0] == '/':
		return rest
	}
	return path
}

var errQuery = errors.New("a query parameter is not a string")

// joinQuery puts a query together again from its parameters, in the event's
// order. Those of REST APIs are decoded, those of load balancers are not: see
// the sets. Of parameters that are in both maps, multi has all values.
func joinQuery(multi, single token, name, value *[256]bool) (string, error) {
	if multi.kind() != '{' && single.kind() != '{' {
		return "", nil
	}
	var query []byte
	var seen map[string]bool
	add := func(key []byte, t token) bool {
		if t.kind() != '"' {
			return t.isNull()
		}
		if len(query) > 0 {
			query = append(query, '&')
		}
		query = appendPercent(query, string(key), name)
		query = append(query, '=')
		query = appendPercent(query, string(t.text()), value)
		return true
	}
	addAll := func(key []byte, t token) bool {
		if t.kind() != '[' {
			return add(key, t)
		}
		ok := true
		for t := range elements(t) {
			ok = ok && add(key, t)
		}
		return ok
	}
	for key, t := range members(multi) {
		if single.kind() == '{' {
			if seen == nil {
				seen = make(map[string]bool)
			}
			seen[string(key)] = !t.isNull()
		}
		if !addAll(key, t) {
			return "", errQuery
		}
	}
	for key, t := range members(single) {
		if !seen[string(key)] && !addAll(key, t) {
			return "", errQuery
		}
	}
	return string(query), nil
}
