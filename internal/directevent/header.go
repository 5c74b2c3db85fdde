package directevent

import (
	"errors"
	"net/http"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

var errHeader = errors.New("a header is not a string")

// headerReader collects the headers of an event.
type headerReader struct {
	event  *Event
	single map[string]bool // names that came without all their values
	second bool            // multiValueHeaders have been read
}

// setHeader sets a header, by its canonical name, to one value.
func (e *Event) setHeader(name, value string) {
	if len(e.room) == 0 {
		e.room = make([]string, 8)
	}
	e.room[0] = value
	e.Header[name], e.room = e.room[:1:1], e.room[1:]
}

// readHeader sets Header and Host. Where an event has its headers twice, as
// those of REST APIs, the map with all values counts, and the other one for
// names that only it has.
func (e *Event) readHeader(env *envelope) error {
	// Most requests need no more, with what vouch adds.
	e.Header, e.room = make(http.Header, 28), make([]string, 28)
	r := headerReader{event: e}
	if env.has&keySet(keyMultiHeaders) != 0 {
		if !r.readAll(env.members[keyMultiHeaders]) {
			return errHeader
		}
		r.second = true
	}
	if !r.readAll(env.members[keyHeaders]) {
		return errHeader
	}
	if e.shape == shapeV2 {
		e.readCookies(env.members[keyCookies])
	}
	if cookies := e.Header["Cookie"]; len(cookies) > 1 {
		// HTTP/2 may split cookies, HTTP/1.1 must not (RFC 9113, 8.2.3).
		e.setHeader("Cookie", strings.Join(cookies, "; "))
	}
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
				if !r.add(name, &s, all) {
					return false
				}
			}
		} else if !r.add(name, &s, all) {
			return false
		}
	}
	return s.err == nil
}

// name returns a header's canonical name, and "" for one to leave out.
func (r *headerReader) name(text []byte) string {
	name, known := usualNames[string(text)]
	if !known {
		name = wantedName(string(text))
	}
	if r.second {
		if _, have := r.event.Header[name]; have && !r.single[name] {
			return ""
		}
	}
	return name
}

// wantedName returns the canonical form of a name, and "" for one that the app
// must not see.
func wantedName(name string) string {
	name = http.CanonicalHeaderKey(name)
	if Vouched(name) || !httprules.ValidFieldName(name) {
		return ""
	}
	switch name {
	case "Content-Length", "Transfer-Encoding", "Expect", "Connection", "Keep-Alive", "Proxy-Connection",
		"Te", "Trailer", "Upgrade", "Http2-Settings":
		// They are about another connection or another form of the body. What
		// Connection names stays: the source has added headers since, and a
		// client could else remove X-Forwarded-For.
		return ""
	}
	return name
}

// usualNames has what wantedName makes of names that most requests have, which
// saves two allocations for each of them.
var usualNames = func() map[string]string {
	m := make(map[string]string)
	for name := range strings.FieldsSeq(`Accept Accept-Encoding Accept-Language Authorization Cache-Control
		Cloudfront-Forwarded-Proto Cloudfront-Viewer-Country Connection Content-Length Content-Type Cookie Dnt Host
		If-Modified-Since If-None-Match Origin Pragma Priority Range Referer Sec-Ch-Ua Sec-Ch-Ua-Mobile
		Sec-Ch-Ua-Platform Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User Traceparent Tracestate
		Upgrade-Insecure-Requests User-Agent Via X-Amz-Cf-Id X-Amz-Date X-Amzn-Tls-Cipher-Suite X-Amzn-Tls-Version
		X-Amzn-Trace-Id X-Api-Key X-Forwarded-For X-Forwarded-Host X-Forwarded-Port X-Forwarded-Proto
		X-Real-Ip X-Request-Id X-Requested-With`) {
		m[name], m[strings.ToLower(name)] = wantedName(name), wantedName(name)
	}
	return m
}()

// headerValue reads a value: a string, or null for none. The text is that of
// the scanner's data.
func (s *scanner) headerValue(text string) (value string, k byte) {
	t := s.value()
	if t.kind() != '"' {
		return "", t.kind()
	}
	if s.simple {
		value = text[s.pos-len(t)+1 : s.pos-1]
		if strings.IndexByte(value, 0x7f) < 0 {
			return trimmed(value), '"'
		}
	}
	return fieldValue(string(t.text())), '"'
}

// add adds the value that comes next, and reports whether it can be one.
func (r *headerReader) add(name string, s *scanner, text string) bool {
	value, k := s.headerValue(text)
	if k != '"' {
		return k == 'n'
	}
	if name == "" {
		return true
	}
	e := r.event
	if name == "Host" {
		if e.Host == "" && httprules.ValidHost(value) {
			e.Host = value
		}
		return true
	}
	if have := e.Header[name]; have != nil {
		e.Header[name] = append(have, value)
		return true
	}
	e.setHeader(name, value)
	if r.second {
		if r.single == nil {
			r.single = make(map[string]bool)
		}
		r.single[name] = true
	}
	return true
}

// readCookies reads what is apart in payload 2.0. HTTP/1.1 has one header for
// all of them.
func (e *Event) readCookies(t token) {
	if t.kind() != '[' {
		return
	}
	s := scanner{data: t}
	all := string(t)
	cookies := make([]string, 0, 16)
	for ok := s.open('['); ok; ok = s.more('[') {
		if cookie, _ := s.headerValue(all); cookie != "" {
			cookies = append(cookies, cookie)
		}
	}
	if len(cookies) > 0 {
		e.setHeader("Cookie", strings.Join(cookies, "; "))
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
	return trimmed(s)
}

// trimmed is a value without space around it, which hardly any has.
func trimmed(s string) string {
	if s == "" || s[0] > ' ' && s[len(s)-1] > ' ' {
		return s
	}
	return strings.Trim(s, " \t")
}

// variantBytes are those of a token that CGI's rules make the same as a hyphen.
const variantBytes = "!#$%&'*+.^_`|~"

// Vouched reports whether a header, by its canonical name, is Lambda's own word or
// this adapter's, so that nobody else may say it. Apps behind CGI's successors cannot tell
// X_Amz_Tenant_Id from X-Amz-Tenant-Id, so neither may others.
func Vouched(name string) bool {
	if name == "" || name[0] != 'X' && name[0] != 'L' {
		return false
	}
	variant := strings.ContainsAny(name, variantBytes)
	if variant {
		name = http.CanonicalHeaderKey(strings.Map(func(r rune) rune {
			if strings.ContainsRune(variantBytes, r) {
				return '-'
			}
			return r
		}, name))
	}
	switch name {
	case headerLambdaContext, headerRequestContext, headerTenant:
		return true
	case headerTrace:
		return variant
	}
	return strings.HasPrefix(name, "Lambda-Dispatch-")
}
