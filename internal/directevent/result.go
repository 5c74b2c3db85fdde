package directevent

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// contentEncoding is how an app says that its body is text, whatever its
// Content-Type. It is Lambda Web Adapter's header.
const contentEncoding = "X-Lambda-Http-Content-Encoding"

// Result translates the app's whole answer into the result of the invocation.
//
// An HTTP source gets status, headers and body in its own form, and the client
// gets the very bytes of the body. The body travels as text where that is
// possible, because a REST API decodes base64 only for the binary media types
// that are configured: when the answer's type is one that [isText] knows and
// the bytes are UTF-8. Lambda Web Adapter turns text in another charset into
// UTF-8 and leaves the charset in Content-Type, which is then wrong; here such a
// body is binary, and stays as it is.
//
// Where headers can have one value only, repeated ones are joined with ", ",
// and Set-Cookie, which cannot be joined, comes in several spellings.
//
// A WebSocket API gets status, headers and body too: the status decides over
// $connect. For other sources the body is the result, see [Event.eventResult].
//
// The error is an [*Error] of TypeBadAnswer.
func (e *Event) Result(status int, h http.Header, body []byte) ([]byte, error) {
	switch e.shape {
	case shapeEvent:
		return e.eventResult(status, h, body)
	case shapeWebSocket:
		// Apps that ran behind Lambda Web Adapter have API Gateway's answer as
		// their body.
		if hasStatusCode(body) {
			return body, nil
		}
	default:
	}
	if e.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
		body = nil
	}
	text := len(body) == 0 || isText(h) && utf8.Valid(body)
	size := 512 + base64.StdEncoding.EncodedLen(len(body))
	if text {
		size = 512 + len(body) + escapes(body)
	}
	b := make([]byte, 0, size)
	b = append(b, `{"statusCode":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = e.appendHeaders(b, endToEnd(h, e.Method, status, len(body)), status)
	b = append(b, `,"isBase64Encoded":`...)
	b = strconv.AppendBool(b, !text)
	b = append(b, `,"body":`...)
	if text {
		b = appendUTF8(b, body)
	} else {
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, body)
		b = append(b, '"')
	}
	return append(b, '}'), nil
}

// ErrorResult is what an HTTP source gets when the adapter and not the app
// answers: a small JSON object.
func (e *Event) ErrorResult(status int, code, message string) ([]byte, error) {
	body := appendMember(nil, `{"error":`, code)
	body = append(appendMember(body, `,"message":`, message), '}')
	return e.Result(status, http.Header{"Content-Type": {"application/json"}}, body)
}

func (e *Event) appendHeaders(b []byte, h http.Header, status int) []byte {
	switch e.shape {
	case shapeV1:
		return appendMultiHeaders(append(b, `,"multiValueHeaders":`...), h)
	case shapeALBMulti:
		b = appendStatusDescription(b, status)
		return appendMultiHeaders(append(b, `,"multiValueHeaders":`...), h)
	case shapeALB, shapeLattice:
		b = appendStatusDescription(b, status)
		return appendSingleHeaders(append(b, `,"headers":`...), h, true)
	case shapeV2:
		cookies := h["Set-Cookie"]
		b = appendSingleHeaders(append(b, `,"headers":`...), h, false)
		return appendStrings(append(b, `,"cookies":`...), cookies)
	default:
		return appendSingleHeaders(append(b, `,"headers":`...), h, true)
	}
}

// appendStatusDescription appends what load balancers want: "404 Not Found".
func appendStatusDescription(b []byte, status int) []byte {
	text := strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
	return appendMember(b, `,"statusDescription":`, text)
}

func appendMultiHeaders(b []byte, h http.Header) []byte {
	b = append(b, '{')
	for i, name := range names(h) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, strings.ToLower(name))
		b = appendStrings(append(b, ':'), h[name])
	}
	return append(b, '}')
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

// appendSingleHeaders leaves cookies to the caller, or spells Set-Cookie
// differently for each of them: a client reads these names as the same.
func appendSingleHeaders(b []byte, h http.Header, cookies bool) []byte {
	b = append(b, '{')
	comma := false
	add := func(name, value string) {
		if comma {
			b = append(b, ',')
		}
		comma = true
		b = appendString(b, name)
		b = appendString(append(b, ':'), value)
	}
	for _, name := range names(h) {
		if name != "Set-Cookie" {
			add(strings.ToLower(name), strings.Join(h[name], ", "))
			continue
		}
		for i, v := range h[name] {
			if cookies && i < 1<<len("setcookie") {
				add(setCookie(i), v)
			}
		}
	}
	return append(b, '}')
}

// setCookie returns one of the 512 spellings of the name. The first is the
// usual one.
func setCookie(n int) string {
	name := []byte("set-cookie")
	for i := range name {
		if name[i] == '-' {
			continue
		}
		if n&1 == 1 {
			name[i] -= 'a' - 'A'
		}
		n >>= 1
	}
	return string(name)
}

// names returns the names in a fixed order, so that equal answers are equal
// results.
func names(h http.Header) []string {
	list := make([]string, 0, len(h))
	for name, values := range h {
		if len(values) > 0 {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// endToEnd returns the headers that are for the client. h stays as it is.
func endToEnd(h http.Header, method string, status, length int) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		if !httprules.ValidFieldName(name) {
			// Go's parser lets names with spaces pass. Nobody behind it has to,
			// and through the router they are left out by HTTP/2.
			continue
		}
		switch http.CanonicalHeaderKey(name) {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Te", "Trailer", "Upgrade", contentEncoding:
		default:
			out[http.CanonicalHeaderKey(name)] = values
		}
	}
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			delete(out, http.CanonicalHeaderKey(strings.Trim(name, " \t")))
		}
	}
	// A length may be of a body that is not sent (RFC 9110, section 8.6), else
	// it is the body's, and a wrong one would break the client's connection.
	bodiless := method == http.MethodHead || status == http.StatusNotModified
	if l := out.Get("Content-Length"); l != "" && !bodiless && length >= 0 && l != strconv.Itoa(length) {
		delete(out, "Content-Length")
	}
	return out
}

// isText reports whether the answer says that its body is text. The rule is
// Lambda Web Adapter's, and what is not known to be text is not.
func isText(h http.Header) bool {
	if strings.EqualFold(h.Get(contentEncoding), "text") {
		return true
	}
	if h.Get("Content-Encoding") != "" {
		return false
	}
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	if mediaType == "" {
		return true
	}
	for _, prefix := range []string{"text", "application/json", "application/javascript", "application/xml", "application/yaml"} {
		if strings.HasPrefix(mediaType, prefix) {
			return true
		}
	}
	return strings.HasSuffix(mediaType, "+json") || strings.HasSuffix(mediaType, "+xml") || strings.HasSuffix(mediaType, "+yaml")
}

// eventResult returns the body as it is, if it is JSON; an empty one is null.
// So a batch-failure answer reaches its source byte for byte.
//
// Lambda Web Adapter makes null of all other bodies. That is right for the "OK"
// that many frameworks answer, and it stays so: an error would make SQS deliver
// its messages again. But a body that was meant as JSON, by its type or its
// first character, and is not, holds failures that the source would never
// know of: it is an [*Error].
func (e *Event) eventResult(status int, h http.Header, body []byte) ([]byte, error) {
	trimmed := bytes.TrimSpace(body)
	if len(trimmed) == 0 {
		return []byte("null"), nil
	}
	if valid(body) && utf8.Valid(body) {
		return body, nil
	}
	mediaType, _, _ := strings.Cut(strings.ToLower(h.Get("Content-Type")), ";")
	mediaType = strings.TrimSpace(mediaType)
	json := mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
	if json || trimmed[0] == '{' || trimmed[0] == '[' {
		return nil, &Error{
			Type: TypeBadAnswer, Source: e.Source,
			Reason: fmt.Sprintf("not valid JSON (status %d, type %q, %d bytes)", status, mediaType, len(body)),
		}
	}
	return []byte("null"), nil
}

func hasStatusCode(body []byte) bool {
	if !valid(body) || !utf8.Valid(body) {
		return false
	}
	s := scanner{data: body}
	s.next()
	for name, value := range members(body[s.pos:]) {
		if string(name) == "statusCode" && value.kind() >= '0' && value.kind() <= '9' {
			return true
		}
	}
	return false
}
