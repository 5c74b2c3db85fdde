package lambdaapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// record answers one request with 202 and returns its bytes, without the
// header lines that depend on the machine.
func record(t *testing.T, call func(*Client) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wire bytes.Buffer
	heard := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			heard <- err
			return
		}
		defer conn.Close()
		req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &wire)))
		if err == nil {
			_, err = io.Copy(io.Discard, req.Body)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
		heard <- err
	}()
	c, err := New(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := call(c); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(regexp.MustCompile(`(Host|User-Agent): .*\r\n`).ReplaceAllString(wire.String(), ""), "\r\n", "\n")
}

func TestStreamsOnTheWire(t *testing.T) {
	say := func(s *ResponseStream, words ...string) {
		for _, word := range words {
			if _, err := io.WriteString(s, word); err != nil {
				t.Error(err)
			}
		}
	}
	for name, call := range map[string]func(*Client) error{
		"stream": func(c *Client) error {
			s := c.RespondStream(t.Context(), "a/b", ContentTypeHTTP)
			say(s, `{"statusCode":200}`+"\x00\x00\x00\x00\x00\x00\x00\x00", "hello ", "world")
			return s.Close()
		},
		"stream_empty": func(c *Client) error { return c.RespondStream(t.Context(), "r-1", "").Close() },
		"stream_fail": func(c *Client) error {
			s := c.RespondStream(t.Context(), "r-1", "text/plain")
			say(s, "half")
			if err := s.Fail(failure); err != nil {
				return err
			}
			return s.Close() // a second end is the first one's
		},
		"stream_close_then_fail": func(c *Client) error {
			s := c.RespondStream(t.Context(), "r-1", "")
			if err := s.Close(); err != nil {
				return err
			}
			return s.Fail(failure)
		},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, record(t, call)) })
	}
}

// Each piece is with Lambda before the next one is written.
func TestStreamIsLive(t *testing.T) {
	pieces := make(chan string)
	c := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(pieces)
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				pieces <- string(buf[:n])
			}
			if err != nil {
				break
			}
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	s := c.RespondStream(t.Context(), "r-1", "")
	for _, piece := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(s, piece); err != nil {
			t.Fatal(err)
		}
		if got := <-pieces; got != piece {
			t.Errorf("%q arrived, want %q", got, piece)
		}
	}
	go func() { <-pieces }() // closed
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// writeOn writes until that fails.
func writeOn(s *ResponseStream) error {
	for {
		if _, err := s.Write(make([]byte, 32<<10)); err != nil {
			return err
		}
	}
}

func TestStreamEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	c := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	s := c.RespondStream(ctx, "r-1", "")
	<-asked
	cancel()
	if err := writeOn(s); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	if err := s.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
}

// What ends with its context is never taken for complete.
func TestClosingAfterTheContextIsNoEnd(t *testing.T) {
	complete := make(chan bool, 1)
	asked := make(chan struct{})
	c := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		_, err := io.Copy(io.Discard, r.Body)
		complete <- err == nil
	}))
	ctx, cancel := context.WithCancel(t.Context())
	s := c.RespondStream(ctx, "r-1", "")
	<-asked
	cancel()
	if err := s.Close(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if <-complete {
		t.Error("Lambda got a complete response")
	}
}

// Nobody waits for a stream that was abandoned: goleak would find it.
func TestAbandonedStreamEndsWithItsContext(t *testing.T) {
	c := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	ctx, cancel := context.WithCancel(t.Context())
	s := c.RespondStream(ctx, "r-1", "")
	if _, err := io.WriteString(s, "x"); err != nil {
		t.Error(err)
	}
	cancel()
	<-s.done
}

func TestStreamIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		want   string
	}{
		"at once":   {http.StatusBadRequest, "status 400: InvalidRequestID: no such invocation"},
		"too large": {http.StatusRequestEntityTooLarge, "status 413: InvalidRequestID: no such invocation"},
		"accepted":  {http.StatusAccepted, errAnsweredEarly.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// Answers while the runtime goes on; then it must not be left alone.
				if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
					t.Error(err)
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, `{"errorType":"InvalidRequestID","errorMessage":"no such invocation"}`)
				_ = http.NewResponseController(w).Flush()
			}))
			s := c.RespondStream(t.Context(), "r-1", "")
			<-s.done // it is never ended by this side
			if err := writeOn(s); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("write: %v", err)
			}
			if err := s.Close(); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("close: %v", err)
			}
			if err := s.Fail(failure); err == nil {
				t.Error("the end of a refused stream was accepted")
			}
		})
	}
}

func TestStreamWhosePeerDies(t *testing.T) {
	c := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1))
		panic(http.ErrAbortHandler)
	}))
	s := c.RespondStream(t.Context(), "r-1", "")
	if err := writeOn(s); err == nil {
		t.Error("wrote on")
	}
	if err := s.Close(); err == nil {
		t.Error("closed in order")
	}
}
