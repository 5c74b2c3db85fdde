package appproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// h2exchange is one request to the app.
type h2exchange struct {
	h *H2
	w http.ResponseWriter
	r *http.Request

	out    *http.Request
	conn   *h2conn // that has the answer
	cancel context.CancelFunc
	body   *replay // nil without a body
	began  bool    // the final answer's head is on its way to the client
	lost   bool    // the app ended the connection

	mu       sync.Mutex // guards w until answered
	answered bool       // guarded by mu
}

// abort implements aborter.
func (x *h2exchange) abort() { x.cancel() }

// Serve implements [App].
func (h *H2) Serve(w http.ResponseWriter, r *http.Request, s *Scope) {
	x := &h2exchange{h: h, w: w, r: r}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	x.cancel = cancel
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: x.inform})
	if err := x.prepare(ctx); err != nil {
		h.faults.refused(w, r, s, err)
		return
	}
	if f := s.enter(x); f != nil {
		h.faults.failed(w, r, s, ended{fault: f})
		return
	}
	if x.out.Body != nil {
		x.body = newReplay(r.Body, r.Trailer)
	}
	reached, err := x.run()
	broken := x.body.broken()
	fault := s.leave(x)
	cancel() // or the engine goes on sending the body
	x.body.stop()
	switch {
	case err == nil:
	case !reached && fault == nil:
		h.faults.notReached(w, r, s, err)
	default:
		h.faults.failed(w, r, s, ended{
			began: x.began, fault: fault, client: broken != nil, lost: x.lost, code: CodeFailed, err: err,
		})
	}
}

// run sends the request and passes the answer on. It reports whether the app
// may have seen the request.
func (x *h2exchange) run() (reached bool, err error) {
	resp, reached, err := x.ask()
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
	if err != nil {
		return reached, err
	}
	defer x.h.release(x.conn)
	defer resp.Body.Close()
	return true, x.deliver(resp)
}

// ask sends the request until the app takes it and returns the answer's head.
func (x *h2exchange) ask() (resp *http.Response, reached bool, err error) {
	x.h.activity.waiting.Add(1)
	defer x.h.activity.waiting.Add(-1)
	for attempt := 1; ; attempt++ {
		c, err := x.h.get(x.out.Context())
		if err != nil {
			return nil, false, err
		}
		out, ok := x.attempt()
		if !ok {
			c.Release()
			return nil, false, errors.New("it did not take the request, whose body is too long to be sent again")
		}
		again := c.used.Swap(true)
		resp, err := c.RoundTrip(out)
		if err == nil {
			x.conn = c
			if x.body != nil {
				x.body.commit()
			}
			return resp, true, nil
		}
		reached := !notTaken(err)
		x.lost = c.Err() != nil
		// A connection that the app closed without a word is like a stale one
		// of HTTP/1.1.
		retry := !reached || (again && httprules.Idempotent(x.r.Method) && c.Err() != nil)
		if !retry || attempt == h2Attempts || !x.pause(attempt) {
			return nil, reached, explainH2(err)
		}
	}
}

// pause lets the app come to itself and reports whether there is still
// somebody to try again for.
func (x *h2exchange) pause(attempt int) bool {
	t := time.NewTimer(min(time.Millisecond<<(attempt-1), maxH2Pause))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-x.out.Context().Done():
		return false
	}
}

// attempt returns the request for another try.
func (x *h2exchange) attempt() (*http.Request, bool) {
	out := x.out.WithContext(x.out.Context())
	if x.body == nil {
		return out, true
	}
	out.Trailer = maps.Clone(x.out.Trailer)
	body := x.body.again(out.Trailer)
	out.Body = body
	return out, body != nil
}

// prepare makes the request for the app. It refuses what an HTTP/1.1 app
// would be spared, too.
func (x *h2exchange) prepare(ctx context.Context) error {
	r := x.r
	target, err := requestTarget(r)
	if err != nil {
		return err
	}
	if r.Method == http.MethodConnect {
		return errors.New("method CONNECT is for proxies")
	}
	if !httprules.ValidFieldName(r.Method) {
		return fmt.Errorf("method %q is not a token", r.Method)
	}
	f := frame(r)
	x.out = (&http.Request{
		Method: r.Method, URL: h2URL(target, r.Host), Host: r.Host, ContentLength: r.ContentLength,
	}).WithContext(ctx)
	if x.out.Header, err = h2Header(r.Header); err != nil {
		return err
	}
	if !f.body {
		x.out.ContentLength = 0
		return nil
	}
	x.out.Body = r.Body
	x.out.Trailer = make(http.Header, len(r.Trailer))
	for name := range r.Trailer {
		x.out.Trailer[name] = nil
	}
	return nil
}

// h2URL returns a URL whose request target is the one given, byte for byte.
func h2URL(target, host string) *url.URL {
	u := &url.URL{Scheme: "http", Host: host}
	if host == "" {
		u.Host = "app"
	}
	path, query, hasQuery := strings.Cut(target, "?")
	u.RawQuery, u.ForceQuery = query, hasQuery && query == ""
	u.Opaque = string(appendTarget(nil, path))
	if strings.HasPrefix(path, "//") {
		// net/http takes the authority off again. Without one, the path's own
		// beginning would be taken for it.
		u.Opaque = "//" + u.Host + u.Opaque
	}
	return u
}

// h2Header returns the fields that are for the app.
func h2Header(h http.Header) (http.Header, error) {
	out := make(http.Header, len(h)+1)
	connection := h["Connection"]
	for name, values := range h {
		switch {
		case name == "Te":
			for _, v := range values {
				for coding := range strings.SplitSeq(v, ",") {
					if strings.EqualFold(strings.TrimSpace(coding), "trailers") {
						out["Te"] = []string{"trailers"} // the only one in HTTP/2
					}
				}
			}
			continue
		case skipRequestField(name, false) || named(connection, name, false):
			continue
		case !httprules.ValidFieldName(name):
			return nil, fmt.Errorf("header name %q is not a token", name)
		}
		for _, v := range values {
			if !httprules.ValidFieldValue(v) {
				return nil, fmt.Errorf("header %s has an invalid value", name)
			}
		}
		if name == "Cookie" && len(values) > 1 {
			values = []string{strings.Join(values, "; ")}
		}
		out[name] = values
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = nil // do not add one
	}
	return out, nil
}

// inform passes an informational answer on. The engine may call it when the
// final one is on its way.
func (x *h2exchange) inform(code int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answered || code == http.StatusContinue { // reading the body makes the server send its own
		return nil
	}
	h := x.w.Header()
	copyHeader(h, http.Header(header), false)
	x.w.WriteHeader(code)
	for name := range header {
		delete(h, name)
	}
	return nil
}

// deliver passes the final answer on.
func (x *h2exchange) deliver(resp *http.Response) error {
	x.began = true
	announced := writeHead(x.w, resp)
	if x.r.Method != http.MethodHead && resp.StatusCode != http.StatusNotModified {
		if err := x.copyBody(resp); err != nil {
			return err
		}
	}
	sendTrailer(x.w.Header(), resp.Trailer, announced)
	return nil
}

// copyBody passes on every piece as it comes.
func (x *h2exchange) copyBody(resp *http.Response) error {
	out := flusherOf(x.w)
	flush := resp.ContentLength != 0 // an empty answer leaves in one piece
	small := smallBuffers.Get().(*[smallBuffer]byte)
	defer smallBuffers.Put(small)
	buf := small[:]
	for {
		if flush {
			if err := out.FlushError(); err != nil {
				return fmt.Errorf("writing to the client: %w", err)
			}
		}
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := x.w.Write(buf[:n]); err != nil {
				return fmt.Errorf("writing to the client: %w", err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w (the answer was cut)", explainH2(err))
		}
		if n == len(buf) && n == smallBuffer { // there is more to come
			large := copyBuffers.Get().(*[copyBuffer]byte)
			defer copyBuffers.Put(large)
			buf = large[:]
		}
	}
}
