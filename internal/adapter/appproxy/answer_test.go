package appproxy

import (
	"bufio"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestAnswerBodies(t *testing.T) {
	big := make([]byte, 3*copyBuffer+17)
	_, _ = rand.Read(big)
	url, client, p := app(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		if r.FormValue("length") != "" {
			w.Header().Set("Content-Length", strconv.Itoa(n))
		}
		_, _ = w.Write(big[:n])
	})
	for _, n := range []int{0, 1, connBuffer, smallBuffer, smallBuffer + 1, copyBuffer, 168161, len(big)} {
		for _, length := range []string{"", "1"} {
			resp, body := get(t, client, url+"/?n="+strconv.Itoa(n)+"&length="+length)
			if body != string(big[:n]) {
				t.Errorf("n=%d length=%q: %d bytes differ", n, length, len(body))
			}
			if length != "" && resp.ContentLength != int64(n) {
				t.Errorf("n=%d: client saw length %d", n, resp.ContentLength)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) != 1 {
		t.Errorf("%d idle connections, want the one that served all", len(p.idle))
	}
}

func TestNothingIsAddedToTheAnswer(t *testing.T) {
	a := rawApp(t, answers(lines("HTTP/1.1 200 OK", "Content-Length: 6", "", "<html>")))
	url, client := front(t, newProxy(t, a.addr))
	resp, _ := get(t, client, url)
	resp.Header.Del("Date") // which HTTP wants to be there
	if want := (http.Header{"Content-Length": {"6"}}); !equalHeaders(resp.Header, want) {
		t.Errorf("client got %v, want %v", resp.Header, want)
	}
}

func TestBodilessAnswers(t *testing.T) {
	tests := []struct{ name, method, answer, length string }{
		{"head", "HEAD", lines("HTTP/1.1 200 OK", "Content-Length: 123", "", ""), "123"},
		{"head chunked", "HEAD", lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", ""), ""},
		{"204", "GET", lines("HTTP/1.1 204 No Content", "", ""), ""},
		{"304", "GET", lines("HTTP/1.1 304 Not Modified", "Etag: \"x\"", "", ""), ""},
		{"204", "GET", lines("HTTP/1.1 204 No Content", "Content-Length: 123", "", ""), ""},
		{"empty", "GET", lines("HTTP/1.1 200 OK", "Content-Length: 0", "", ""), "0"},
		{"odd status", "GET", lines("HTTP/1.1 519 Odd", "Content-Length: 0", "", ""), "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := rawApp(t, answers(tt.answer))
			url, client := front(t, newProxy(t, a.addr))
			for range 3 {
				resp, body := do(t, client, newRequest(t, tt.method, url, nil))
				if want := strings.Fields(tt.answer)[1]; strconv.Itoa(resp.StatusCode) != want || body != "" {
					t.Errorf("client got %d %q, want %s", resp.StatusCode, body, want)
				}
				if got := resp.Header.Get("Content-Length"); got != tt.length {
					t.Errorf("client saw Content-Length %q, want %q", got, tt.length)
				}
			}
			if n := a.accepted(); n != 1 {
				t.Errorf("%d connections for three requests, want 1", n)
			}
		})
	}
}

func TestAnswerTrailers(t *testing.T) {
	url, client, _ := app(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "42")
		if r.URL.Path == "/more" {
			w.Header().Set(http.TrailerPrefix+"X-More", "1")
		}
	})
	for path, want := range map[string]http.Header{
		"/":     {"X-Sum": {"42"}},
		"/more": {"X-Sum": {"42"}, "X-More": {"1"}},
	} {
		resp, body := get(t, client, url+path)
		if body != "body" || !equalHeaders(resp.Trailer, want) {
			t.Errorf("%s: client got %q with trailers %v, want %v", path, body, resp.Trailer, want)
		}
		if resp.Header.Get("X-Sum") != "" {
			t.Errorf("%s: trailer in the header", path)
		}
	}
}

func TestInformationalAnswers(t *testing.T) {
	a := rawApp(t, answers(lines(
		"HTTP/1.1 100 Continue", "",
		"HTTP/1.1 102 Processing", "",
		"HTTP/1.1 103 Early Hints", "Link: </style.css>; rel=preload", "",
		"HTTP/1.1 200 OK", "Content-Length: 2", "", "ok")))
	url, client := front(t, newProxy(t, a.addr))
	var got []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got = append(got, strconv.Itoa(code)+h.Get("Link"))
			return nil
		},
	})
	resp, body := do(t, client, newRequest(t, "GET", url, nil).WithContext(ctx))
	if want := []string{"102", "103</style.css>; rel=preload"}; !slices.Equal(got, want) {
		t.Errorf("client got informational answers %q, want %q", got, want)
	}
	if body != "ok" || resp.Header.Get("Link") != "" {
		t.Errorf("final answer %q %v", body, resp.Header)
	}
}

func TestMalformedAnswers(t *testing.T) {
	tests := map[string]string{
		"not HTTP":            "hello\r\n\r\n",
		"HTTP/2 preface":      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"status 0":            lines("HTTP/1.1 000 Zero", "", ""),
		"status text":         lines("HTTP/1.1 two OK", "", ""),
		"no colon":            lines("HTTP/1.1 200 OK", "Content-Length", "", "x"),
		"length twice":        lines("HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 2", "", "xx"),
		"length negative":     lines("HTTP/1.1 200 OK", "Content-Length: -1", "", ""),
		"unknown encoding":    lines("HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked", "", ""),
		"two lengths":         lines("HTTP/1.1 200 OK", "Content-Length: 1", "Transfer-Encoding: chunked", "", "1", "x", "0", "", ""),
		"bare LF":             "HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 1\r\n\r\nx",
		"NUL":                 lines("HTTP/1.1 200 OK", "X: a\x00b", "Content-Length: 1", "", "x"),
		"bare CR":             lines("HTTP/1.1 200 OK", "X: a\rb", "Content-Length: 1", "", "x"),
		"status of 4 digits":  lines("HTTP/1.1 2000 OK", "Content-Length: 1", "", "x"),
		"coding in HTTP/1.0":  lines("HTTP/1.0 200 OK", "Transfer-Encoding: chunked", "", "1", "x", "0", "", ""),
		"folded":              lines("HTTP/1.1 200 OK", " X: 1", "", ""),
		"cut in the head":     "HTTP/1.1 200 OK\r\nContent-",
		"unwanted upgrade":    lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: x", "", ""),
		"endless head":        "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxAnswerHead),
		"endless information": strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 1000)+"\r\n\r\n", 1100),
		"nothing":             "",
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, answer)
				_ = c.CloseWrite()
				_, _ = io.Copy(io.Discard, r)
			})
			url, client := front(t, newProxy(t, a.addr))
			resp, body := get(t, client, url)
			if resp.StatusCode != http.StatusBadGateway || resp.Header.Get(failHeader) != CodeFailed {
				t.Errorf("client got %d %v, want 502 %s", resp.StatusCode, resp.Header, CodeFailed)
			}
			if strings.HasPrefix(name, "endless") && !strings.Contains(body, "1 MB") {
				t.Errorf("message %q does not name the limit", body)
			}
			if strings.Count(body, "\n") != 1 || len(body) > 200 {
				t.Errorf("message is not one short line: %q", body)
			}
		})
	}
}

func TestCutAnswerIsNeverComplete(t *testing.T) {
	tests := map[string]string{
		"length":         lines("HTTP/1.1 200 OK", "Content-Length: 100", "", "part"),
		"chunked":        lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", ""),
		"within a chunk": lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "40", "part"),
		"no last chunk":  lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "0"),
		"huge chunk":     lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "fffffffffffffffff", "x"),
		"negative chunk": lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "-1", "x"),
		"bad trailer":    lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "0", "X", "", ""),
		"bad chunk":      lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "zz", ""),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, answer)
			})
			url, client := front(t, newProxy(t, a.addr))
			resp, err := client.Get(url)
			if err != nil {
				return // the head was still unsent: just as well
			}
			defer resp.Body.Close() //nolint:errcheck // broken anyway
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("client got a complete body: %q", body)
			}
		})
	}
}

// TestOptionsOfTheAppsConnection: fields that Connection names are about the
// connection with the app (RFC 9110, section 7.6.1), also beside "close".
func TestOptionsOfTheAppsConnection(t *testing.T) {
	for _, connection := range []string{"X-Foo", "close, X-Foo", "keep-alive, x-foo"} {
		a := rawApp(t, answers(lines("HTTP/1.1 200 OK", "Connection: "+connection, "X-Foo: 1", "X-Bar: 2", "Content-Length: 2", "", "ok")))
		url, client := front(t, newProxy(t, a.addr))
		resp, body := get(t, client, url)
		if body != "ok" || resp.Header.Get("X-Foo") != "" || resp.Header.Get("X-Bar") != "2" || resp.Header.Get("Connection") != "" {
			t.Errorf("Connection %q: client got %q with %v", connection, body, resp.Header)
		}
	}
}

func TestBodyUntilCloseAndCloseAfterAnswer(t *testing.T) {
	tests := map[string]string{
		"until close": lines("HTTP/1.1 200 OK", "", "body"),
		"HTTP/1.0":    lines("HTTP/1.0 200 OK", "Content-Length: 4", "", "body"),
		"close":       lines("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 4", "", "body"),
		"trailing junk": lines("HTTP/1.1 200 OK", "Content-Length: 4", "", "bodyHTTP/1.1 200 OK",
			"Content-Length: 4", "", "evil"),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, answer)
				if name != "until close" {
					_, _ = io.Copy(io.Discard, r) // until the proxy closes
				}
			})
			url, client := front(t, newProxy(t, a.addr))
			for i := range 3 {
				if _, body := get(t, client, url); body != "body" {
					t.Errorf("client got %q", body)
				}
				if n := a.accepted(); n != i+1 {
					t.Errorf("%d connections after %d requests", n, i+1)
				}
			}
		})
	}
}

// TestStreams checks that each piece reaches the client before the app sends
// the next, whatever the framing.
func TestStreams(t *testing.T) {
	tests := map[string]string{
		"length":      lines("HTTP/1.1 200 OK", "Content-Length: 9", "", ""),
		"until close": lines("HTTP/1.1 200 OK", "", ""),
		"chunked":     lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", ""),
		"events":      lines("HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked", "", ""),
	}
	for name, head := range tests {
		t.Run(name, func(t *testing.T) {
			next := make(chan struct{})
			chunked := strings.Contains(head, "chunked")
			a := rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, head)
				for range 3 {
					<-next
					piece := "abc"
					if chunked {
						piece = "3\r\nabc\r\n"
					}
					_, _ = io.WriteString(c, piece)
				}
				if chunked {
					<-next
					_, _ = io.WriteString(c, "0\r\n\r\n")
				}
			})
			url, client := front(t, newProxy(t, a.addr))
			resp, err := client.Get(url) // the head comes before any of the body
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close() //nolint:errcheck // read to the end
			for range 3 {
				next <- struct{}{}
				piece := make([]byte, 3)
				if _, err := io.ReadFull(resp.Body, piece); err != nil || string(piece) != "abc" {
					t.Fatalf("piece %q, %v", piece, err)
				}
			}
			if chunked {
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
				t.Errorf("rest %q, %v", rest, err)
			}
		})
	}
}
