package tunnel

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// validTrailer reports whether a field may be sent in a trailer section.
// net/http's server answers any other with a stream error of type
// PROTOCOL_ERROR, after which its client gives up the whole connection: a
// client of the router must not be able to cause that.
func validTrailer(name string) bool {
	name = http.CanonicalHeaderKey(name)
	return httprules.ValidFieldName(name) && httprules.ValidTrailer(name) &&
		!isHopByHop(name) && !isInternal(name)
}

// announcesInternal reports whether a Trailer field names an internal one.
func announcesInternal(v string) bool {
	for name := range strings.SplitSeq(v, ",") {
		if isInternal(strings.TrimSpace(name)) {
			return true
		}
	}
	return false
}

// withoutInternal returns the values of a Trailer field without internal names.
func withoutInternal(vv []string) (names []string) {
	for _, v := range vv {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" && !isInternal(name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// fixTrailer makes out send only trailer fields that the peer accepts.
// Trailers are known only when the body has been read, and net/http does not
// look at them again. Its server drops those that were not announced, so they
// travel as values of one that was.
func fixTrailer(out *http.Request) {
	if !hasBody(out) {
		out.Trailer = nil
		return
	}
	src := out.Trailer
	out.Trailer = make(http.Header, len(src)+1)
	for k := range src {
		if validTrailer(k) {
			out.Trailer[k] = nil
		}
	}
	out.Trailer[hdrTrailer] = nil
	out.Body = &outgoingTrailer{ReadCloser: out.Body, src: src, dst: out.Trailer}
}

type outgoingTrailer struct {
	io.ReadCloser
	src, dst http.Header
}

func (b *outgoingTrailer) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		for k, vv := range b.src {
			b.send(k, vv)
		}
		b.src = nil
	}
	return n, err
}

func (b *outgoingTrailer) send(name string, values []string) {
	if !validTrailer(name) {
		return
	}
	_, announced := b.dst[name]
	for _, v := range values {
		switch {
		case !httprules.ValidFieldValue(v):
		case announced:
			b.dst[name] = append(b.dst[name], v)
		default:
			b.dst[hdrTrailer] = append(b.dst[hdrTrailer], name+": "+v)
		}
	}
}

// incomingTrailers makes the trailers of an engine's request the client's
// again, once they are there. The engine fills its own map and needs its keys.
func incomingTrailers(r *http.Request) {
	if len(r.Trailer) == 0 {
		return
	}
	src := r.Trailer
	r.Trailer = make(http.Header, len(src))
	for k := range src {
		if !isInternal(k) {
			r.Trailer[k] = nil
		}
	}
	r.Body = &incomingTrailer{ReadCloser: r.Body, src: src, dst: r.Trailer}
}

type incomingTrailer struct {
	io.ReadCloser
	src, dst http.Header
}

func (b *incomingTrailer) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	for k, vv := range b.src {
		if !isInternal(k) {
			b.dst[k] = vv
		}
	}
	for _, field := range b.src[hdrTrailer] {
		if name, v, ok := strings.Cut(field, ": "); ok && validTrailer(name) {
			b.dst[name] = append(b.dst[name], v)
		}
	}
	b.src = nil
	return n, err
}
