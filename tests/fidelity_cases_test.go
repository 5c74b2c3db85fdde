package tests

import (
	"fmt"
	"slices"
	"strings"
)

// fidelityCase is a request with the app's answer to it.
type fidelityCase struct {
	name  string
	call  call
	reply string             // what the app writes, lines ending with \n
	app   func(*appExchange) // in place of reply
	only  []string           // protocols; default: all
}

// ok is an answer that says nothing.
const ok = "HTTP/1.1 200 OK\nContent-Length: 2\nDate: Mon, 23 Nov 2026 10:00:00 GMT\n\nok"

var (
	onlyHTTP1 = []string{"h1", "h1+tls"}
)

// casesOf returns the cases for a protocol. TLS below HTTP/1.1 and its absence
// below HTTP/2 can make a difference to what the app is told, and to no more.
func casesOf(protocol string) []fidelityCase {
	if protocol == "h1+tls" || protocol == "h2c" {
		return requestCases
	}
	return slices.Concat(requestCases, targetCases, responseCases)
}

var requestCases = []fidelityCase{
	{name: "GET", call: call{fields: []string{"User-Agent: test/1", "Accept: */*"}}},
	{name: "no User-Agent"},
	{name: "empty User-Agent", call: call{fields: []string{"User-Agent: "}}},
	{name: "OPTIONS", call: call{method: "OPTIONS"}},
	{name: "DELETE", call: call{method: "DELETE"}},
	{name: "DELETE with a body", call: call{method: "DELETE", body: "which"}},
	{name: "GET with a body", call: call{method: "GET", body: "what for"}},
	{name: "GET with a length", call: call{method: "GET", body: "what", fields: []string{"Content-Length: 4"}}},
	{name: "PATCH", call: call{method: "PATCH", body: "x", fields: []string{"Content-Length: 1"}}},
	{name: "unusual methods", call: call{method: "PROPFIND", fields: []string{"Depth: 1"}}},
	{name: "odd method", call: call{method: "M-SEARCH!x"}},
	{name: "lower-case method", call: call{method: "get"}},
	{name: "POST with a length", call: call{method: "POST", body: "hello", fields: []string{"Content-Length: 5", "Content-Type: text/plain"}}},
	{name: "POST with length 0", call: call{method: "POST", fields: []string{"Content-Length: 0"}}},
	{name: "POST without a length", call: call{method: "POST"}},
	{name: "PUT without a length", call: call{method: "PUT"}},
	{name: "POST of unknown length", call: call{method: "POST", body: "hello"}},
	{name: "POST with a large body", call: call{method: "POST", body: strings.Repeat("0123456789", 5000), fields: []string{"Content-Length: 50000"}}},
	{name: "announced trailers", call: call{method: "POST", body: "hello", trailer: []string{"X-Sum: 1", "X-Sum: 2", "X-Other: 3"}, announce: true}},
	{name: "trailers nobody announced", call: call{method: "POST", body: "hello", trailer: []string{"X-Sum: 1", "X-Sum: 2"}}},
	{name: "trailers, one of them announced", only: onlyHTTP1, call: call{
		raw: "POST / HTTP/1.1\nHost: example.test\nTrailer: X-A\nTransfer-Encoding: chunked\n\n2\nhi\n0\nX-A: 1\nX-B: 2\n\n"}},
	{name: "announced trailers that do not come", only: onlyHTTP1, call: call{
		raw: "POST / HTTP/1.1\nHost: example.test\nTrailer: X-A\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n"}},
	{name: "trailers after an empty body", call: call{method: "POST", trailer: []string{"X-Sum: 0"}, announce: true}},
	{name: "trailers after an empty body that nobody announced", only: onlyHTTP1, call: call{
		raw: "POST / HTTP/1.1\nHost: example.test\nTransfer-Encoding: chunked\n\n0\nX-Sum: 0\n\n"}},
	{name: "trailers of a GET", call: call{method: "GET", body: "x", trailer: []string{"X-Sum: 0"}, announce: true}},
	{name: "trailers that are not allowed", call: call{method: "POST", body: "hello", trailer: []string{"X-Ok: 1", "Content-Encoding: x"}}},
	{name: "TE: trailers", call: call{fields: []string{"TE: trailers"}}},
	{name: "TE with more", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nTE: gzip, trailers;q=0.5\n\n"}},
	{name: "TE trailers and nomination", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nTE: trailers\nConnection: TE\n\n"}},
	{name: "repeated fields keep their order", call: call{fields: []string{"X-A: 2", "X-B: x", "X-A: 1", "X-A: 3", "X-A: 1"}}},
	{name: "empty values", call: call{fields: []string{"X-Empty: ", "X-Two: ", "X-Two: "}}},
	{name: "odd values", call: call{fields: []string{`X-A: a, b;c="d, e"`, "X-Tab: a\tb", "X-Obs: caf\xe9", "X-Utf: caf\u00e9"}}},
	{name: "white space around values", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nX-A: \t  a  b \t \nX-B:b\n\n"}},
	{name: "names in odd case", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nx-lower: 1\nX-UPPER: 2\nx_under_score: 3\nX!#$%&'*+.^`|~: 4\nETag: 5\nWWW-Authenticate: 6\n\n"}},
	{name: "folded line", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nX-A: a\n b\n\n"}},
	{name: "one cookie", call: call{fields: []string{"Cookie: a=1; b=2"}}},
	{name: "cookies in several fields", call: call{fields: []string{"Cookie: a=1", "Cookie: b=2"}}},
	{name: "odd cookies", call: call{fields: []string{"Cookie: a=1;b=2;  c=3;; ;d"}}},
	{name: "hop-by-hop fields", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nConnection: keep-alive, X-Foo, , close\nX-Foo: 1\nX-Bar: 2\nKeep-Alive: timeout=5\nProxy-Connection: keep-alive\nProxy-Authorization: Basic x\nProxy-Authenticate: x\nTE: gzip\nAlt-Svc: x\nTrailers: x\n\n"}},
	{name: "nominated fields that matter", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nConnection: Host, Via, X-Forwarded-For, User-Agent, Cookie, Authorization\nUser-Agent: x\nCookie: a=1\nAuthorization: y\n\n"}},
	{name: "nominated framing", only: onlyHTTP1, call: call{raw: "POST / HTTP/1.1\nHost: example.test\nConnection: Content-Length, Content-Type\nContent-Type: x/y\nContent-Length: 2\n\nhi"}},
	{name: "two Connection fields", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nConnection: X-A\nConnection: X-B\nX-A: 1\nX-B: 2\nX-C: 3\n\n"}},
	{name: "HTTP/1.0", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.0\nHost: example.test\n\n"}},
	{name: "HTTP/1.0 without a host", only: []string{"h1"}, call: call{raw: "GET / HTTP/1.0\n\n"}},
	{name: "HTTP/1.0 keep-alive", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.0\nHost: example.test\nConnection: keep-alive\n\n"}},
	{name: "HTTP/1.0 and an answer of unknown length", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.0\nHost: example.test\n\n"},
		reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"},
	{name: "Expect and no length", call: call{method: "POST", body: "hello", fields: []string{"Expect: 100-continue"}}, app: continues},
	{name: "Expect and the app continues", call: call{method: "POST", body: "hello", fields: []string{"Expect: 100-continue", "Content-Length: 5"}},
		app: continues},
	{name: "other expectation", call: call{fields: []string{"Expect: more"}}},
	{name: "forwarded fields of a stranger", call: call{fields: []string{"X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 1.2.3.5", "X-Forwarded-Proto: gopher", "X-Forwarded-Host: evil", "Forwarded: for=1.2.3.4", "X-Real-Ip: 1.2.3.4", "Via: 1.0 fred"}}},
	{name: "forwarded fields of a trusted proxy", only: []string{"h1", "h1+tls", "h2", "h2c"}, call: call{source: "127.0.0.2",
		fields: []string{"X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 1.2.3.5", "X-Forwarded-Proto: gopher", "X-Forwarded-Proto: wais", "X-Forwarded-Host: evil", "Forwarded: for=1.2.3.4", "Via: 1.0 fred", "Via: 1.1 bob"}}},
	{name: "empty forwarded fields of a trusted proxy", only: onlyHTTP1, call: call{source: "127.0.0.2",
		fields: []string{"X-Forwarded-For: ", "X-Forwarded-Proto: ", "X-Forwarded-Host: "}}},
	{name: "no forwarded fields of a trusted proxy", only: onlyHTTP1, call: call{source: "127.0.0.2"}},
	{name: "Accept-Encoding is the client's", call: call{fields: []string{"Accept-Encoding: br;q=0.5, gzip"}}},
	{name: "Range", call: call{fields: []string{"Range: bytes=0-1"}}, reply: "HTTP/1.1 206 Partial Content\nContent-Range: bytes 0-1/5\nContent-Length: 2\n\nhe"},
	{name: "Upgrade that nobody takes", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nConnection: Upgrade\nUpgrade: H2C, foo\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n\n"}},
	{name: "Upgrade without Connection", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test\nUpgrade: foo\n\n"}},
	{name: "Upgrade with a body", only: onlyHTTP1, call: call{raw: "POST / HTTP/1.1\nHost: example.test\nConnection: Upgrade\nUpgrade: foo\nContent-Length: 2\n\nhi"}},
	{name: "Incremental", call: call{method: "POST", body: "x", fields: []string{"Incremental: ?1"}}},
	{name: "Incremental GET", call: call{fields: []string{"Incremental: ?1"}}},
	{name: "many fields", call: call{fields: func() (ff []string) {
		for i := range 200 {
			ff = append(ff, fmt.Sprintf("X-%03d: %d", i, i))
		}
		return ff
	}()}},
}

var targetCases = func() (cc []fidelityCase) {
	for _, target := range []string{
		"/a?", "/?", "/a?b=c", "/a?b=c?d", "/a?b=c&b=d&&=", "//", "//a//b", "/a/./b/../c", "/../..", "/.", "/a/", "/a//?x=//",
		"/%2f%2F", "/a%20b", "/a+b", "/%e4%C3%A4", "/%00", "/%", "/%zz", "/%2", "/;a=b", "/a;b?c;d", "/:x", "/a:b@c", "/*", "/~a", "/%7Ea", "/a%25b",
		`/"<>\^` + "`{|}", "/[a]", "/?[a]", "/a?%", "/a?%zz", "/a?b%20c+d", "/a?\"<>\\^`{|}", "/a?b#c", "/a?'", "/!$&'()*+,;=:@",
		"/a?http://b/c", "/http://b/c", "/\xc3\xa4", "/a?\xc3\xa4", "/%C3%A4?%c3%a4", "/a%3Fb", "/a%23b", "/a%2e%2e/b", "/%2e%2e/b", "/a\\b", "/a?b=%00",
	} {
		cc = append(cc, fidelityCase{name: "target " + target, call: call{target: target}})
	}
	return append(cc,
		fidelityCase{name: "OPTIONS *", call: call{method: "OPTIONS", target: "*"}},
		fidelityCase{name: "absolute target", only: onlyHTTP1, call: call{target: "http://example.test/a?b"}},
		fidelityCase{name: "absolute target of another host", only: onlyHTTP1, call: call{target: "http://other.test:81//a/../b?b"}},
		fidelityCase{name: "absolute target without a path", only: onlyHTTP1, call: call{target: "http://example.test"}},
		fidelityCase{name: "absolute target with a query alone", only: onlyHTTP1, call: call{target: "http://example.test?q"}},
		fidelityCase{name: "CONNECT", only: onlyHTTP1, call: call{method: "CONNECT", target: "example.test:80"}},
		fidelityCase{name: "host with a port", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: example.test:8080\n\n"}},
		fidelityCase{name: "host in upper case", only: onlyHTTP1, call: call{raw: "GET / HTTP/1.1\nHost: EXAMPLE.test\n\n"}},
		fidelityCase{name: "empty host", only: []string{"h1"}, call: call{raw: "GET / HTTP/1.1\nHost: \n\n"}},
		fidelityCase{name: "host that is an address", only: []string{"h1"}, call: call{raw: "GET / HTTP/1.1\nHost: [::1]:80\n\n"}},
	)
}()

var responseCases = []fidelityCase{
	{name: "fields", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nX-B: 2\nX-A: 1\nX-B: 1\nx-lower: x\nX_Under: x\nX-Empty:\nX-Obs: caf\xe9\nX-Tab: a\tb\n\nok"},
	{name: "cookies", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nSet-Cookie: b=2; Path=/\nSet-Cookie: a=1, x; Expires=Mon, 23 Nov 2026 10:00:00 GMT\nSet-Cookie: b=2; Path=/\n\nok"},
	{name: "Server, Date, Via of the app", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nServer: x\nDate: Mon, 23 Nov 2026 10:00:00 GMT\nVia: 1.0 y\nVia: 1.0 z\n\nok"},
	{name: "no type", reply: "HTTP/1.1 200 OK\nContent-Length: 6\n\n<html>"},
	{name: "hop-by-hop fields of a response", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: X-Foo, close\nX-Foo: 1\nX-Bar: 2\nKeep-Alive: timeout=5\nProxy-Authenticate: x\nProxy-Connection: x\nUpgrade: h2c\nTE: x\nAlt-Svc: h3=\":443\"\n\nok"},
	{name: "chunked", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n3;ext=1\n!!!\n0\n\n"},
	{name: "chunked and nothing in it", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\n\n"},
	{name: "until the end of the connection", reply: "HTTP/1.1 200 OK\n\nok"},
	{name: "of HTTP/1.0", reply: "HTTP/1.0 200 OK\n\nok"},
	{name: "of HTTP/1.0 with a length", reply: "HTTP/1.0 200 OK\nContent-Length: 2\n\nok"},
	{name: "announced trailers", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum, X-B\n\n2\nok\n0\nX-Sum: 1\nX-Sum: 2\nX-B: 3\n\n"},
	{name: "trailers nobody announced", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Sum: 1\nX-Sum: 2\n\n"},
	{name: "trailers, one of them announced", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n2\nok\n0\nX-Sum: 1\nX-B: 2\n\n"},
	{name: "announced trailers that do not come", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n2\nok\n0\n\n"},
	{name: "trailers after nothing", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\n0\nX-Sum: 1\n\n"},
	{name: "gRPC-like trailers", call: call{method: "POST", body: "x", fields: []string{"TE: trailers", "Content-Type: application/grpc"}},
		reply: "HTTP/1.1 200 OK\nContent-Type: application/grpc\nTransfer-Encoding: chunked\nTrailer: Grpc-Status\nTrailer: Grpc-Message\n\n2\nok\n0\nGrpc-Status: 0\nGrpc-Message: \n\n"},
	{name: "gzip stays as it is", call: call{fields: []string{"Accept-Encoding: gzip"}}, reply: "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 4\n\n\x1f\x8b\x00\x01"},
	{name: "gzip that nobody asked for", reply: "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 4\n\n\x1f\x8b\x00\x01"},
	{name: "103", reply: "HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload\nLink: </b>\n\n" + ok},
	{name: "several informational", reply: "HTTP/1.1 102 Processing\n\nHTTP/1.1 103 Early Hints\nLink: </a>\nX-A: 1\n\nHTTP/1.1 103 Early Hints\nLink: </b>\nConnection: X-Hop\nX-Hop: 1\n\nHTTP/1.1 199 Odd\n\n" + ok},
	{name: "100 that nobody asked for", reply: "HTTP/1.1 100 Continue\n\n" + ok},
	{name: "204", reply: "HTTP/1.1 204 No Content\nX-A: 1\n\n"},
	{name: "204 with a length", reply: "HTTP/1.1 204 No Content\nContent-Length: 0\n\n"},
	{name: "205", reply: "HTTP/1.1 205 Reset Content\nContent-Length: 0\n\n"},
	{name: "304", reply: "HTTP/1.1 304 Not Modified\nEtag: \"x\"\n\n"},
	{name: "304 with a length and type", reply: "HTTP/1.1 304 Not Modified\nEtag: \"x\"\nContent-Length: 100\nContent-Type: text/css\nLast-Modified: Mon, 23 Nov 2026 10:00:00 GMT\n\n"},
	{name: "HEAD with a length", call: call{method: "HEAD"}, reply: "HTTP/1.1 200 OK\nContent-Length: 5000\n\n"},
	{name: "HEAD without a length", call: call{method: "HEAD"}, reply: "HTTP/1.1 200 OK\nContent-Type: a/b\n\n"},
	{name: "HEAD with chunks", call: call{method: "HEAD"}, reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-A\n\n"},
	{name: "HEAD with length 0", call: call{method: "HEAD"}, reply: "HTTP/1.1 200 OK\nContent-Length: 0\n\n"},
	{name: "HEAD and 304", call: call{method: "HEAD"}, reply: "HTTP/1.1 304 Not Modified\nContent-Length: 100\n\n"},
	{name: "HEAD and 404", call: call{method: "HEAD"}, reply: "HTTP/1.1 404 Not Found\nContent-Length: 100\n\n"},
	{name: "no reason", reply: "HTTP/1.1 200\nContent-Length: 2\n\nok"},
	{name: "odd reason", reply: "HTTP/1.1 200 All is \"well\"\nContent-Length: 2\n\nok"},
	{name: "status 519", reply: "HTTP/1.1 519 Odd\nContent-Length: 2\n\nok"},
	{name: "status 299", reply: "HTTP/1.1 299 Odd\nContent-Length: 2\n\nok"},
	{name: "status 600", reply: "HTTP/1.1 600 Odd\nContent-Length: 2\n\nok"},
	{name: "status 999", reply: "HTTP/1.1 999 Odd\nContent-Length: 2\n\nok"},
	{name: "status 99", reply: "HTTP/1.1 099 Odd\nContent-Length: 2\n\nok"},
	{name: "status 1000", reply: "HTTP/1.1 1000 Odd\nContent-Length: 2\n\nok"},
	{name: "redirect", reply: "HTTP/1.1 302 Found\nLocation: //x/../y?%zz\nContent-Length: 0\n\n"},
	{name: "401", reply: "HTTP/1.1 401 Unauthorized\nWWW-Authenticate: Basic realm=\"x\"\nWWW-Authenticate: Bearer\nContent-Length: 0\n\n"},
	{name: "403 to a POST", call: call{method: "POST", body: "hello"}, reply: "HTTP/1.1 403 Forbidden\nContent-Length: 2\n\nno"},
	{name: "two lengths that agree", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nok"},
	{name: "two lengths that differ", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nok"},
	{name: "bad length", reply: "HTTP/1.1 200 OK\nContent-Length: -2\n\nok"},
	{name: "length and chunks", reply: "HTTP/1.1 200 OK\nContent-Length: 7\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"},
	{name: "other transfer coding", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\nok"},
	{name: "more than the length", reply: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok and more"},
	{name: "folded line", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nX-A: a\n b\n\nok"},
	{name: "field without a name", reply: "HTTP/1.1 200 OK\nContent-Length: 2\n: x\n\nok"},
	{name: "field with an odd name", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nX A: x\n\nok"},
	{name: "field with a control character", reply: "HTTP/1.1 200 OK\nContent-Length: 2\nX-A: a\x01b\n\nok"},
	{name: "not HTTP", reply: "SSH-2.0-OpenSSH\n\n"},
	{name: "HTTP/2.0 in a status line", reply: "HTTP/2.0 200 OK\nContent-Length: 2\n\nok"},
	{name: "101 that nobody asked for", reply: "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: x\n\n"},
	{name: "large body", reply: "HTTP/1.1 200 OK\nContent-Length: 300000\n\n" + strings.Repeat("0123456789", 30000)},
	{name: "large chunked body", reply: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n493e0\n" + strings.Repeat("0123456789", 30000) + "\n0\n\n"},
	{name: "server-sent events", reply: "HTTP/1.1 200 OK\nContent-Type: text/event-stream; charset=utf-8\n\ndata: x\n\n"},
}
