package directevent

import (
	"errors"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

var errHeader = errors.New("a header is not a string")

// headerReader collects the headers of an event.
type headerReader struct {
	header     http.Header
	host       string
	connection []string
	values     []string        // room for the values of all headers
	single     map[string]bool // names that came without all their values
	second     bool            // multiValueHeaders have been read
}

// readHeader sets Header and Host. Where an event has its headers twice, as
// those of REST APIs, the map with all values counts, and the other one for
// names that only it has.
func (e *Event) readHeader(env *envelope) error {
	r := headerReader{header: make(http.Header, 32)}
	if env.has&keySet(keyMultiHeaders) != 0 {
		if !r.readAll(env.members[keyMultiHeaders]) {
			return errHeader
		}
		r.second = true
	}
	if !r.readAll(env.members[keyHeaders]) {
		return errHeader
	}
	for _, v := range r.connection {
		for name := range strings.SplitSeq(v, ",") {
			delete(r.header, http.CanonicalHeaderKey(strings.Trim(name, " \t")))
		}
	}
	if e.shape == shapeV2 {
		r.cookies(env.members[keyCookies])
	}
	if cookies := r.header["Cookie"]; len(cookies) > 1 {
		// HTTP/2 may split cookies, HTTP/1.1 must not (RFC 9113, 8.2.3).
		r.header["Cookie"] = []string{strings.Join(cookies, "; ")}
	}
	e.Header, e.Host = r.header, r.host
	return nil
}

// readAll reads an object of headers, whose values are strings or arrays of
// them. One copy of its text serves all values.
func (r *headerReader) readAll(t token) bool {
	if t.isNull() {
		return true
	}
	if t.kind() != '{' {
		return false
	}
	s := scanner{data: t}
	all := string(t)
	for ok := s.open('{'); ok; ok = s.more('{') {
		name := r.name(s.key())
		if s.next() == '[' {
			for ok := s.open('['); ok; ok = s.more('[') {
				if !r.add(name, s.value(), all[:s.pos]) {
					return false
				}
			}
		} else if !r.add(name, s.value(), all[:s.pos]) {
			return false
		}
	}
	return s.err == nil
}

// name returns a header's canonical name, and "" for one to leave out.
func (r *headerReader) name(t token) string {
	name := http.CanonicalHeaderKey(string(t.text()))
	if vouched(name) || !httpguts.ValidHeaderFieldName(name) {
		return ""
	}
	switch name {
	case "Content-Length", "Transfer-Encoding", "Expect", "Keep-Alive", "Proxy-Connection",
		"Te", "Trailer", "Upgrade", "Http2-Settings":
		// They are about another connection or another form of the body.
		return ""
	}
	if _, have := r.header[name]; have && r.second && !r.single[name] {
		return ""
	}
	return name
}

// add adds one value, whose token t is at the end of all.
func (r *headerReader) add(name string, t token, all string) bool {
	if t.isNull() || name == "" {
		return true
	}
	if t.kind() != '"' {
		return false
	}
	value := all[len(all)-len(t)+1 : len(all)-1]
	if text := t.text(); len(text) != len(value) || string(text) != value {
		value = string(text)
	}
	value = fieldValue(value)
	switch name {
	case "Host":
		if r.host == "" && httpguts.ValidHostHeader(value) {
			r.host = value
		}
		return true
	case "Connection":
		r.connection = append(r.connection, value)
		return true
	}
	if have := r.header[name]; have != nil {
		r.header[name] = append(have, value)
		return true
	}
	if len(r.values) == 0 {
		r.values = make([]string, 32)
	}
	r.values[0] = value
	r.header[name], r.values = r.values[:1:1], r.values[1:]
	if r.second {
		if r.single == nil {
			r.single = make(map[string]bool)
		}
		r.single[name] = true
	}
	return true
}

// cookies are apart in payload 2.0.
func (r *headerReader) cookies(t token) {
	var all []string
	for cookie := range elements(t) {
		if v := fieldValue(stringOf(cookie)); v != "" {
			all = append(all, v)
		}
	}
	if len(all) > 0 {
		r.header["Cookie"] = all
	}
}

// fieldValue makes sure that a value is one: bytes that could end a line become
// spaces (RFC 9110, section 5.5), and there is no space around it. The request
// is not worth less for an odd byte in one header.
func fieldValue(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			s = strings.Map(func(r rune) rune {
				if r < ' ' && r != '\t' || r == 0x7f {
					return ' '
				}
				return r
			}, s)
			break
		}
	}
	return strings.Trim(s, " \t")
}

// vouched reports whether a header is Lambda's own word, or this adapter's, so
// that nobody else may say it. Apps behind CGI's successors cannot tell
// X_Amz_Tenant_Id from X-Amz-Tenant-Id, so neither may others.
func vouched(name string) bool {
	if name == "" || name[0] != 'X' && name[0] != 'L' {
		return false
	}
	variant := false
	for i := 0; i < len(name); i++ {
		if c := name[i]; c != '-' && strings.IndexByte("!#$%&'*+.^_`|~", c) >= 0 {
			variant = true
		}
	}
	if variant {
		name = strings.Map(func(r rune) rune {
			if strings.ContainsRune("!#$%&'*+.^_`|~", r) {
				return '-'
			}
			return r
		}, name)
		name = http.CanonicalHeaderKey(name)
	}
	switch name {
	case headerLambdaContext, headerRequestContext, headerTenant:
		return true
	case headerTrace:
		return variant
	}
	return strings.HasPrefix(name, "Lambda-Dispatch-")
}
