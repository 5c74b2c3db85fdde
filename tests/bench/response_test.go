//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"
)

func TestParser(t *testing.T) {
	for name, tc := range map[string]struct {
		in     string
		status int
		body   int64
		rest   string
		err    error
	}{
		"length":      {in: "HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\nA: b\r\n\r\npongHTTP", status: 200, body: 4, rest: "HTTP"},
		"empty":       {in: "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", status: 500},
		"no content":  {in: "HTTP/1.1 204 No Content\r\n\r\nx", status: 204, rest: "x"},
		"informative": {in: "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!", status: 200, body: 1},
		"long chunk":  {in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0b;x=y\r\n hello again\r\n0\r\nT: u\r\n\r\nrest", err: errChunk, status: 200, body: 16},
		"chunked":     {in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0C;x=y\r\n hello again\r\n0\r\nT: u\r\n\r\nrest", status: 200, body: 17, rest: "rest"},
		"no frame":    {in: "HTTP/1.1 200 OK\r\n\r\n", status: 200, err: errNoFrame},
		"not HTTP":    {in: "SSH-2.0-OpenSSH_9.2\r\n\r\n", err: errHead},
		"bad length":  {in: "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n", status: 200, err: errHead},
		"bad size":    {in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n", status: 200, err: errChunk},
		"too long":    {in: "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", maxHead), err: errHead},
	} {
		t.Run(name, func(t *testing.T) {
			var p parser
			rest, done, err := p.feed([]byte(tc.in))
			if !errors.Is(err, tc.err) || done != (tc.err == nil) {
				t.Fatalf("done %v, error %v, want error %v", done, err, tc.err)
			}
			if p.status != tc.status || p.body != tc.body || string(rest) != tc.rest {
				t.Errorf("status %d, body %d, rest %q", p.status, p.body, rest)
			}
		})
	}
}

// FuzzParser checks that it makes no difference in which pieces a response
// arrives.
func FuzzParser(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npongHTTP"), uint8(1))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nrest"), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		var whole, pieces parser
		wantRest, wantDone, wantErr := whole.feed(in)
		for left := in; ; {
			n := min(len(left), int(size)+1)
			rest, done, err := pieces.feed(left[:n])
			left = left[n:]
			if done || err != nil || len(left) == 0 {
				if done != wantDone || (err != nil) != (wantErr != nil) {
					t.Fatalf("in pieces: done %v, error %v; whole: done %v, error %v", done, err, wantDone, wantErr)
				}
				if done && len(rest)+len(left) != len(wantRest) {
					t.Fatalf("rest of %d bytes, want %d", len(rest)+len(left), len(wantRest))
				}
				if pieces.status != whole.status || pieces.body != whole.body {
					t.Fatalf("got status %d, body %d, want %d, %d", pieces.status, pieces.body, whole.status, whole.body)
				}
				return
			}
		}
	})
}
