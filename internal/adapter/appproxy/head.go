package appproxy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// framing is how the body of a request is delimited towards the app.
type framing struct {
	body    bool   // whether there is one to send
	length  int64  // its length; -1: chunked
	upgrade string // the protocol asked for, in lower case: the body is what comes after 101
	expect  bool   // the body waits for 100 Continue
}

// appendHead appends the request's head in HTTP/1.1 and refuses whatever an
// app could take for something else: the tunnel's HTTP/2 can carry bytes in
// names, values and paths that would end a line or a request here.
func appendHead(b []byte, r *http.Request) ([]byte, framing, error) {
	f := frame(r)
	target, err := requestTarget(r)
	if err != nil {
		return b, f, err
	}
	if r.Method == http.MethodConnect {
		return b, f, errors.New("method CONNECT is for proxies")
	}
	if !httprules.ValidFieldName(r.Method) {
		return b, f, fmt.Errorf("method %q is not a token", r.Method)
	}
	if !httprules.ValidHost(r.Host) {
		return b, f, fmt.Errorf("host %q has invalid characters", r.Host)
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = appendTarget(b, target)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\n"...)
	if b, err = appendFields(b, r.Header, f.upgrade != ""); err != nil {
		return b, f, err
	}
	b, err = appendFraming(b, r, f)
	return append(b, "\r\n"...), f, err
}

func frame(r *http.Request) framing {
	f := framing{length: r.ContentLength}
	if httprules.HasToken(r.Header["Connection"], "upgrade") {
		f.upgrade = strings.ToLower(r.Header.Get("Upgrade"))
		if f.upgrade != "" {
			return f
		}
	}
	f.body = r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
	if len(r.Trailer) > 0 && f.body {
		f.length = -1 // a body with a length has no trailers in HTTP/1.1
	}
	f.expect = f.body && httprules.HasToken(r.Header["Expect"], "100-continue")
	return f
}

// requestTarget returns the path and query as they came, since decoding and
// encoding again does not always give the same.
func requestTarget(r *http.Request) (string, error) {
	target := r.RequestURI
	if target == "" || (target[0] != '/' && target != "*") {
		target = r.URL.RequestURI()
	}
	if target == "*" && r.Method == http.MethodOptions {
		return target, nil
	}
	if target == "" || target[0] != '/' {
		return "", errors.New("path does not begin with a slash")
	}
	for i := 0; i < len(target); i++ {
		if target[i] <= ' ' || target[i] == 0x7f {
			return "", errors.New("path has a space or control character")
		}
	}
	return target, nil
}

// appendTarget writes bytes above ASCII percent-encoded, which they should
// have been in the first place (RFC 3986, section 2.1).
func appendTarget(b []byte, target string) []byte {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(target); i++ {
		if c := target[i]; c >= 0x80 {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

func appendFields(b []byte, h http.Header, upgrade bool) ([]byte, error) {
	connection := h["Connection"]
	for name, values := range h {
		if skipRequestField(name, upgrade) || named(connection, name, upgrade) {
			continue
		}
		if !httprules.ValidFieldName(name) {
			return b, fmt.Errorf("header name %q is not a token", name)
		}
		if name == "Cookie" && len(values) > 1 {
			// HTTP/2 may split cookies, HTTP/1.1 must not (RFC 9113, 8.2.3).
			values = []string{strings.Join(values, "; ")}
		}
		for _, v := range values {
			if !httprules.ValidFieldValue(v) {
				return b, fmt.Errorf("header %s has an invalid value", name)
			}
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	if upgrade {
		b = append(b, "Connection: Upgrade\r\n"...)
	}
	if httprules.HasToken(h["Te"], "trailers") {
		b = append(b, "Te: trailers\r\n"...) // means the same on the next hop
	}
	return b, nil
}

// skipRequestField reports whether the field is about this hop only
// (RFC 9110, section 7.6.1) or is written from what has been parsed.
func skipRequestField(name string, upgrade bool) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Te",
		"Connection", "Keep-Alive", "Proxy-Connection", "Http2-Settings":
		return true
	case "Upgrade":
		return !upgrade
	}
	return false
}

// named reports whether a Connection field declares the field to be about
// this hop only.
func named(connection []string, name string, upgrade bool) bool {
	if len(connection) == 0 || (upgrade && name == "Upgrade") {
		return false
	}
	return httprules.HasToken(connection, name)
}

func appendFraming(b []byte, r *http.Request, f framing) ([]byte, error) {
	switch {
	case f.upgrade != "":
		return b, nil
	case f.body && f.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		return appendTrailerNames(b, r.Trailer)
	case f.body:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, f.length, 10)
		return append(b, "\r\n"...), nil
	case r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		return append(b, "Content-Length: 0\r\n"...), nil // RFC 9110, section 8.6
	}
	return b, nil
}

func appendTrailerNames(b []byte, trailer http.Header) ([]byte, error) {
	sep := "Trailer: "
	for name := range trailer {
		if !httprules.ValidTrailer(name) || !httprules.ValidFieldName(name) {
			return b, fmt.Errorf("header name %q cannot be a trailer", name)
		}
		b = append(b, sep...)
		b = append(b, name...)
		sep = ", "
	}
	if len(trailer) > 0 {
		b = append(b, "\r\n"...)
	}
	return b, nil
}

// appendTrailer appends the end of a chunked body.
func appendTrailer(b []byte, trailer http.Header) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for name, values := range trailer {
		for _, v := range values {
			if !httprules.ValidFieldName(name) || !httprules.ValidFieldValue(v) {
				return b, fmt.Errorf("trailer %q is not valid", name)
			}
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...), nil
}
