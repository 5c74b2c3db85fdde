package appproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestFullDuplex(t *testing.T) {
	url, client, _ := app(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.(http.Flusher).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(bytes.ToUpper(buf[:n]))
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	})
	body, pw := io.Pipe()
	resp, err := client.Do(newRequest(t, "POST", url, body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	for _, word := range []string{"one", "two", "three"} {
		_, _ = io.WriteString(pw, word)
		got := make([]byte, len(word))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != strings.ToUpper(word) {
			t.Fatalf("sent %q, got %q, %v", word, got, err)
		}
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestEarlyAnswer(t *testing.T) {
	// The app answers as soon as it has the head, and closes or goes silent
	// with most of the body unread. The client never ends its body by itself.
	for _, name := range []string{"closes", "resets", "goes silent"} {
		t.Run(name, func(t *testing.T) {
			a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				_, _ = io.CopyN(io.Discard, req.Body, 10)
				_, _ = io.WriteString(c, lines("HTTP/1.1 413 Too Large", "Content-Length: 9", "", "too large"))
				switch name {
				case "resets":
					_ = c.SetLinger(0)
				case "goes silent":
					<-t.Context().Done()
				}
			})
			url, client := front(t, newProxy(t, a.addr))
			body, pw := io.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				piece := make([]byte, 64<<10)
				for {
					if _, err := pw.Write(piece); err != nil {
						return
					}
				}
			}()
			defer body.Close() //nolint:errcheck // ends the writer
			resp, got := do(t, client, newRequest(t, "POST", url, body).WithContext(ctx))
			if resp.StatusCode != http.StatusRequestEntityTooLarge || got != "too large" {
				t.Errorf("client got %d %q", resp.StatusCode, got)
			}
		})
	}
}

// TestEarlyAnswerToASilentClient: the answer is complete, and neither the app
// nor the client goes on with the body.
func TestEarlyAnswerToASilentClient(t *testing.T) {
	for _, length := range []int64{-1, 100} {
		a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, okAnswer(req.Method))
				if req.Method == "POST" {
					_, _ = io.Copy(io.Discard, r) // takes all for the body
				}
			}
		})
		p := newProxy(t, a.addr)
		served := make(chan struct{}, 2)
		url, client := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.ServeHTTP(w, r)
			served <- struct{}{}
		}))
		body, pw := io.Pipe()
		req := newRequest(t, "POST", url, body)
		req.ContentLength = length
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		receive(t, served, "the handler, with the client still there")
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "POST" {
			t.Errorf("answer %q, %v", text, err)
		}
		_ = resp.Body.Close()
		_ = pw.Close()
		// The connection is in the middle of a body.
		if _, text := get(t, client, url); text != "GET" {
			t.Errorf("next answer %q", text)
		}
		if n := a.accepted(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	tests := map[string]struct {
		app     func(c io.Writer)
		want    string
		upload  bool
		timeout bool
	}{
		"continue": {func(c io.Writer) { _, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n") }, "got body", true, false},
		"refusal":  {func(c io.Writer) { _, _ = io.WriteString(c, okAnswer("no thanks")) }, "no thanks", false, false},
		"silence":  {func(io.Writer) {}, "got body", true, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if req.Header.Get("Expect") == "" {
					t.Error("the app did not see Expect")
				}
				if !tt.timeout && r.Buffered() > 0 {
					t.Error("the body did not wait")
				}
				tt.app(c)
				body, err := io.ReadAll(req.Body)
				if tt.upload != (err == nil) {
					t.Errorf("the app read %q, %v", body, err)
				}
				if tt.upload {
					_, _ = io.WriteString(c, okAnswer("got "+string(body)))
				}
			})
			p := newProxy(t, a.addr)
			// Go's HTTP/2 server takes Expect away, so this one is HTTP/1.1.
			srv := newHTTP1Front(t, p)
			transport := &http.Transport{ExpectContinueTimeout: time.Minute}
			defer transport.CloseIdleConnections()
			req := newRequest(t, "POST", srv, strings.NewReader("body"))
			req.Header.Set("Expect", "100-continue")
			_, got := do(t, &http.Client{Transport: transport}, req)
			if got != tt.want {
				t.Errorf("client got %q, want %q", got, tt.want)
			}
		})
	}
}

// A request waits for the app once its body has been sent. Before that it is
// its client that the app waits for, however slow that is.
func TestRequestWaitsForItsClientOrForTheApp(t *testing.T) {
	half, whole, answer := make(chan struct{}), make(chan struct{}), make(chan struct{})
	url, client, p := app(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 4)
		close(half)
		_, _ = io.Copy(io.Discard, r.Body)
		close(whole)
		<-answer
	})
	waiting := func(want int) {
		t.Helper()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for limit := time.After(patience); p.Activity().Waiting != want; {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("%d requests wait, want %d", p.Activity().Waiting, want)
			}
		}
	}
	body, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(t, client, newRequest(t, "POST", url, body))
	}()
	_, _ = io.WriteString(pw, "half")
	<-half
	waiting(0)
	_, _ = io.WriteString(pw, "rest")
	_ = pw.Close()
	<-whole
	waiting(1)
	close(answer)
	<-done
	waiting(0)
}

func TestClientsBodyBreaks(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan error, 1)
	url, client, _ := app(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 5)
		close(arrived)
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	body, pw := io.Pipe()
	go func() {
		_, _ = io.WriteString(pw, "the first half")
		<-arrived
		_ = pw.CloseWithError(errors.New("broken"))
	}()
	resp, err := client.Do(newRequest(t, "POST", url, body))
	if err == nil {
		_ = resp.Body.Close()
		t.Errorf("client got %d", resp.StatusCode)
	}
	if err := receive(t, ended, "the app"); err == nil {
		t.Error("the app took half a body for a whole one")
	}
}

// TestShortRequestBody: the body ends before its length, and the request is
// not cancelled.
func TestShortRequestBody(t *testing.T) {
	ended := make(chan error, 1)
	_, _, p := app(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	r := httptest.NewRequest("POST", "/", nil)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("short")), 10
	func() {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // a panic's value
				t.Errorf("panic %v, want ErrAbortHandler", v)
			}
		}()
		p.ServeHTTP(httptest.NewRecorder(), r)
	}()
	if err := receive(t, ended, "the app"); err == nil {
		t.Error("the app took half a body for a whole one")
	}
}

func TestLongRequestBodyIsCutAtItsLength(t *testing.T) {
	got := make(chan string, 1)
	a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, r, req.ContentLength)
		_, _ = io.WriteString(c, okAnswer("ok"))
		rest, _ := io.ReadAll(r)
		got <- string(rest)
	})
	p := newProxy(t, a.addr)
	r := httptest.NewRequest("POST", "/", nil)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("12345GET /evil HTTP/1.1\r\nHost: x\r\n\r\n")), 5
	p.ServeHTTP(httptest.NewRecorder(), r)
	p.CloseIdle()
	if rest := receive(t, got, "the app"); rest != "" {
		t.Errorf("the app got %q behind the body", rest)
	}
}
