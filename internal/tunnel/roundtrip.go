package tunnel

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

func (t *tunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.begin(); err != nil {
		closeBody(req)
		return nil, &RoundTripError{Err: err}
	}
	defer t.end()

	var x exchange
	out, err := x.outgoing(req)
	if err != nil {
		closeBody(req)
		return nil, &RoundTripError{Err: fmt.Errorf("%w: %w", ErrBadRequest, err)}
	}
	resp, err := t.engine.RoundTrip(out)
	if err != nil {
		x.abandon()
		return nil, t.failed(req, err)
	}
	resp.Request = req
	if err := x.incoming(resp); err != nil {
		_ = resp.Body.Close()
		x.abandon()
		return nil, err
	}
	return resp, nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// failed says what an error of the engine means.
func (t *tunnel) failed(req *http.Request, err error) error {
	if t.engine.Unusable(err) {
		// The peer has said that it takes no more, if not on the control
		// stream. Nobody should try again.
		t.startDraining("")
	}
	rt := &RoundTripError{Err: err, Processed: !t.engine.NotSent(err)}
	if end := t.Err(); end != nil && req.Context().Err() == nil {
		rt.Err = end // the engine's words for it say less
	}
	return rt
}

// exchange is what has to be remembered between a request and its response. In
// the ordinary case that is nothing.
type exchange struct {
	upgrade string         // the protocol asked for, "" if none
	up      *io.PipeWriter // of an upgrade: what the client sends after it
}

var (
	errBadURL        = errors.New("URL has a control character")
	errWrongUpgrade  = errors.New("upgrade that was not asked for")
	errWrongStatus   = errors.New("status that is not one")
	errNoDestination = errors.New("request has no URL")
)

// outgoing returns the request that the engine sends for req: req itself, if
// nothing has to be changed.
func (x *exchange) outgoing(req *http.Request) (*http.Request, error) {
	if req.URL == nil {
		return nil, errNoDestination
	}
	if hasControl(req.URL.RawQuery) || hasControl(req.URL.Opaque) {
		return nil, errBadURL
	}
	if !needsCopy(req) {
		return req, nil
	}
	out := req.WithContext(req.Context())
	out.Close = false // would close the tunnel
	out.URL = outgoingURL(req)
	out.Header = maps.Clone(req.Header)
	if out.Header == nil {
		out.Header = make(http.Header, 1)
	}
	x.fixHeader(out)
	if len(out.Trailer) > 0 {
		fixTrailer(out)
	}
	if x.upgrade != "" {
		var pr *io.PipeReader
		pr, x.up = io.Pipe()
		out.Body, out.ContentLength = pr, -1
	}
	return out, nil
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// needsCopy reports whether req cannot be sent as it is. It costs one look at
// each header name.
func needsCopy(req *http.Request) bool {
	u := req.URL
	if req.Close || len(req.Trailer) > 0 || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return true
	}
	if u.Opaque == "" && u.RawPath != "" && u.EscapedPath() != u.RawPath {
		return true
	}
	agent := false
	for k, vv := range req.Header {
		switch k {
		case "User-Agent":
			agent = true
		case "Cookie":
			if !canonicalCookie(vv) {
				return true
			}
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade",
			"Te", "Expect", "Trailer":
			return true
		default:
			if isInternal(k) {
				return true
			}
		}
	}
	return !agent // or the engine would add its own
}

func (x *exchange) fixHeader(out *http.Request) {
	h := out.Header
	// RFC 9110 section 7.8: whoever does not want to upgrade ignores the field.
	// That is the case if there is a body, which would come first.
	if p := upgradeProtocol(h); p != "" && !hasBody(out) {
		x.upgrade = p
	}
	for k := range h {
		if isInternal(k) || isHopByHop(k) || k == "Trailer" { // Trailer is made from Request.Trailer
			delete(h, k)
		}
	}
	if te := h["Te"]; len(te) > 0 {
		delete(h, "Te")
		if httprules.HasToken(te, "trailers") {
			h["Te"] = []string{"trailers"} // the only one there is in HTTP/2
		}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil
	}
	if vv := h["Cookie"]; !canonicalCookie(vv) {
		delete(h, "Cookie")
		h[hdrCookie] = vv
	}
	if vv := h["Expect"]; len(vv) > 0 {
		h[hdrExpect] = vv
		if !hasBody(out) {
			delete(h, "Expect")
		}
	}
	if x.upgrade != "" {
		h[hdrUpgrade] = []string{x.upgrade}
	}
}

// outgoingURL returns a URL whose RequestURI is the target as the client wrote
// it.
func outgoingURL(req *http.Request) *url.URL {
	u := *req.URL
	if u.Scheme != "http" && u.Scheme != "https" {
		u.Scheme = "http"
	}
	if u.Host == "" {
		u.Host = "lambda-dispatch"
		if req.Host != "" {
			u.Host = req.Host
		}
	}
	if u.Opaque == "" && u.RawPath != "" && u.EscapedPath() != u.RawPath {
		// EscapedPath does not trust a RawPath with a byte that should have
		// been escaped, such as a bar or a quotation mark, and escapes it.
		if p, err := url.PathUnescape(u.RawPath); err == nil && p == u.Path &&
			strings.HasPrefix(u.RawPath, "/") && !hasControl(u.RawPath) && !strings.ContainsAny(u.RawPath, "?#") {
			// net/http takes the authority off again. Without it, a path that
			// begins with two slashes would be taken for one with an authority.
			host := req.Host
			if host == "" {
				host = u.Host
			}
			u.Opaque = "//" + host + u.RawPath
		}
	}
	return &u
}

// incoming makes an engine's response the app's again.
func (x *exchange) incoming(resp *http.Response) error {
	// What the tunnel speaks is nobody's business, but Via and logs would show
	// it: router and adapter are one proxy, and apps speak HTTP/1.1 with it.
	resp.Proto, resp.ProtoMajor, resp.ProtoMinor = "HTTP/1.1", 1, 1
	var failure, status, upgrade, length string
	for k, vv := range resp.Header {
		if !isInternal(k) {
			continue
		}
		v := ""
		if len(vv) > 0 {
			v = vv[0]
		}
		switch k {
		case hdrError:
			failure = v
		case hdrStatus:
			status = v
		case hdrUpgrade:
			upgrade = v
		case hdrLength:
			length = v
		}
		delete(resp.Header, k)
	}
	if failure != "" {
		ae := parseAdapterError(failure)
		return &RoundTripError{Err: ae, Processed: ae.Code.Processed()}
	}
	if status != "" {
		code, err := strconv.Atoi(status)
		if err != nil || code < 300 || code > 999 {
			return &RoundTripError{Err: errors.Join(ErrProtocol, errWrongStatus), Processed: true}
		}
		setStatus(resp, code)
	}
	if _, err := strconv.ParseUint(length, 10, 63); err == nil && resp.StatusCode == http.StatusNotModified {
		resp.Header["Content-Length"] = []string{length}
	}
	switch {
	case upgrade != "":
		if x.upgrade == "" || resp.StatusCode != http.StatusOK {
			return &RoundTripError{Err: errors.Join(ErrProtocol, errWrongUpgrade), Processed: true}
		}
		resp.Header["Connection"] = []string{"Upgrade"}
		resp.Header["Upgrade"] = []string{upgrade}
		setStatus(resp, http.StatusSwitchingProtocols)
		resp.Body = &duplex{down: newChunkReader(resp.Body), body: resp.Body, up: x.up}
	case x.up != nil:
		_ = x.up.Close() // an ordinary response: the request has no body
	}
	return nil
}

func setStatus(resp *http.Response, code int) {
	resp.StatusCode = code
	resp.Status = strconv.Itoa(code) + " " + http.StatusText(code)
}

// abandon ends what waits for a response that will not come.
func (x *exchange) abandon() {
	if x.up != nil {
		_ = x.up.CloseWithError(errUpgradeEnded)
	}
}
