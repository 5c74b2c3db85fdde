package caddymodule

import (
	"crypto/rand"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// upstreamHost is the authority of a request whose client named none.
const upstreamHost = "lambda-dispatch:80"

// prepare makes req, which is a shallow copy of the client's request, the one
// that the app gets. Other handlers and the access log see the client's, so
// what req shares with it is replaced and never written to.
func (x *exchange) prepare(req *http.Request) {
	client, body := req.Header, req.Body
	x.url = *req.URL
	// Clients may send a whole URL, but the tunnel decides where it goes.
	x.url.Scheme, x.url.Host = "http", upstreamHost
	req.URL = &x.url
	req.Close = false

	// net/http adds trailers to the map when it has read the body. Their
	// number being unknown, so is the length of a body that has them.
	if len(req.Trailer) > 0 && req.Body != nil {
		req.ContentLength = -1
	} else {
		req.Trailer = nil
	}
	if caddyhttp.IsIncremental(client) && !hasContent(req) {
		req.ContentLength = 0
	}
	if req.ContentLength == 0 {
		req.Body = nil // there is nothing that a retry would have to repeat
	}

	req.Header = endToEnd(client, 6)
	if te := client["Te"]; len(te) > 0 && !nominated(client, "Te") && httpguts.HeaderValuesContainsToken(te, "trailers") {
		req.Header["Te"] = x.value("trailers")
	}
	if protocol := upgradeOf(client); protocol != "" {
		req.Header["Connection"] = x.value("Upgrade")
		req.Header["Upgrade"] = x.value(protocol)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // or the tunnel's HTTP client adds its own
	}
	if req.TLS != nil && !req.TLS.HandshakeComplete {
		req.Header["Early-Data"] = x.value("1") // RFC 8470, section 5.1
	}
	x.forward(req)
	via := viaOf(req.ProtoMajor, req.ProtoMinor)
	if prior := req.Header["Via"]; len(prior) > 0 {
		req.Header["Via"] = append(slices.Clip(prior), via)
	} else {
		req.Header["Via"] = x.value(via)
	}
	if isExtendedWebSocket(req) {
		x.fromExtended(req, body)
	}
}

// forward sets the X-Forwarded-* fields. What the client says of itself counts
// only if the server trusts it.
func (x *exchange) forward(req *http.Request) {
	trusted, _ := caddyhttp.GetVar(req.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	h := req.Header
	ip, _, err := net.SplitHostPort(req.RemoteAddr)
	// A client on a Unix socket has no address of its own.
	if err != nil && (req.RemoteAddr != "@" || !trusted) {
		delete(h, "X-Forwarded-For")
		delete(h, "X-Forwarded-Proto")
		delete(h, "X-Forwarded-Host")
		return
	}
	ip, _, _ = strings.Cut(ip, "%")

	// A field that is there without a value was put there by another handler
	// so that it is left out.
	prior, ok := h["X-Forwarded-For"]
	if omit := ok && prior == nil; !omit {
		all := ""
		if trusted {
			all = strings.Join(prior, ", ")
		}
		switch {
		case all != "" && ip != "":
			h["X-Forwarded-For"] = x.value(all + ", " + ip)
		case all != "":
			h["X-Forwarded-For"] = x.value(all)
		case ip != "":
			h["X-Forwarded-For"] = x.value(ip)
		}
	}
	proto := "http"
	if req.TLS != nil {
		proto = "https"
	}
	x.forwardLast(h, "X-Forwarded-Proto", proto, trusted)
	x.forwardLast(h, "X-Forwarded-Host", req.Host, trusted)
}

// forwardLast sets a field to its own last value, if the client is trusted and
// that says something, and otherwise to the value given.
func (x *exchange) forwardLast(h http.Header, name, value string, trusted bool) {
	prior, ok := h[name]
	if ok && prior == nil {
		return
	}
	if n := len(prior); trusted && n > 0 && prior[n-1] != "" {
		value = prior[n-1]
	}
	h[name] = x.value(value)
}

// hasContent reports whether a request can have a body. HTTP/3 does not know
// the length of a body that is not there.
func hasContent(req *http.Request) bool {
	if req.ContentLength >= 0 {
		return req.ContentLength > 0
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions,
		http.MethodDelete, http.MethodTrace, http.MethodConnect:
		return false
	}
	return true
}

// isExtendedWebSocket reports whether a client opens a WebSocket over HTTP/2
// (RFC 8441) or HTTP/3 (RFC 9220). net/http has the protocol in the header,
// quic-go in the request's Proto.
func isExtendedWebSocket(r *http.Request) bool {
	if r.Method != http.MethodConnect {
		return false
	}
	return r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" ||
		r.ProtoMajor == 3 && r.Proto == "websocket"
}

// fromExtended makes an extended CONNECT the upgrade that apps know.
func (x *exchange) fromExtended(req *http.Request, body io.ReadCloser) {
	x.extended = body
	if x.extended == nil {
		x.extended = http.NoBody
	}
	req.Method = http.MethodGet
	req.Body, req.ContentLength, req.Trailer = nil, 0, nil
	delete(req.Header, ":protocol")
	req.Header["Connection"] = []string{"Upgrade"}
	req.Header["Upgrade"] = []string{"websocket"}
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	req.Header["Sec-Websocket-Key"] = []string{base64.StdEncoding.EncodeToString(key)}
}

// isHopByHop reports whether a field is for the next hop only. It is the list
// of RFC 2616, section 13.5.1, with what turned out to be missing.
func isHopByHop(name string) bool {
	switch name {
	case "Alt-Svc", "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// endToEnd returns a copy of the header without the fields that are for the
// next hop, with room for some more. The values are shared.
func endToEnd(src http.Header, room int) http.Header {
	dst := make(http.Header, len(src)+room)
	for k, vv := range src {
		if !isHopByHop(k) {
			dst[k] = vv
		}
	}
	for name := range nominations(src) {
		delete(dst, name)
	}
	return dst
}

// removeHopByHop takes the fields out that are for the next hop only.
func removeHopByHop(h http.Header) {
	for name := range nominations(h) {
		if name != "Connection" {
			delete(h, name)
		}
	}
	for k := range h {
		if isHopByHop(k) {
			delete(h, k)
		}
	}
}

// nominations yields the fields that a header's Connection field says to be
// for the next hop (RFC 9110, section 7.6.1).
func nominations(h http.Header) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range h["Connection"] {
			for name := range strings.SplitSeq(v, ",") {
				name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name))
				if name != "" && !yield(name) {
					return
				}
			}
		}
	}
}

func nominated(h http.Header, name string) bool {
	for n := range nominations(h) {
		if n == name {
			return true
		}
	}
	return false
}

// upgradeOf returns the protocol that a header asks to upgrade to, in lower
// case, and "" if it does not.
func upgradeOf(h http.Header) string {
	vv := h["Upgrade"]
	if len(vv) == 0 || !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return strings.ToLower(vv[0])
}

// viaOf returns what the proxy adds to Via for a message that came in with
// the version.
func viaOf(major, minor int) string {
	switch {
	case major == 1 && minor == 1:
		return "1.1 Caddy"
	case major == 2 && minor == 0:
		return "2.0 Caddy"
	case major == 3 && minor == 0:
		return "3.0 Caddy"
	}
	return strconv.Itoa(major) + "." + strconv.Itoa(minor) + " Caddy"
}
