package directevent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// answer is a result as its source reads it.
type answer struct {
	StatusCode        int
	StatusDescription string
	Headers           map[string]string
	MultiValueHeaders http.Header
	Cookies           []string
	Body              []byte // decoded
	IsBase64Encoded   bool
}

func read(t interface {
	Helper()
	Fatalf(string, ...any)
}, result []byte) (a answer) {
	t.Helper()
	var raw struct {
		answer
		Body *string
	}
	if err := json.Unmarshal(result, &raw); err != nil || raw.Body == nil {
		t.Fatalf("result %s: %v", result, err)
	}
	a = raw.answer
	a.Body = []byte(*raw.Body)
	if raw.IsBase64Encoded {
		if err := json.Unmarshal(fmt.Appendf(nil, "%q", *raw.Body), &a.Body); err != nil {
			t.Fatalf("body %s: %v", *raw.Body, err)
		}
	}
	return a
}

func TestTextOrBinary(t *testing.T) {
	e := parse(t, v2("/", ""), Invocation{}, Options{})
	for _, tt := range []struct {
		contentType, encoding, says, body string
		binary                            bool
	}{
		{"", "", "", "plain", false},
		{"", "", "", "\xff", true},
		{"text/plain", "", "", "plain", false},
		{"TEXT/HTML; charset=UTF-8", "", "", "Grüße", false},
		{"text/html; charset=iso-8859-1", "", "", "Gr\xfc\xdfe", true},
		{"text/html; charset=iso-8859-1", "", "", "ascii", false},
		{"text/plain; charset=utf-16", "", "", "\xfe\xff\x00a", true},
		{"application/json", "", "", "{}", false},
		{"application/problem+json; charset=utf-8", "", "", "{}", false},
		{"application/atom+xml", "", "", "<a/>", false},
		{"application/openapi+yaml", "", "", "a: 1", false},
		{"image/svg+xml", "", "", "<svg/>", false},
		{"application/javascript", "gzip", "", "\x1f\x8b", true},
		{"application/javascript", "identity", "", "x", true},
		{"application/octet-stream", "", "", "ascii", true},
		{"application/graphql", "", "text", "{a}", false},
		{"text/plain", "gzip", "text", "plain", false},
		{"image/png", "", "text", "\x89PNG", true},
		{"image/png", "", "", "", false},
	} {
		h := http.Header{}
		for name, v := range map[string]string{"Content-Type": tt.contentType, "Content-Encoding": tt.encoding, contentEncoding: tt.says} {
			if v != "" {
				h.Set(name, v)
			}
		}
		result, err := e.Result(200, h, []byte(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if a := read(t, result); a.IsBase64Encoded != tt.binary || string(a.Body) != tt.body || a.Headers["content-type"] != tt.contentType {
			t.Errorf("%+v: %s", tt, result)
		}
		if strings.Contains(string(result), "x-lambda-http") {
			t.Errorf("%s has what is for the adapter", result)
		}
	}
}

func TestEventResult(t *testing.T) {
	e := parse(t, `{"Records":[{"eventSource":"aws:sqs"}]}`, Invocation{}, Options{})
	const batch = "\n{ \"batchItemFailures\" : [ {\"itemIdentifier\":\"m-1\"} ] }"
	for _, tt := range []struct {
		contentType, body, want string
	}{
		{"application/json", batch, batch},
		{"text/plain", batch, batch},
		{"", "", "null"},
		{"application/json", " \r\n", "null"},
		{"text/html", "OK", "null"},
		{"", "\xff", "null"},
		{"", `"done"`, `"done"`},
		{"", "17", "17"},
		{"application/json", "OK", ""},
		{"application/vnd.x+json; charset=utf-8", "OK", ""},
		{"text/html", `{"batchItemFailures":[}`, ""},
		{"text/html", `[1`, ""},
		{"application/json", "\"\xff\"", ""},
	} {
		result, err := e.Result(500, http.Header{"Content-Type": {tt.contentType}}, []byte(tt.body))
		if string(result) != tt.want {
			t.Errorf("%+v: %q, %v", tt, result, err)
		}
		be, bad := errors.AsType[*Error](err)
		if bad != (tt.want == "") || bad && (be.Type != TypeBadAnswer || be.Source != SQS || strings.Contains(err.Error(), "OK")) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestWebSocketResult(t *testing.T) {
	e := parse(t, `{"requestContext":{"connectionId":"c","eventType":"CONNECT"}}`, Invocation{}, Options{})
	for _, tt := range []struct {
		body, want string
	}{
		{"no", `{"statusCode":403,"headers":{},"isBase64Encoded":false,"body":"no"}`},
		{`{"a":1}`, `{"statusCode":403,"headers":{},"isBase64Encoded":false,"body":"{\"a\":1}"}`},
		{` {"statusCode":200,"body":"hi"}`, ` {"statusCode":200,"body":"hi"}`},
		{`{"statusCode":"200"}`, `{"statusCode":403,"headers":{},"isBase64Encoded":false,"body":"{\"statusCode\":\"200\"}"}`},
		{`{"statusCode":200`, `{"statusCode":403,"headers":{},"isBase64Encoded":false,"body":"{\"statusCode\":200"}`},
	} {
		result, err := e.Result(403, nil, []byte(tt.body))
		if err != nil || string(result) != tt.want {
			t.Errorf("%s: %s, %v", tt.body, result, err)
		}
	}
}

func TestBodylessResults(t *testing.T) {
	for _, tt := range []struct {
		method       string
		status       int
		body, length string
	}{
		{"HEAD", 200, "", "5"}, {"GET", 304, "", "5"}, {"GET", 204, "", ""}, {"GET", 200, "hello", "5"}, {"GET", 200, "hell", ""},
	} {
		e := parse(t, `{"httpMethod":"`+tt.method+`","path":"/","requestContext":{"elb":{}}}`, Invocation{}, Options{})
		body := tt.body
		if body == "" {
			body = "must not be sent"
		}
		result, err := e.Result(tt.status, http.Header{"Content-Length": {"5"}}, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if a := read(t, result); string(a.Body) != tt.body || a.Headers["content-length"] != tt.length {
			t.Errorf("%+v: %s", tt, result)
		}
	}
}

// TestNamesThatAreNone: net/http reads them, and fronts do not.
func TestNamesThatAreNone(t *testing.T) {
	h := http.Header{"Bad Name": {"x"}, "X-Good": {"y"}}
	for _, event := range []string{v2("/", ""), `{"httpMethod":"GET","path":"/","requestContext":{"elb":{}}}`, `{"httpMethod":"GET","path":"/"}`} {
		e := parse(t, event, Invocation{}, Options{})
		result, err := e.Result(200, h, nil)
		prelude, perr := e.Prelude(200, h)
		if err != nil || perr != nil {
			t.Fatal(err, perr)
		}
		for _, got := range []string{string(result), string(prelude)} {
			if strings.Contains(strings.ToLower(got), "bad name") || !strings.Contains(got, "x-good") {
				t.Errorf("%s", got)
			}
		}
	}
}

func TestStatusDescription(t *testing.T) {
	e := parse(t, `{"httpMethod":"GET","path":"/","requestContext":{"elb":{}}}`, Invocation{}, Options{})
	for status, want := range map[int]string{404: "404 Not Found", 299: "299"} {
		result, err := e.Result(status, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a := read(t, result); a.StatusDescription != want || a.StatusCode != status {
			t.Errorf("%s", result)
		}
	}
}

// As many cookies as anybody sets survive where a header has one value.
func TestCookiesWithOneValueEach(t *testing.T) {
	e := parse(t, `{"httpMethod":"GET","path":"/","requestContext":{"elb":{}}}`, Invocation{}, Options{})
	var cookies []string
	for i := range 512 {
		cookies = append(cookies, fmt.Sprintf("c%d=1", i))
	}
	h := http.Header{"Set-Cookie": cookies}
	result, err := e.Result(200, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := read(t, result)
	if len(a.Headers) != len(cookies) || a.Headers["set-cookie"] != cookies[0] {
		t.Errorf("%d of %d cookies are left", len(a.Headers), len(cookies))
	}
	for name := range a.Headers {
		if http.CanonicalHeaderKey(name) != "Set-Cookie" {
			t.Errorf("a cookie is in %q", name)
		}
	}
	h.Add("Set-Cookie", "one-too-many=1")
	if result, err = e.Result(200, h, nil); err != nil || len(read(t, result).Headers) != len(cookies) {
		t.Errorf("%s, %v", result, err)
	}
}

func TestErrorResult(t *testing.T) {
	e := parse(t, v2("/", ""), Invocation{}, Options{})
	result, err := e.ErrorResult(502, "app_failed", `it "broke"`)
	if err != nil {
		t.Fatal(err)
	}
	a := read(t, result)
	if a.StatusCode != 502 || string(a.Body) != `{"error":"app_failed","message":"it \"broke\""}` || a.Headers["content-type"] != "application/json" {
		t.Errorf("%s", result)
	}
}

func TestStreams(t *testing.T) {
	for domain, want := range map[string]bool{
		"u.lambda-url.eu-central-1.on.aws": true, "u.lambda-url.eu-central-1.on.aws.example.com": false,
		"h.execute-api.eu-central-1.amazonaws.com": false, "svc.vpc-lattice-svcs.eu-central-1.on.aws": false, "": false,
	} {
		event := strings.Replace(v2("/", ""), `{"http"`, `{"domainName":"`+domain+`","http"`, 1)
		if e := parse(t, event, Invocation{}, Options{}); e.Streams() != want {
			t.Errorf("%q streams: %v", domain, e.Streams())
		}
	}
}

// The app's header is not the translation's to change.
func TestHeaderOfTheAnswerStays(t *testing.T) {
	h := http.Header{"Connection": {"x"}, "X": {"1"}, "Content-Length": {"9"}}
	e := parse(t, v2("/", ""), Invocation{}, Options{})
	if _, err := e.Result(200, h, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Prelude(200, h); err != nil {
		t.Fatal(err)
	}
	if len(h) != 3 {
		t.Errorf("header is now %v", h)
	}
}
