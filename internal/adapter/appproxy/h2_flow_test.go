package appproxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// newH2Of returns a proxy for an app that is the handler.
func newH2Of(t *testing.T, h http.HandlerFunc) *H2 {
	_, _, p, _ := h2App(t, h) //nolint:dogsled // the others are for requests from outside
	return p
}

// stalled is a client that takes nothing of an answer's body.
type stalled struct {
	header http.Header
	gone   chan struct{}
}

func (s *stalled) Header() http.Header { return s.header }
func (s *stalled) WriteHeader(int)     {}
func (s *stalled) Write(p []byte) (int, error) {
	<-s.gone
	return len(p), io.ErrClosedPipe
}

// TestH2StalledAnswersAndTheirNeighbours: answers that nobody reads fill their
// own windows, and nobody else's.
func TestH2StalledAnswersAndTheirNeighbours(t *testing.T) {
	const many = 40
	var filled sync.WaitGroup
	filled.Add(many)
	p := newH2Of(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/endless" {
			return
		}
		piece := make([]byte, 64<<10)
		for sent := 0; ; sent += len(piece) {
			if sent == h2StreamWindow {
				filled.Done()
			}
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	gone := make(chan struct{})
	var clients sync.WaitGroup
	for range many {
		clients.Go(func() {
			defer func() { _ = recover() }() // the answer is cut in the end
			p.Serve(&stalled{make(http.Header), gone}, httptest.NewRequestWithContext(t.Context(), "GET", "/endless", nil), NewScope(p))
		})
	}
	filled.Wait()
	w := httptest.NewRecorder()
	p.Serve(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), NewScope(p))
	if w.Code != http.StatusOK {
		t.Errorf("a neighbour got status %d", w.Code)
	}
	close(gone)
	clients.Wait()
}

// askedBody notes whether it was read, which is what makes a server tell its
// client to send the body.
type askedBody struct {
	io.Reader
	asked atomic.Bool
}

func (b *askedBody) Read(p []byte) (int, error) {
	b.asked.Store(true)
	return b.Reader.Read(p)
}

// TestH2ExpectContinue: the body of a client that waits for a 100 is asked for
// when the app wants it, and not if the app refuses it.
func TestH2ExpectContinue(t *testing.T) {
	p := newH2Of(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	for path, want := range map[string]bool{"/refuse": false, "/": true} {
		body := &askedBody{Reader: strings.NewReader("a body")}
		r := httptest.NewRequestWithContext(t.Context(), "POST", path, body)
		r.Header.Set("Expect", "100-continue")
		w := httptest.NewRecorder()
		p.Serve(w, r, NewScope(p))
		if body.asked.Load() != want || want != (w.Code == http.StatusOK && w.Body.String() == "a body") {
			t.Errorf("%s: body asked for: %t, answer %d %q", path, body.asked.Load(), w.Code, w.Body)
		}
	}
}
