package adapter

import (
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// minCompress is the size in bytes below which a body is left as it is: the
// coding would cost more than it saves.
const minCompress = 32

// compressWindow bounds the memory of a compressor, and how far back it looks.
const compressWindow = 256 << 10

// codings are the content codings that the adapter can make, the one that
// makes bodies smallest first.
var codings = []string{"br", "zstd", "gzip"}

// compressor makes a content coding. What was written before Flush can be
// decoded from what has come out by its end.
type compressor interface {
	io.WriteCloser
	Flush() error
	Reset(to io.Writer)
}

// compressors are free ones, by coding.
var compressors = map[string]*sync.Pool{
	"br": {New: func() any { return newBrotliWriter() }},
	"gzip": {New: func() any {
		w, err := gzip.NewWriterLevel(nil, 5)
		if err != nil { // the level exists
			panic(err)
		}
		return w
	}},
	"zstd": {New: func() any {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(compressWindow))
		if err != nil { // the options are valid
			panic(err)
		}
		return w
	}},
}

func newCompressor(coding string, to io.Writer) compressor {
	c := compressors[coding].Get().(compressor)
	c.Reset(to)
	return c
}

// freeCompressor gives back a compressor that nobody writes to any more.
func freeCompressor(coding string, c compressor) {
	c.Reset(nil)
	compressors[coding].Put(c)
}

// preference is what a request accepts (RFC 9110, section 12.5.3).
type preference struct {
	coding string // of codings; empty: leave the body as it is
	forced bool   // identity is refused
}

// preferredCoding reads Accept-Encoding. Of codings that are accepted alike, the
// earlier in codings wins, and all of them win against a body that is left as
// it is, unless the client prefers that.
func preferredCoding(accept []string) preference {
	weights := make(map[string]float64)
	for _, field := range accept {
		for part := range strings.SplitSeq(field, ",") {
			name, params, _ := strings.Cut(part, ";")
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
				weights[strings.TrimPrefix(name, "x-")] = weight(params)
			}
		}
	}
	others, hasOthers := weights["*"]
	p, best := preference{}, 0.0
	for _, coding := range codings {
		w, named := weights[coding]
		if !named {
			w = others
		}
		if w > best {
			p.coding, best = coding, w
		}
	}
	identity, named := weights["identity"]
	switch {
	case named && identity > best:
		return preference{}
	case named:
		p.forced = identity == 0
	case hasOthers:
		p.forced = others == 0
	}
	return p
}

// weight reads the parameters of one coding; one that makes no sense counts as
// refused.
func weight(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}

// compressible reports whether an answer can have a content coding and would
// become smaller by it.
func compressible(method string, status int, h http.Header) bool {
	switch {
	case method == http.MethodHead, status < 200, status == http.StatusNoContent, status == http.StatusNotModified:
		return false // no body
	case status == http.StatusPartialContent, h.Get("Content-Range") != "":
		return false // the range is one of the body as it is
	case !identityOnly(h["Content-Encoding"]):
		return false
	case httprules.HasToken(h["Cache-Control"], "no-transform"):
		return false // RFC 9111, section 5.2.2.6
	}
	return compressibleType(h.Get("Content-Type"))
}

// compressibleType leaves out what is compressed in itself, server-sent events,
// whose proxies and clients often expect them as they are, and gRPC, which has
// a compression of its own.
func compressibleType(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil && t == "" {
		t, _, _ = strings.Cut(contentType, ";")
		t = strings.ToLower(strings.TrimSpace(t))
	}
	kind, _, _ := strings.Cut(t, "/")
	switch {
	case t == "image/svg+xml":
		return true // text
	case kind == "image", kind == "video", kind == "audio":
		return false
	case t == "text/event-stream", strings.HasPrefix(t, "application/grpc"):
		return false
	}
	switch t {
	case "application/zip", "application/gzip", "application/x-gzip", "application/zstd", "font/woff", "font/woff2":
		return false
	}
	return true
}

// tooSmall reports whether an answer says that its body is too small.
func tooSmall(h http.Header) bool {
	n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	return err == nil && n < minCompress
}

func identityOnly(values []string) bool {
	return !slices.ContainsFunc(values, func(v string) bool {
		v = strings.TrimSpace(v)
		return v != "" && !strings.EqualFold(v, "identity")
	})
}

// varyByEncoding tells caches that the answer depends on Accept-Encoding.
func varyByEncoding(h http.Header) {
	if !httprules.HasToken(h["Vary"], "Accept-Encoding") && !httprules.HasToken(h["Vary"], "*") {
		h["Vary"] = append(slices.Clip(h["Vary"]), "Accept-Encoding")
	}
}

// setCoding changes the head of an answer to one whose body has the coding.
func setCoding(h http.Header, coding string) {
	h["Content-Encoding"] = []string{coding}
	// What depends on the bytes of the body is no longer right.
	for _, name := range []string{"Content-Length", "Accept-Ranges", "Content-Md5", "Content-Digest", "Repr-Digest", "Digest"} {
		delete(h, name)
	}
	if tag := h.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		h["Etag"] = []string{"W/" + tag} // RFC 9110, section 8.8.1
	}
}
