package tests

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// headOf returns fields of a total size in bytes, as HTTP/2 counts them.
func headOf(size int) (fields []string) {
	const most = 8000
	for i := 0; size > 0; i++ {
		name := fmt.Sprintf("X-%05d", i)
		if n := min(size, most) - len(name) - 32; n > 0 {
			fields = append(fields, name+": "+strings.Repeat("v", n))
		}
		size -= most
	}
	return fields
}

// Heads of up to 1 MB pass, and larger ones are refused with a status that says
// whose they are and a reason in the access log. Whatever else is on the tunnel
// does not notice.
func (f *fidelity) largeHeads(t *testing.T) {
	refused := 0
	for _, tc := range []struct {
		route, protocol string
		size            int
		accepted        bool
	}{
		{"lean", "h1", 1000 << 10, true}, {"lean", "h2", 1000 << 10, true}, {"lean", "h3", 1000 << 10, true},
		{"full", "h1", 1000 << 10, true}, {"lean-plain", "h1", 1000 << 10, true},
		{"lean", "h1", 1100 << 10, false}, {"lean", "h2", 1100 << 10, false}, {"lean", "h3", 1100 << 10, false},
		{"full", "h1", 1100 << 10, false}, {"lean-plain", "h1", 1100 << 10, false},
		{"lean", "h1", 10 << 20, false}, {"lean", "h2", 10 << 20, false}, {"full", "h1", 10 << 20, false},
	} {
		t.Run(fmt.Sprintf("%s/%s/%d KB", tc.route, tc.protocol, tc.size>>10), func(t *testing.T) {
			if testing.Short() && tc.size > 4<<20 {
				t.Skip("takes long")
			}
			if !tc.accepted {
				refused++
			}
			head := headOf(tc.size)
			neighbour := f.openNeighbour(t, tc.route, t.Name())
			defer neighbour(t)

			id := fmt.Sprintf("request %s", t.Name())
			f.app.on(id, reply(strings.ReplaceAll(ok, "\n", "\r\n")))
			x := f.send(t, tc.protocol, tc.route, id, call{target: "/request", fields: head})
			want := map[bool]string{true: "200", false: "431"}[tc.accepted]
			if x.err != nil || x.reply.Start != want || (x.request != nil) != tc.accepted {
				t.Errorf("large request: %v %s, want %s; seen by the app: %v", x.err, x.reply.Start, want, x.request != nil)
			}
			if x.request != nil && missing(head, x.request.Fields) != "" {
				t.Errorf("the app did not get %s", missing(head, x.request.Fields))
			}

			id = fmt.Sprintf("response %s", t.Name())
			f.app.on(id, reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"+strings.Join(head, "\r\n")+"\r\n\r\nok"))
			x = f.send(t, tc.protocol, tc.route, id, call{method: "POST", target: "/response"})
			want = map[bool]string{true: "200", false: "502"}[tc.accepted]
			if x.err != nil || x.reply.Start != want || x.reply.Cut {
				t.Errorf("large response: %v %s %q, want %s", x.err, x.reply.Start, x.reply.Body, want)
			}
			if tc.accepted && missing(head, x.reply.Fields) != "" {
				t.Errorf("the client did not get %s", missing(head, x.reply.Fields))
			}
		})
	}
	// Caddy's own limit, unless its max_header_size says otherwise.
	if x := f.send(t, "h1", "lean", "Caddy's limit", call{server: f.small, fields: headOf(100 << 10)}); x.reply.Start != "431" {
		t.Errorf("100 KB with Caddy's limit: %v, status %s, want 431", x.err, x.reply.Start)
	}
	reasons := make(map[string]int)
	for _, entry := range f.logs.lines("handled request") {
		request, _ := entry["request"].(map[string]any)
		ours, _ := entry["lambda_dispatch"].(map[string]any)
		if reason, _ := ours["error"].(string); reason != "" {
			reasons[fmt.Sprintf("%v %v %s", request["uri"], entry["status"], reason)]++
		}
	}
	for _, reason := range []string{
		"/request 431 sending request through tunnel: request: header section too large",
		"/response 502 sending request through tunnel: adapter: app_failed: the app's answer is not HTTP: the app's answer has a head of more than 1 MB",
	} {
		if reasons[reason] != refused {
			t.Errorf("in the access log: %v; want %d times %q", reasons, refused, reason)
		}
	}
}

// missing returns the name of a field that is not in got.
func missing(want, got []string) string {
	have := make(map[string]bool, len(got))
	for _, line := range got {
		k, v, _ := strings.Cut(line, ": ")
		have[strings.ToLower(k)+": "+v] = true
	}
	for _, line := range want {
		k, v, _ := strings.Cut(line, ": ")
		if !have[strings.ToLower(k)+": "+v] {
			return k
		}
	}
	return ""
}

// openNeighbour begins a request that stays open, and returns what ends and
// checks it.
func (f *fidelity) openNeighbour(t *testing.T, route, name string) func(*testing.T) {
	t.Helper()
	id := "neighbour " + name
	begun, end := make(chan struct{}), make(chan struct{})
	f.app.on(id, func(x *appExchange) {
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
		close(begun)
		<-end
		x.write("3\r\nend\r\n0\r\n\r\n")
	})
	var x exchanged
	var wg sync.WaitGroup
	wg.Go(func() { x = f.send(t, "h1", route, id, call{}) })
	<-begun
	return func(t *testing.T) {
		t.Helper()
		close(end)
		wg.Wait()
		if x.err != nil || x.reply.Cut || x.reply.Body != "beginend" {
			t.Errorf("the neighbour's response: %v %+v", x.err, x.reply)
		}
	}
}
