package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// subdirectives are reverse_proxy's that make sense here, by a name. The same
// lines are given to reverse_proxy and to lambda_dispatch.
var subdirectives = map[string]string{
	"header_up": `
		header_up X-Method {method}
		header_up X-Several one
		header_up +X-More two
		header_up -X-Gone*
		header_up X-Replaced ^a(.*)$ b$1
		header_up Host other.test
		header_up -X-Forwarded-For`,
	"header_down": `
		header_down X-Status {rp.status_code}
		header_down +X-Several two
		header_down -X-Gone*
		header_down Location ^http://app http://client
		header_down >X-Deferred late`,
	"flush_interval":    "\t\tflush_interval -1",
	"request_buffers":   "\t\trequest_buffers 64KiB",
	"response_buffers":  "\t\tresponse_buffers 64KiB",
	"trusted_proxies":   "\t\ttrusted_proxies 127.0.0.3 10.0.0.0/8",
	"private_ranges":    "\t\ttrusted_proxies private_ranges",
	"method_rewrite":    "\t\tmethod GET\n\t\trewrite /new{uri}&more",
	"replace_status":    "\t\t@gone status 404 410\n\t\treplace_status @gone 299",
	"stream_timeout":    "\t\tstream_timeout 300ms",
	"close_delay":       "\t\tstream_close_delay 300ms",
	"stream_buffers":    "\t\tstream_buffer_size 8KiB\n\t\tverbose_logs",
	"handle_response_1": "\t\t@error status 5xx\n\t\thandle_response @error {\n\t\t\trespond \"sorry: {rp.status_code} {rp.header.X-Why}\" 503\n\t\t}",
	"handle_response_2": "\t\t@accel header X-Accel-Redirect *\n\t\thandle_response @accel {\n\t\t\trespond \"file {rp.header.X-Accel-Redirect}\"\n\t\t}",
	"handle_response_3": "\t\t@partly status 203\n\t\thandle_response @partly {\n\t\t\tcopy_response_headers {\n\t\t\t\tinclude X-A\n\t\t\t}\n\t\t\theader X-Handled yes\n\t\t\tcopy_response 206\n\t\t}",
	"handle_response_4": "\t\thandle_response {\n\t\t\theader X-Handled yes\n\t\t\tcopy_response\n\t\t}",
}

// Each does what it does in reverse_proxy.
func (f *fidelity) subdirectives(t *testing.T, used map[int]bool) {
	const full = "Content-Length: 2\nX-A: 1\nX-Several: one\nX-Gone: x\nX-Gone-Too: x\nLocation: http://app/x\nX-Why: because\n\nok"
	trusted := call{source: "127.0.0.3", fields: []string{"X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: front.test"}}
	stranger := call{fields: trusted.fields}
	post := call{method: "POST", target: "/a?b", body: "hello", trailer: []string{"X-Sum: 1"}, announce: true}
	for i, tc := range []struct {
		name  string
		call  call
		reply string
		want  []string // lines that must be among what both ends saw
	}{
		{"header_up", call{fields: []string{"X-Gone: 1", "X-Gone-Too: 1", "X-Replaced: abc"}}, "", []string{
			"app:    X-Method: GET", "app:    X-Several: one", "app:    X-More: two", "app:    X-Replaced: bbc", "app:    Host: other.test", "app:    X-Forwarded-Host: example.test"}},
		{"header_up", call{method: "POST", body: "x"}, "HTTP/1.1 100 Continue\n\n" + ok, []string{"app:    X-Method: POST"}},
		{"header_down", call{}, "HTTP/1.1 201 Created\n" + full, []string{"client: X-Status: 201", "client: X-Several: two", "client: Location: http://client/x", "client: X-Deferred: late"}},
		{"header_down", call{method: "HEAD"}, "HTTP/1.1 404 Not Found\n" + full[:len(full)-2], []string{"client: X-Status: 404"}},
		{"request_buffers", call{method: "POST", body: "hello"}, "", []string{"app:    Content-Length: 5"}},
		{"request_buffers", call{method: "POST", body: strings.Repeat("x", 100<<10)}, "", []string{"app:    Transfer-Encoding: chunked"}},
		{"request_buffers", post, "", []string{"app:    trailer X-Sum: 1"}},
		{"response_buffers", call{}, "HTTP/1.1 200 OK\nContent-Type: a/b\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n", []string{`client: body "ok"`}},
		{"response_buffers", call{}, "HTTP/1.1 200 OK\nContent-Type: a/b\nContent-Length: 100000\n\n" + strings.Repeat("0123456789", 10000), nil},
		{"response_buffers", call{}, "HTTP/1.1 200 OK\nContent-Type: a/b\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n2\nok\n0\nX-Sum: 1\n\n", []string{"client: trailer X-Sum: 1"}},
		{"trusted_proxies", trusted, "", []string{"app:    X-Forwarded-For: 1.2.3.4, 127.0.0.3", "app:    X-Forwarded-Proto: https", "app:    X-Forwarded-Host: front.test"}},
		{"trusted_proxies", stranger, "", []string{"app:    X-Forwarded-For: 127.0.0.1", "app:    X-Forwarded-Proto: http", "app:    X-Forwarded-Host: example.test"}},
		{"private_ranges", stranger, "", []string{"app:    X-Forwarded-For: 1.2.3.4, 127.0.0.1"}},
		{"method_rewrite", post, "", []string{"app:    GET /new/a?b&more"}},
		{"replace_status", call{}, "HTTP/1.1 404 Not Found\n" + full, []string{"client: status 299"}},
		{"replace_status", call{}, "HTTP/1.1 403 Forbidden\n" + full, []string{"client: status 403"}},
		{"stream_buffers", post, "", []string{"app:    trailer X-Sum: 1"}},
		{"handle_response_1", call{}, "HTTP/1.1 500 Oops\n" + full, []string{"client: status 503", `client: body "sorry: 500 because"`}},
		{"handle_response_1", call{}, "HTTP/1.1 200 OK\n" + full, []string{"client: status 200"}},
		{"handle_response_2", call{}, "HTTP/1.1 200 OK\nX-Accel-Redirect: /secret\n" + full, []string{`client: body "file /secret"`}},
		{"handle_response_3", call{}, "HTTP/1.1 203 Partly\n" + full, []string{"client: status 206", "client: X-A: 1", "client: X-Handled: yes"}},
		{"handle_response_4", call{}, "HTTP/1.1 200 OK\nContent-Type: a/b\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n2\nok\n0\nX-Sum: 1\n\n", []string{"client: X-Handled: yes", `client: body "ok"`}},
		{"handle_response_4", call{}, "HTTP/1.1 304 Not Modified\nEtag: \"x\"\n\n", []string{"client: status 304"}},
		{"flush_interval", call{}, "HTTP/1.1 200 OK\n" + full, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fc := fidelityCase{name: tc.name, call: tc.call, reply: tc.reply}
			var got [2]string
			for side, route := range []string{"ref-" + tc.name, "own-" + tc.name} {
				id := fmt.Sprintf("subdirectives %d %s", i, route)
				f.app.on(id, fc.script())
				got[side] = f.send(t, "h1", route, id, tc.call).String()
			}
			if diff := fc.compare(got[0], got[1], used); diff != "" {
				t.Error(diff)
			}
			for _, line := range tc.want {
				if !strings.Contains("\n"+got[1], "\n"+line+"\n") {
					t.Errorf("no %q in\n%s", line, got[1])
				}
			}
		})
	}
	t.Run("flush_interval", f.flushInterval)
	t.Run("stream_timeout", f.streamTimeout)
	t.Run("stream_close_delay", f.streamCloseDelay)
}

// A body of known length waits in a buffer, but not with flush_interval -1.
func (f *fidelity) flushInterval(t *testing.T) {
	got := make(chan struct{})
	f.app.on("flush", func(x *appExchange) {
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
		<-got
		x.write("later")
	})
	c := f.dial(t, f.plain, "", "")
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n%s: own-flush_interval\r\n%s: flush\r\n\r\n", testHost, routeHeader, caseHeader)
	r := bufio.NewReader(c)
	if _, _, err := readHead(r); err != nil {
		close(got)
		t.Fatal(err)
	}
	body := make([]byte, 10)
	if _, err := io.ReadFull(r, body[:5]); err != nil {
		t.Error(err)
	}
	close(got)
	if _, err := io.ReadFull(r, body[5:]); err != nil || string(body) != "firstlater" {
		t.Errorf("%q, %v", body, err)
	}
}

// openUpgrade makes an upgraded connection to an app that sends back what it
// gets.
func (f *fidelity) openUpgrade(t *testing.T, route string) (net.Conn, *bufio.Reader) {
	t.Helper()
	id := "upgrade " + route
	f.app.on(id, func(x *appExchange) {
		x.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(x.conn, x.r)
		x.keep = false
	})
	c := f.dial(t, f.plain, "", "")
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n%s: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
		testHost, routeHeader, route, caseHeader, id)
	r := bufio.NewReader(c)
	start, _, err := readHead(r)
	if err != nil || !strings.HasPrefix(start, "HTTP/1.1 101") {
		t.Fatalf("%s: %q, %v", route, start, err)
	}
	checkEcho(t, route, c, r)
	return c, r
}

func checkEcho(t *testing.T, route string, c net.Conn, r io.Reader) {
	t.Helper()
	buf := make([]byte, 5)
	_, _ = io.WriteString(c, "hello")
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "hello" {
		t.Errorf("%s: %q, %v", route, buf, err)
	}
}

func (f *fidelity) streamTimeout(t *testing.T) {
	_, r := f.openUpgrade(t, "own-stream_timeout")
	if _, err := r.ReadByte(); isTimeout(err) || err == nil {
		t.Errorf("the connection is still open: %v", err)
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error) //nolint:errorlint // as it comes from the connection
	return ok && ne.Timeout()
}

// Upgraded connections survive a reload, here for as long as it says.
func (f *fidelity) streamCloseDelay(t *testing.T) {
	c, stays := f.openUpgrade(t, "full")
	_, ends := f.openUpgrade(t, "own-close_delay")
	changed := strings.Replace(f.caddyfile, "grace_period 20s", "grace_period 21s", 1)
	if status, body := f.load(changed); status != 200 {
		t.Fatalf("reload: %d %s", status, body)
	}
	if _, err := ends.ReadByte(); isTimeout(err) || err == nil {
		t.Errorf("the connection with stream_close_delay is still open: %v", err)
	}
	checkEcho(t, "without stream_close_delay", c, stays)
}

// What users log of a request is there whichever proxy it took.
func (f *fidelity) placeholders(t *testing.T) {
	for _, route := range []string{"reference", "lean", "full"} {
		f.app.on("placeholders "+route, reply("HTTP/1.1 203 Partly\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 2\r\n\r\nok"))
		f.send(t, "h1", route, "placeholders "+route, call{target: "/placeholders"})
	}
	var seen []string
	f.await("three lines in the access log", func() bool {
		seen = nil
		for _, entry := range f.logs.lines("handled request") {
			if request, _ := entry["request"].(map[string]any); request["uri"] == "/placeholders" {
				latency, _ := entry["latency"].(float64)
				took, _ := entry["took"].(float64)
				seen = append(seen, fmt.Sprintf("%v %v %v", entry["status_code"], entry["x_a"], latency > 0 && took >= latency))
			}
		}
		return len(seen) == 3
	})
	for _, got := range seen {
		if got != "203 1,2 true" {
			t.Errorf("placeholders: %q", got)
		}
	}
}
