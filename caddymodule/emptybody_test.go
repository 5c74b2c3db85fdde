package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// openBody is a body whose client decides when something comes.
func openBody(t *testing.T, method string) (*http.Request, *io.PipeWriter) {
	t.Helper()
	pr, pw := io.Pipe()
	t.Cleanup(func() { pw.Close() })
	r := httptest.NewRequest(method, "/", pr)
	r.ProtoMajor, r.ProtoMinor, r.ContentLength = 3, 0, -1
	return r, pw
}

func TestDropEmptyBody(t *testing.T) {
	t.Run("empty", func(t *testing.T) {
		r, pw := openBody(t, "GET")
		pw.Close()
		defer dropEmptyBody(r)()
		if r.Body != http.NoBody || r.ContentLength != 0 {
			t.Errorf("the body is %T of length %d, want none", r.Body, r.ContentLength)
		}
	})
	t.Run("not empty", func(t *testing.T) {
		r, pw := openBody(t, "DELETE")
		go func() {
			_, _ = io.WriteString(pw, "hello")
			pw.Close()
		}()
		defer dropEmptyBody(r)()
		if body, err := io.ReadAll(r.Body); string(body) != "hello" || err != nil || r.ContentLength != -1 {
			t.Errorf("the body is %q of length %d, %v", body, r.ContentLength, err)
		}
	})
	t.Run("late", func(t *testing.T) {
		r, pw := openBody(t, "GET")
		defer dropEmptyBody(r)() // waits in vain
		go func() {
			_, _ = io.WriteString(pw, "hello")
			pw.Close()
		}()
		if body, err := io.ReadAll(r.Body); string(body) != "hello" || err != nil {
			t.Errorf("the body is %q, %v", body, err)
		}
	})
	t.Run("never", func(t *testing.T) {
		r, _ := openBody(t, "GET")
		dropEmptyBody(r)() // returns, and leaves no goroutine
		if _, err := r.Body.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("reading after the end: %v", err)
		}
	})
	t.Run("broken", func(t *testing.T) {
		r, pw := openBody(t, "GET")
		pw.CloseWithError(io.ErrUnexpectedEOF)
		defer dropEmptyBody(r)()
		if _, err := io.ReadAll(r.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("reading gives %v, want what broke it", err)
		}
	})
	for name, change := range map[string]func(*http.Request){
		"HTTP/1.1":           func(r *http.Request) { r.ProtoMajor = 1 },
		"known length":       func(r *http.Request) { r.ContentLength = 5 },
		"method with a body": func(r *http.Request) { r.Method = "POST" },
		"trailers to come":   func(r *http.Request) { r.Trailer = http.Header{"X": nil} },
		"no body at all":     func(r *http.Request) { r.Body = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", strings.NewReader(""))
			r.ProtoMajor, r.ContentLength = 3, -1
			change(r)
			before, length := r.Body, r.ContentLength
			dropEmptyBody(r)()
			if r.Body != before || r.ContentLength != length {
				t.Error("the request was changed")
			}
		})
	}
}
