package tunnel

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
)

// incomingRequest makes a request of the engine the client's again. It is the
// adapter's half of exchange.outgoing.
func incomingRequest(r *http.Request) (upgrade string) {
	for k, vv := range r.Header {
		if !isInternal(k) {
			continue
		}
		delete(r.Header, k)
		switch k {
		case hdrUpgrade:
			upgrade = vv[0]
		case hdrCookie:
			r.Header["Cookie"] = vv
		case hdrExpect:
			r.Header["Expect"] = vv
		}
	}
	incomingTrailers(r)
	if upgrade != "" {
		r.Header["Connection"] = []string{"Upgrade"}
		r.Header["Upgrade"] = []string{upgrade}
		r.ContentLength = 0 // what follows is not the request's content
	}
	return upgrade
}

// upgradeBody is the body of a request that asks for an upgrade: empty, until
// the upgrade has been accepted. Otherwise an app that wants the whole request
// before it answers would wait for ever.
type upgradeBody struct {
	io.ReadCloser
	w *responseWriter
}

func (b *upgradeBody) Read(p []byte) (int, error) {
	if !b.w.upgraded.Load() {
		return 0, io.EOF
	}
	return b.ReadCloser.Read(p)
}

// responseWriter is what a handler of a session writes to.
type responseWriter struct {
	http.ResponseWriter
	req         *http.Request
	upgrade     string       // the protocol that the client asks for, "" if none
	chunks      *chunkWriter // after status 101
	upgraded    atomic.Bool  // the same, for who reads the request's body meanwhile
	maxHeader   int
	wroteHeader bool
}

// findWriter finds the tunnel's writer under those that wrap it.
func findWriter(w http.ResponseWriter) *responseWriter {
	for {
		switch v := w.(type) {
		case *responseWriter:
			return v
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return nil
		}
	}
}

// Unwrap is for [http.ResponseController].
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter]. Statuses below 200 but 101 are
// informational and may be followed by more; 101 accepts an upgrade.
func (w *responseWriter) WriteHeader(status int) {
	if w.wroteHeader {
		return
	}
	h := w.Header()
	if status == http.StatusSwitchingProtocols {
		w.switchProtocols(h)
		return
	}
	if clean(h) > w.maxHeader {
		w.fail(&AdapterError{Code: CodeAppFailed, Message: "response header section is above the router's limit of " +
			strconv.Itoa(w.maxHeader) + " bytes"})
		return
	}
	if status >= 200 {
		w.wroteHeader = true
		if length := h["Content-Length"]; status == http.StatusNotModified && len(length) > 0 {
			h[hdrLength] = length[:1]
			h["Content-Length"] = nil
		}
		noDefaults(h)
		if status > 299 && status != http.StatusNotModified && w.req.ContentLength != 0 {
			// net/http's client would stop sending the request's body, which
			// the app may still want: its status says nothing about that.
			h[hdrStatus] = []string{strconv.Itoa(status)}
			status = http.StatusOK
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) switchProtocols(h http.Header) {
	if w.upgrade == "" {
		w.fail(&AdapterError{Code: CodeAppFailed, Message: "app switched protocols without being asked"})
		return
	}
	w.wroteHeader = true
	protocol := h.Get("Upgrade")
	if protocol == "" {
		protocol = w.upgrade
	}
	clean(h)
	noDefaults(h)
	h["Content-Length"] = nil
	h[hdrUpgrade] = []string{protocol}
	w.ResponseWriter.WriteHeader(http.StatusOK)
	w.chunks = &chunkWriter{w: w.ResponseWriter, flush: func() error { return flush(w.ResponseWriter) }}
	w.upgraded.Store(true)
	_ = flush(w.ResponseWriter) // a failure shows at the next write
}

// clean takes out of a header section what must not cross the tunnel and
// returns the section's size as HTTP/2 counts it (RFC 9113 section 6.5.2).
// "Connection: close" is not harmless there: net/http's server would hang up.
func clean(h http.Header) int {
	size := 0
	for k, vv := range h {
		if isInternal(k) || isHopByHop(k) {
			delete(h, k)
			continue
		}
		if k == "Trailer" && slices.ContainsFunc(vv, announcesInternal) {
			vv = withoutInternal(vv)
			h[k] = vv
		}
		for _, v := range vv {
			size += len(k) + len(v) + 32
		}
	}
	return size
}

// noDefaults keeps net/http's server from adding fields that the app has not
// sent. A Content-Length of its own would also cost the trailers: HTTP/1.1 has
// none without chunks.
func noDefaults(h http.Header) {
	for _, k := range [...]string{"Date", "Content-Type", "Content-Length"} {
		if _, ok := h[k]; !ok {
			h[k] = nil
		}
	}
}

func (w *responseWriter) fail(e *AdapterError) {
	h := w.Header()
	clear(h)
	noDefaults(h)
	h[hdrError] = []string{e.encode()}
	w.wroteHeader = true
	w.ResponseWriter.WriteHeader(http.StatusBadGateway)
}

// Write implements [http.ResponseWriter].
func (w *responseWriter) Write(p []byte) (int, error) {
	if w.chunks != nil {
		return w.chunks.Write(p)
	}
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// WriteString implements [io.StringWriter].
func (w *responseWriter) WriteString(s string) (int, error) {
	if w.chunks != nil {
		return w.chunks.Write([]byte(s))
	}
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	return io.WriteString(w.ResponseWriter, s)
}

// FlushError is for [http.ResponseController].
func (w *responseWriter) FlushError() error {
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	return flush(w.ResponseWriter)
}

// flush flushes an engine's writer.
func flush(w http.ResponseWriter) error {
	if f, ok := w.(interface{ FlushError() error }); ok {
		return f.FlushError()
	}
	return http.NewResponseController(w).Flush()
}

// Flush implements [http.Flusher].
func (w *responseWriter) Flush() { _ = w.FlushError() }

// finish completes a response whose handler has returned.
func (w *responseWriter) finish() {
	if w.chunks != nil {
		_ = w.chunks.CloseWrite() // a failure means that nobody is there to see it
		return
	}
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	w.cleanTrailers()
}

// cleanTrailers takes out of the header map what would become trailers now.
func (w *responseWriter) cleanTrailers() {
	h := w.Header()
	size := 0
	for k, vv := range h {
		name := k
		if len(k) > len(http.TrailerPrefix) && k[:len(http.TrailerPrefix)] == http.TrailerPrefix {
			name = k[len(http.TrailerPrefix):]
		}
		if isInternal(name) || len(vv) == 0 {
			// An announced trailer with no value makes net/http's server (as of
			// Go 1.26) forget to end the stream.
			delete(h, k)
			continue
		}
		for _, v := range vv {
			size += len(name) + len(v) + 32
		}
	}
	if size > w.maxHeader {
		// Too large to be read at the other end, at the price of the tunnel.
		panic(http.ErrAbortHandler)
	}
}
