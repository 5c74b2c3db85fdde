package tests

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
)

// own are the routes that are ours.
var own = []string{"lean", "lean-plain", "full", "full-plain"}

// Targets arrive byte for byte, also where reverse_proxy would spell them
// anew. Bytes above ASCII, which a target must not have, are escaped.
func (f *fidelity) targets(t *testing.T) {
	for _, protocol := range []string{"h1", "h2", "h3"} {
		for i, target := range []string{
			"/?", "/a??b", "//", "//a//", "///", "/./a/../b/.", "/..", "/%2e%2E/", "/%2f%2F%41", "/a%20b+c", "/a|b", `/"<>\^{}` + "`", "/[a]",
			"/a;b=c", "/*", "/a?%", "/a?%zz&&=&%41", "/a?\"<>\\^{}|`", "/http://a/b", "/a?/..//", "/%00?%00", "/%ff",
		} {
			if protocol == "h3" && target == "/a??b" {
				continue // quic-go's client is the one that loses it
			}
			id := fmt.Sprintf("targets %s %d", protocol, i)
			f.app.on(id, reply("HTTP/1.1 204 No Content\r\n\r\n"))
			x := f.send(t, protocol, own[i%len(own)], id, call{target: target})
			if x.request == nil || x.request.Start != "GET "+target {
				t.Errorf("%s %s: %v, status %s, the app saw %+v", protocol, target, x.err, x.reply.Start, x.request)
			}
		}
	}
}

// A client that waits for a 100 gets one when the app asks for the body, and
// no other, and none if the app does not want it.
func (f *fidelity) expect(t *testing.T) {
	for _, route := range own {
		id := "continues " + route
		f.app.on(id, continues)
		c := f.dial(t, f.plain, "", "")
		r := bufio.NewReader(c)
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n%s: %s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
			testHost, routeHeader, route, caseHeader, id)
		if start, _, err := readHead(r); !strings.HasPrefix(start, "HTTP/1.1 100") {
			t.Errorf("%s: got %q, %v, want 100", route, start, err)
		}
		_, _ = io.WriteString(c, "hello")
		x := readHTTP1(r, false)
		c.Close()
		if x.err != nil || x.reply.Start != "200" || len(x.infos) > 0 {
			t.Errorf("%s: %v %+v", route, x.err, x)
		}
		if seen := f.app.saw(id); len(seen) != 1 || seen[0].Body != "hello" {
			t.Errorf("%s: the app saw %+v", route, seen)
		}

		id = "refuses " + route
		f.app.on(id, func(x *appExchange) {
			x.write("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
			x.keep = false
		})
		x = f.send(t, "h1", route, id, call{method: "POST", fields: []string{"Expect: 100-continue", "Content-Length: 5"}})
		if x.err != nil || x.reply.Start != "417" || len(x.infos) > 0 || fieldValue(x.reply.Fields, "Connection") != "close" {
			t.Errorf("%s refused: %v %+v", route, x.err, x)
		}
	}
}

// The fields that router and adapter speak with each other come from nowhere
// else and go nowhere else.
func (f *fidelity) internalFields(t *testing.T) {
	fields := func() (lines []string) {
		for _, name := range []string{"Error", "Upgrade", "Status", "Cookie", "Expect", "Trailer", "Whatever"} {
			for _, prefix := range []string{"Lambda-Dispatch-", "lambda-dispatch-", "LAMBDA-DISPATCH-"} {
				lines = append(lines, prefix+name+": 503")
			}
		}
		return lines
	}
	block := strings.Join(fields(), "\r\n") + "\r\n"
	for _, protocol := range []string{"h1", "h2", "h3"} {
		for _, route := range own {
			id := "internal " + protocol + " " + route
			f.app.on(id, reply("HTTP/1.1 103 Early Hints\r\n"+block+"X-A: 1\r\n\r\n"+
				"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"+block+"Trailer: Lambda-Dispatch-Error, X-Sum\r\nX-A: 1\r\n\r\n"+
				"2\r\nok\r\n0\r\n"+block+"X-Sum: 1\r\n\r\n"))
			x := f.send(t, protocol, route, id, call{
				method: "POST", body: "x", announce: true,
				fields:  append(fields(), "X-A: 1"),
				trailer: append(fields(), "X-Sum: 1"),
			})
			if x.request == nil || x.err != nil {
				t.Errorf("%s %s: %v, request %v", protocol, route, x.err, x.request)
				continue
			}
			if x.reply.Start != "200" || x.reply.Body != "ok" || x.request.Body != "x" {
				t.Errorf("%s %s: they had an effect: %+v, request %+v", protocol, route, x.reply, x.request)
			}
			if protocol == "h3" { // quic-go shows a request's trailers to nobody
				x.request.Trailer = []string{"X-Sum: 1"}
			}
			for what, lines := range map[string][]string{
				"app": x.request.Fields, "app's trailers": x.request.Trailer, "client's 1xx": x.infos,
				"client": x.reply.Fields, "client's trailers": x.reply.Trailer,
			} {
				all := strings.ToLower(strings.Join(lines, "\n"))
				if strings.Contains(all, "lambda-dispatch-") {
					t.Errorf("%s %s: the %s: %s", protocol, route, what, all)
				}
				if !strings.Contains(all, "x-a: 1") && !strings.Contains(all, "x-sum: 1") {
					t.Errorf("%s %s: the %s lost the others: %s", protocol, route, what, all)
				}
			}
		}
	}
}

// An answer that the app does not complete never looks complete: not if its
// length was known, not if it was not, and not if it has not even begun for
// the client.
func (f *fidelity) cutAnswers(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 40<<10) // 640 KB
	const head = "HTTP/1.1 200 OK\r\n"
	for name, tc := range map[string]struct {
		raw   string
		reset bool
		begun bool // the client must have got its beginning
	}{
		"length":               {raw: head + "Content-Length: 10\r\n\r\nhalf"},
		"length and no body":   {raw: head + "Content-Length: 10\r\n\r\n"},
		"length, large":        {raw: head + "Content-Length: 1000000\r\n\r\n" + large, begun: true},
		"chunks":               {raw: head + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"},
		"within a chunk":       {raw: head + "Transfer-Encoding: chunked\r\n\r\n8\r\nhalf"},
		"chunks, large":        {raw: head + "Transfer-Encoding: chunked\r\n\r\na0000\r\n" + large + "\r\n", begun: true},
		"before the trailers":  {raw: head + "Transfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n4\r\nhalf\r\n0\r\n"},
		"end of connection":    {raw: head + "\r\nhalf", reset: true},
		"within the head":      {raw: head + "Content-Le"},
		"after an early hint":  {raw: "HTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n"},
		"nothing":              {},
		"gzip of known length": {raw: head + "Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n\x1f\x8b\x08"},
	} {
		for _, protocol := range []string{"h1", "h2", "h3"} {
			for _, route := range []string{"lean", "full"} {
				id := "cut " + name + protocol + route
				f.app.on(id, func(x *appExchange) {
					x.readBody()
					x.write(tc.raw)
					if tc.reset {
						x.reset()
					}
					x.keep = false
				})
				x := f.send(t, protocol, route, id, call{method: "POST"}) // which is not tried again
				if x.err == nil && !x.reply.Cut && x.reply.Start != "502" {
					t.Errorf("%s %s %s: it looks complete: %.200v", name, protocol, route, x.reply)
				}
				if tc.begun && (x.reply.Start != "200" || len(x.reply.Body) == 0) {
					t.Errorf("%s %s %s: %v, status %s, %d bytes, want the beginning", name, protocol, route, x.err, x.reply.Start, len(x.reply.Body))
				}
				if n := len(f.app.saw(id)); n != 1 {
					t.Errorf("%s %s %s: the app was asked %d times", name, protocol, route, n)
				}
			}
		}
	}
}
