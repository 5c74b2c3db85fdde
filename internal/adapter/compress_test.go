package adapter

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// decoder returns what reads a content coding.
func decoder(t testing.TB, coding string, from io.Reader) io.Reader {
	t.Helper()
	switch coding {
	case "br":
		return brotli.NewReader(from)
	case "gzip":
		r, err := gzip.NewReader(from)
		if err != nil {
			t.Fatal(err)
		}
		return r
	case "zstd":
		r, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	return from
}

func decode(t testing.TB, coding string, p []byte) string {
	t.Helper()
	text, err := io.ReadAll(decoder(t, coding, bytes.NewReader(p)))
	if err != nil {
		t.Errorf("%s: decoding %d bytes: %v", coding, len(p), err)
	}
	return string(text)
}

func TestPreferredCoding(t *testing.T) {
	tests := []struct {
		accept string
		want   preference
	}{
		{"", preference{}},
		{"gzip", preference{coding: "gzip"}},
		{"x-gzip", preference{coding: "gzip"}},
		{"gzip, deflate, br, zstd", preference{coding: "br"}},
		{"GZIP;Q=0.9, zstd;q=1", preference{coding: "zstd"}},
		{"br;q=0.5, gzip ; q = 0.8", preference{coding: "gzip"}},
		{"br;q=0, *", preference{coding: "zstd"}},
		{"*", preference{coding: "br"}},
		{"*;q=0", preference{forced: true}},
		{"*;q=0, gzip", preference{coding: "gzip", forced: true}},
		{"identity;q=0, gzip", preference{coding: "gzip", forced: true}},
		{"identity, gzip;q=0.5", preference{}},
		{"identity;q=0.5, gzip;q=0.5", preference{coding: "gzip"}},
		{"*;q=0, identity", preference{}},
		{"deflate, compress", preference{}},
		{"gzip;q=2, br;q=x, zstd;q=-1", preference{}},
		{"gzip;q=NaN", preference{}},
		{",, gzip;level=1;q=0.1,", preference{coding: "gzip"}},
	}
	for _, tt := range tests {
		if got := preferredCoding([]string{tt.accept}); got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.accept, got, tt.want)
		}
	}
	if got := preferredCoding([]string{"deflate", "zstd"}); got.coding != "zstd" {
		t.Errorf("two fields: %+v", got)
	}
}

func TestCompressible(t *testing.T) {
	tests := []struct {
		method string
		status int
		header string // Name: value|Name: value
		want   bool
	}{
		{"GET", 200, "Content-Type: text/html; charset=utf-8", true},
		{"POST", 500, "Content-Type: application/json", true},
		{"GET", 200, "", true},
		{"GET", 200, "Content-Type: ;", true},
		{"HEAD", 200, "Content-Type: text/html", false},
		{"GET", 204, "", false},
		{"GET", 304, "", false},
		{"GET", 206, "", false},
		{"GET", 200, "Content-Range: bytes 0-1/2", false},
		{"GET", 200, "Content-Encoding: gzip", false},
		{"GET", 200, "Content-Encoding: identity", true},
		{"GET", 200, "Cache-Control: public, No-Transform", false},
		{"GET", 200, "Cache-Control: no-store", true},
		{"GET", 200, "Content-Type: image/png", false},
		{"GET", 200, "Content-Type: IMAGE/WEBP", false},
		{"GET", 200, "Content-Type: image/svg+xml", true},
		{"GET", 200, "Content-Type: video/mp4", false},
		{"GET", 200, "Content-Type: font/woff2", false},
		{"GET", 200, "Content-Type: application/zip", false},
		{"GET", 200, "Content-Type: text/event-stream; charset=utf-8", false},
		{"GET", 200, "Content-Type: text/event-stream; =", false},
		{"POST", 200, "Content-Type: application/grpc+proto", false},
		{"POST", 200, "Content-Type: application/grpc-web-text", false},
		{"GET", 200, "Content-Type: application/octet-stream", true},
	}
	for _, tt := range tests {
		h := http.Header{}
		if name, value, ok := strings.Cut(tt.header, ": "); ok {
			h.Set(name, value)
		}
		if got := compressible(tt.method, tt.status, h); got != tt.want {
			t.Errorf("%s %d %q: %v", tt.method, tt.status, tt.header, got)
		}
	}
}

func TestSetCoding(t *testing.T) {
	h := http.Header{
		"Etag": {`"abc"`}, "Content-Length": {"9"}, "Accept-Ranges": {"bytes"}, "Vary": {"Cookie"}, "Content-Digest": {"x"},
	}
	varyByEncoding(h)
	varyByEncoding(h)
	setCoding(h, "br")
	if got, want := fmt.Sprint(h), `map[Content-Encoding:[br] Etag:[W/"abc"] Vary:[Cookie Accept-Encoding]]`; got != want {
		t.Errorf("header %s, want %s", got, want)
	}
	for _, vary := range []string{"*", "accept-encoding, cookie"} {
		h := http.Header{"Vary": {vary}, "Etag": {`W/"x"`}}
		varyByEncoding(h)
		setCoding(h, "gzip")
		if len(h["Vary"]) != 1 || h.Get("Etag") != `W/"x"` {
			t.Errorf("header %v", h)
		}
	}
}

// TestCompressorsFlush: what was written before a flush can be read after it,
// whatever the sizes of the pieces are.
func TestCompressorsFlush(t *testing.T) {
	page, err := os.ReadFile("../demoapp/page.html")
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, coding := range codings {
		for round := range 30 { // compressors are used again
			var out bytes.Buffer
			c := newCompressor(coding, &out)
			var in []byte
			for range 1 + rnd.IntN(20) {
				size := rnd.IntN(1 << rnd.IntN(18))
				piece := make([]byte, 0, size)
				for len(piece) < size {
					at := rnd.IntN(len(page))
					piece = append(piece, page[at:min(len(page), at+1+rnd.IntN(300), at+size-len(piece))]...)
					piece = append(piece, byte(rnd.Uint32())) // not all of it is text
				}
				in = append(in, piece...)
				if _, err := c.Write(piece); err != nil {
					t.Fatal(err)
				}
				if rnd.IntN(3) == 0 {
					continue
				}
				if err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(in))
				if n, err := io.ReadFull(decoder(t, coding, bytes.NewReader(out.Bytes())), got); err != nil && len(in) > 0 {
					t.Fatalf("%s, round %d: %d of %d bytes after a flush: %v", coding, round, n, len(in), err)
				}
				if !bytes.Equal(got, in) {
					t.Fatalf("%s, round %d: flushed something else", coding, round)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if decode(t, coding, out.Bytes()) != string(in) {
				t.Fatalf("%s, round %d: %d bytes are something else after decoding", coding, round, len(in))
			}
			freeCompressor(coding, c)
		}
	}
}

// TestBrotliFlushAtEveryBit has the end of a block at each of a byte's bits.
func TestBrotliFlushAtEveryBit(t *testing.T) {
	seen := make(map[int]bool)
	for size := range 400 {
		var out bytes.Buffer
		w := newBrotliWriter()
		w.Reset(&out)
		text := strings.Repeat("abcdefghij", 50)[:size+1]
		_, _ = io.WriteString(w, text)
		before := bytes.Clone(w.encode(true))
		seen[highest(before[len(before)-1])] = true
		out.Write(continued(before))
		_, _ = io.WriteString(w, "tail")
		_ = w.Close()
		if got := decode(t, "br", out.Bytes()); got != text+"tail" {
			t.Errorf("%d bytes became %d", len(text)+4, len(got))
		}
	}
	if len(seen) != 8 {
		t.Errorf("only the ends %v were seen", seen)
	}
}

func highest(b byte) (at int) {
	for i := range 8 {
		if b&(1<<i) != 0 {
			at = i
		}
	}
	return at
}

func TestBrotliWriterFails(t *testing.T) {
	w := newBrotliWriter()
	w.Reset(brokenWriter{})
	_, _ = io.WriteString(w, "x")
	if err := w.Flush(); !errors.Is(err, errBroken) {
		t.Errorf("flush: %v", err)
	}
	if _, err := io.WriteString(w, "x"); !errors.Is(err, errBroken) {
		t.Errorf("write: %v", err)
	}
	if err := w.Close(); !errors.Is(err, errBroken) {
		t.Errorf("close: %v", err)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
