package demoapp

import (
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	defaultDelay = 20 * time.Millisecond
	maxDelay     = 15 * time.Minute // a Lambda invocation never lives longer
	chunkedPause = 5 * time.Second
	oddStatusNum = 519 // registered by nobody, so no proxy has an opinion on it

	// echoBuffer is large, so that a body of many megabytes costs few reads.
	echoBuffer = 64 << 10
)

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Parse(pageHTML))

func (a *App) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = page.Execute(w, a.info()) // fails only when the client has left
}

func ping(w http.ResponseWriter, _ *http.Request) {
	writeText(w, "pong")
}

// health answers when the app has initialised. A probe that comes earlier is
// held rather than refused: that is how an app behaves which opens its port
// first and is busy loading afterwards.
func (a *App) health(w http.ResponseWriter, r *http.Request) {
	if !sleep(r, time.Until(a.initialised)) {
		return
	}
	writeText(w, "OK")
}

// headers answers with the request's header as JSON, in the form in which Node
// shows it: lower-case names, repeated fields joined.
func headers(w http.ResponseWriter, r *http.Request) {
	fields := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		fields[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	writeJSON(w, fields)
}

func delay(w http.ResponseWriter, r *http.Request) {
	d := defaultDelay
	if s := r.URL.Query().Get("delay"); s != "" {
		var err error
		if d, err = parseMilliseconds(s); err != nil {
			http.Error(w, (&valueError{name: "delay", err: err}).Error(), http.StatusBadRequest)
			return
		}
	}
	if !sleep(r, d) {
		return
	}
	writeText(w, "delayed "+strconv.FormatInt(d.Milliseconds(), 10)+" ms\n")
}

var echoBuffers = sync.Pool{New: func() any { return new([echoBuffer]byte) }}

// echo sends the body back while it arrives.
func echo(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	// Without it, net/http reads the whole HTTP/1.1 request before it sends
	// the first byte of the response. HTTP/2 needs no permission, and then
	// the error does not matter either.
	_ = rc.EnableFullDuplex()

	if ct := r.Header["Content-Type"]; ct != nil {
		w.Header()["Content-Type"] = ct
	} else {
		w.Header()["Content-Type"] = nil // no guessing: nothing was said
	}
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	}

	buf := echoBuffers.Get().(*[echoBuffer]byte)
	defer echoBuffers.Put(buf)
	var sent int64
	for {
		n, err := r.Body.Read(buf[:])
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			sent += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			// The upload was cut short. Ending the response normally would
			// tell the client that it had been echoed completely.
			panic(http.ErrAbortHandler)
		}
		if sent == r.ContentLength {
			continue // only the end is left, which the server flushes itself
		}
		if rc.Flush() != nil {
			return
		}
	}
}

func chunkedResponse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "first line, sent at once\n")
	if http.NewResponseController(w).Flush() != nil || !sleep(r, chunkedPause) {
		return
	}
	_, _ = io.WriteString(w, "last line, sent "+chunkedPause.String()+" later\n")
}

func (a *App) env(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, a.info())
}

func oddStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(oddStatusNum)
	_, _ = io.WriteString(w, "a status that no standard defines\n")
}

func silly(w http.ResponseWriter, _ *http.Request) {
	data := sillyImage()
	h := w.Header()
	h["Content-Type"] = []string{"image/jpeg"}
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	_, _ = w.Write(data) // one write: no copy through a buffer
}

// sleep waits for d and reports whether the client is still there.
func sleep(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return r.Context().Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// valueError names the setting or parameter that has a bad value.
type valueError struct {
	name string
	err  error
}

func (e *valueError) Error() string { return e.name + ": " + e.err.Error() }
func (e *valueError) Unwrap() error { return e.err }

var errMilliseconds = errors.New("must be a whole number of milliseconds from 0 to " +
	strconv.FormatInt(maxDelay.Milliseconds(), 10))

func parseMilliseconds(s string) (time.Duration, error) {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms < 0 || ms > maxDelay.Milliseconds() {
		return 0, errMilliseconds
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func writeText(w http.ResponseWriter, s string) {
	h := w.Header()
	h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	h["Content-Length"] = []string{strconv.Itoa(len(s))}
	_, _ = io.WriteString(w, s)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // fails only when the client has left
}
