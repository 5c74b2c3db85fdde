package tests

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// allowance is a difference that is meant to be: lines that are left out of the
// comparison on both sides.
type allowance struct {
	cases, lines *regexp.Regexp
	reason       string
	sometimes    bool // it depends on timing
}

func allow(cases, lines, reason string) allowance {
	return allowance{
		cases: regexp.MustCompile("^(" + cases + ")$"), lines: regexp.MustCompile("^(" + lines + ")$"),
		reason: reason, sometimes: strings.Contains(reason, "timing"),
	}
}

// permits reports whether the line may differ in the case.
func (a allowance) permits(name, line string) bool {
	return a.cases.MatchString(name) && a.lines.MatchString(line)
}

var allowed = []allowance{
	allow(`.*`, `client: informational 100.*`,
		"reverse_proxy sends 100 before the app was asked, and the app's own as well; we send the app's, once"),
	allow(`.*(chunk|of HTTP/1.0|until the end|unknown length|trailers|flush_interval).*`, `client: (?i)content-type: text/plain; charset=utf-8`,
		"a guess of net/http's; for a body that is flushed at once it depends on timing in both"),
	allow(`cookies in several fields`, `app:    Cookie: .*`,
		"we join the fields, as apps expect (RFC 6265, section 5.4)"),
	allow(`nominated fields that matter`, `app:    User-Agent: Go-http-client/1.1`,
		"reverse_proxy takes the field out and so lets net/http add its own"),
	allow(`HTTP/1.0 without a host|empty host`, `app:    Host: .*`, "the name of the upstream"),
	allow(`Upgrade that nobody takes`, `app:    Http2-Settings: .*`,
		"belongs to the connection (RFC 7540, section 3.2.1), and HTTP/2 cannot follow"),
	allow(`Upgrade with a body`, `app:    (Connection|Upgrade): .*`,
		"the body would come first (RFC 9110, section 7.8), so it cannot be an upgrade"),
	allow(`target /a\?ä`, `app:    GET .*`, "we escape it (RFC 3986, section 2.1): there are servers that refuse the request otherwise"),
	allow(`HEAD without a length`, `client: (?i)content-length: 0`, "a guess of quic-go's, which depends on timing in both"),
	allow(`request_buffers`, `app:    (Content-Length: 5|Transfer-Encoding: chunked)`,
		"what has been buffered has a length, but reverse_proxy sends chunks if the client did"),
	allow(`method_rewrite`, `client: Connection: close`, "nobody reads the client's body, so it cannot send another request behind it"),
	allow(`204 with a length`, `client: content-length: 0`, "must not be there (RFC 9110, section 8.6); net/http's HTTP/2 server sends it"),
	allow(`field with an odd name`, `client: .*`, "we leave out what has no valid name; over HTTP/3 reverse_proxy breaks the response"),
	allow(`large body`, `client: Content-Type: text/plain; charset=utf-8`, "a guess of net/http's; that of quic-go depends on the size of the pieces"),
	allow(`target .*[\\"\\\\].*`, `app:    GET .*`,
		"reverse_proxy escapes what should have been; we pass it on as it came, see fidelity.targets"),
	allow(`CONNECT`, `.*`, "reverse_proxy hands it to the app; we answer 400, because it is for forward proxies"),
	allow(`hop-by-hop fields of a response`, `client: (?i)x-foo: 1`,
		"net/http's client takes Connection out when it says close, and so reverse_proxy does not see what it names"),
	allow(`chunked and nothing in it|trailers after nothing`, `client: (Transfer-Encoding: chunked|(?i:content-length): 0)`, "two ways to say: no body"),
	allow(`of HTTP/1.0.*|HTTP/2.0 in a status line`, `client: (?i)via: .*`, "the adapter says 1.1 for what it received from the app"),
	allow(`status 99`, `client: .*`, "reverse_proxy panics; we answer 502"),
	allow(`length and chunks`, `client: .*`, "an attempt at response splitting, or a mistake (RFC 9112, section 6.3): 502"),
	allow(`101 that nobody asked for`, `client: .*`, "reverse_proxy makes it 200; we answer 502"),
}

// The app and the client must not be able to tell lambda_dispatch from
// reverse_proxy.
func TestFidelity(t *testing.T) {
	f := startFidelity(t)      // for all of it, because starting takes longer than most
	used := make(map[int]bool) // which allowances
	t.Run("like reverse_proxy", func(t *testing.T) { f.likeReverseProxy(t, used) })
	t.Run("targets", f.targets)
	t.Run("expect", f.expect)
	t.Run("internal fields", f.internalFields)
	t.Run("cut answers", f.cutAnswers)
	t.Run("large heads", f.largeHeads)
	t.Run("subdirectives", func(t *testing.T) { f.subdirectives(t, used) })
	t.Run("placeholders", f.placeholders)
	if n := len(f.logs.lines("instance closed")); n > 0 {
		t.Errorf("%d instances were lost", n)
	}
	all := !testing.Short() && !strings.Contains(flag.Lookup("test.run").Value.String(), "/")
	for i, a := range allowed {
		if all && !used[i] && !a.sometimes {
			t.Errorf("no request differs in this any more: %v: %v (%s)", a.cases, a.lines, a.reason)
		}
	}
	if log := f.logs.String(); strings.Contains(log, "panic") && !strings.Contains(log, "invalid WriteHeader code") {
		t.Error("something panicked")
	}
}

func (f *fidelity) likeReverseProxy(t *testing.T, used map[int]bool) {
	protocols, routes := protocols, routes
	if testing.Short() { // the rest is the same code with other wires
		protocols, routes = []string{"h1", "h2", "h3"}, []string{"reference", "lean", "full"}
	}
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			for i, tc := range casesOf(protocol) {
				if tc.only != nil && !slices.Contains(tc.only, protocol) {
					continue
				}
				t.Run(tc.name, func(t *testing.T) {
					got := make(map[string]string)
					for _, route := range routes {
						id := fmt.Sprintf("%s-%d-%s", protocol, i, route)
						f.app.on(id, tc.script())
						got[route] = f.send(t, protocol, route, id, tc.call).String()
					}
					diffs := make(map[string][]string) // routes by what is different
					for _, route := range routes[1:] {
						if diff := tc.compare(got[routes[0]], got[route], used); diff != "" {
							diffs[diff] = append(diffs[diff], route)
						}
					}
					for diff, routes := range diffs {
						t.Errorf("%s:\n%s", strings.Join(routes, ", "), diff)
					}
				})
			}
		})
	}
}

// continues is an app that asks for the body before it answers.
func continues(x *appExchange) {
	x.write("HTTP/1.1 100 Continue\r\n\r\n")
	x.readBody()
	x.write(strings.ReplaceAll(ok, "\n", "\r\n"))
}

func (tc fidelityCase) script() func(*appExchange) {
	if tc.app != nil {
		return tc.app
	}
	raw := tc.reply
	if raw == "" {
		raw = ok
	}
	head, body, _ := strings.Cut(raw, "\n\n")
	if strings.Contains(head, "chunked") || strings.HasPrefix(head, "HTTP/1.1 1") {
		return reply(strings.ReplaceAll(raw, "\n", "\r\n"))
	}
	return reply(strings.ReplaceAll(head+"\n\n", "\n", "\r\n") + body)
}

// compare returns how what was seen by our route differs from what it should be,
// without the differences that are allowed, whose numbers it notes.
func (tc fidelityCase) compare(want, got string, used map[int]bool) string {
	for i, a := range allowed {
		for line := range strings.SplitSeq(want+got, "\n") {
			if strings.Count(want, line) != strings.Count(got, line) && a.permits(tc.name, line) {
				used[i] = true
			}
		}
	}
	return difference(tc.allow(want), tc.allow(got))
}

// allow leaves out the lines that may differ.
func (tc fidelityCase) allow(seen string) string {
	var b strings.Builder
	for line := range strings.Lines(seen) {
		if !slices.ContainsFunc(allowed, func(a allowance) bool { return a.permits(tc.name, strings.TrimSuffix(line, "\n")) }) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// String shows what both ends saw, one thing to a line.
func (x exchanged) String() string {
	var b strings.Builder
	if x.request == nil {
		b.WriteString("app saw nothing\n")
	} else {
		b.WriteString("app:    " + x.request.Start + "\n")
		for _, line := range group(x.request.Fields) {
			if name := fieldName(line); name != routeHeader && name != caseHeader {
				b.WriteString("app:    " + sortTrailer(line) + "\n")
			}
		}
		x.request.writeBody(&b, "app:    ")
	}
	for _, line := range x.infos {
		b.WriteString("client: informational " + line + "\n")
	}
	if x.err != nil {
		b.WriteString("client: no reply\n")
		return b.String()
	}
	b.WriteString("client: status " + x.reply.Start + "\n")
	for _, line := range x.reply.Fields {
		b.WriteString("client: " + sortTrailer(volatile.ReplaceAllString(line, "$1 ...")) + "\n")
	}
	x.reply.writeBody(&b, "client: ")
	return b.String()
}

// volatile is what differs from one response to the next.
var volatile = regexp.MustCompile(`(?i)^(date:|alt-svc:).*`)

// sortTrailer brings the names in a Trailer field into one order and spelling:
// Go keeps them in a map.
func sortTrailer(line string) string {
	name, value, _ := strings.Cut(line, ":")
	if !strings.EqualFold(name, "Trailer") {
		return line
	}
	names := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
	slices.Sort(names)
	return name + ": " + strings.Join(names, ", ")
}

func (m *message) writeBody(b *strings.Builder, who string) {
	if len(m.Body) > 200 {
		fmt.Fprintf(b, "%sbody of %d bytes, %08x\n", who, len(m.Body), checksum(m.Body))
	} else {
		fmt.Fprintf(b, "%sbody %q\n", who, m.Body)
	}
	for _, line := range m.Trailer {
		b.WriteString(who + "trailer " + line + "\n")
	}
	if m.Cut {
		b.WriteString(who + "cut\n")
	}
}

// difference returns the lines that are in one of the two only.
func difference(want, got string) string {
	if want == got {
		return ""
	}
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range w {
		if !slices.Contains(g, line) {
			b.WriteString("reverse_proxy   " + line + "\n")
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			b.WriteString("lambda_dispatch " + line + "\n")
		}
	}
	if b.Len() == 0 {
		return "the same lines in another order:\n" + want + "\n" + got
	}
	return b.String()
}
