package adapter

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDirectCompression: what the client of a REST API gets.
func TestDirectCompression(t *testing.T) {
	text := strings.Repeat("a text ", 100)
	for name, tt := range map[string]struct {
		method, accept string
		off            bool
		status         int
		header         string // Name: value|Name: value
		body           string
		length         bool // the app says how long the body is
		coding         string
		vary           bool
		etag           string
	}{
		"gzip":             {accept: "gzip", body: text, coding: "gzip", vary: true},
		"br, length":       {accept: "gzip, br", body: text, length: true, coding: "br", vary: true},
		"zstd, post":       {method: "POST", accept: "zstd", body: text, coding: "zstd", vary: true},
		"not found":        {accept: "gzip", status: 404, body: text, coding: "gzip", vary: true},
		"tag":              {accept: "gzip", header: `Etag: "x"`, body: text, coding: "gzip", vary: true, etag: `W/"x"`},
		"not asked for":    {body: text, header: `Etag: "x"`, vary: true, etag: `"x"`},
		"identity":         {accept: "identity, gzip;q=0.5", body: text, vary: true},
		"tiny":             {accept: "gzip", body: strings.Repeat("x", 31), length: true, vary: true},
		"tiny, unknown":    {accept: "gzip", body: strings.Repeat("x", 31), vary: true},
		"just not tiny":    {accept: "gzip", body: strings.Repeat("x", 32), coding: "gzip", vary: true},
		"tiny but must be": {accept: "gzip, identity;q=0", body: "x", coding: "gzip", vary: true},
		"empty":            {accept: "gzip", vary: true},
		"image":            {accept: "gzip", header: "Content-Type: image/png", body: text},
		"events":           {accept: "gzip", header: "Content-Type: text/event-stream", body: text},
		"encoded":          {accept: "br", header: "Content-Encoding: gzip", body: text, coding: "gzip"},
		"no transform":     {accept: "gzip", header: "Cache-Control: no-transform", body: text},
		"range":            {accept: "gzip", status: 206, header: "Content-Range: bytes 0-699/900", body: text},
		"no content":       {accept: "gzip", status: 204},
		"head":             {method: "HEAD", accept: "gzip", header: "Content-Length: 700"},
		"off":              {off: true, accept: "gzip", body: text},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", streamed"}[stream], func(t *testing.T) {
				w := newDirectWorld(t, func(rw http.ResponseWriter, r *http.Request) {
					rw.Header().Set("Content-Type", "text/plain")
					for field := range strings.SplitSeq(tt.header, "|") {
						if name, value, ok := strings.Cut(field, ": "); ok {
							rw.Header().Set(name, value)
						}
					}
					if tt.length {
						rw.Header().Set("Content-Length", strconv.Itoa(len(tt.body)))
					}
					if tt.status != 0 {
						rw.WriteHeader(tt.status)
					}
					rest := tt.body
					if !tt.length { // and the body comes bit by bit
						_ = http.NewResponseController(rw).Flush()
						for len(rest) > 20 {
							_, _ = io.WriteString(rw, rest[:20])
							_ = http.NewResponseController(rw).Flush()
							rest = rest[20:]
						}
					}
					_, _ = io.WriteString(rw, rest)
				})
				w.d.cfg.Compress, w.d.cfg.Stream = !tt.off, stream
				method := tt.method
				if method == "" {
					method = "GET"
				}
				event := restEvent(method, "/", "", "Accept-Encoding", tt.accept)
				var r apiResult
				if stream {
					var rest string
					r, rest = splitPrelude(t, w.wantEnd(event, time.Minute).body)
					r.Body = rest
				} else {
					r = w.wantResult(event, time.Minute)
				}
				coding := tt.coding
				if stream && (name == "tiny, unknown" || name == "empty") {
					coding = "gzip" // the head goes first
				}
				if got := r.header("content-encoding"); got != coding {
					t.Fatalf("coding %q, want %q", got, coding)
				}
				if got := r.header("vary") == "Accept-Encoding"; got != tt.vary {
					t.Errorf("vary %q", r.header("vary"))
				}
				if got := r.header("etag"); got != tt.etag {
					t.Errorf("etag %s", got)
				}
				body := r.Body
				if name != "encoded" {
					body = decode(t, coding, []byte(body))
				}
				if body != tt.body {
					t.Errorf("body of %d bytes, want %d", len(body), len(tt.body))
				}
				if length := r.header("content-length"); length != "" && method != "HEAD" && length != strconv.Itoa(len(r.Body)) {
					t.Errorf("length %s of %d bytes", length, len(r.Body))
				}
			})
		}
	}
}
