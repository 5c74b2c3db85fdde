package tunnel

import (
	"net/http"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// Internal header fields. Only the two ends of a tunnel write and read them:
// each takes them out of everything that comes from outside before it adds its
// own, and out of everything before it passes it on.
const (
	internalPrefix = "Lambda-Dispatch-"

	// hdrError: the response is the adapter's, see AdapterError.
	hdrError = internalPrefix + "Error"
	// hdrUpgrade: in a request the protocol to upgrade to; in a response the
	// protocol that the stream speaks from now on.
	hdrUpgrade = internalPrefix + "Upgrade"
	// hdrStatus: the response's real status.
	hdrStatus = internalPrefix + "Status"
	// hdrCookie: the Cookie lines as they were, if HTTP/2's splitting of them
	// (RFC 9113 section 8.2.3) would not give them back.
	hdrCookie = internalPrefix + "Cookie"
	// hdrExpect: the Expect field, which net/http's server takes out.
	hdrExpect = internalPrefix + "Expect"
	// hdrTrailer: in a request's trailers, those that were not announced.
	hdrTrailer = internalPrefix + "Trailer"
	// hdrLength: the Content-Length of a response with status 304, which says
	// how long the body would have been (RFC 9110 section 8.6). net/http's
	// client would miss that body.
	hdrLength = internalPrefix + "Length"
)

func isInternal(name string) bool {
	return len(name) >= len(internalPrefix) && (name[0] == 'L' || name[0] == 'l') &&
		strings.EqualFold(name[:len(internalPrefix)], internalPrefix)
}

// isHopByHop reports whether a canonical field name must not be in an HTTP/2
// message (RFC 9113 section 8.2.2).
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// upgradeProtocol returns the protocol that a header section asks to upgrade
// to, "" if it does not.
func upgradeProtocol(h http.Header) string {
	if len(h["Connection"]) == 0 || !httprules.HasToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// canonicalCookie reports whether HTTP/2 gives the Cookie field back as it is:
// one line, pairs separated by "; ", nothing empty.
func canonicalCookie(vv []string) bool {
	if len(vv) != 1 {
		return len(vv) == 0
	}
	v := vv[0]
	if v == "" || v[0] == ' ' || v[0] == ';' {
		return false
	}
	for {
		i := strings.IndexByte(v, ';')
		if i < 0 {
			return v != ""
		}
		rest := v[i+1:]
		if i == 0 || len(rest) < 2 || rest[0] != ' ' || rest[1] == ' ' || rest[1] == ';' {
			return false
		}
		v = rest[1:]
	}
}

// hasControl reports whether a string has a byte that no part of a URL may
// have. The peer's HTTP/2 server treats that as malformed, with the same
// consequence as for trailers.
func hasControl(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}
