package directevent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func parse(t *testing.T, event string, inv Invocation, o Options) *Event {
	t.Helper()
	e, err := Parse([]byte(event), inv, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// v2 is a GET of path with these headers, which are JSON members.
func v2(path, headers string) string {
	quoted, _ := json.Marshal(path)
	return fmt.Sprintf(`{"version":"2.0","rawPath":%s,"headers":{%s},"requestContext":{"http":{"method":"GET"}}}`, quoted, headers)
}

func TestSourceNames(t *testing.T) {
	for s := Unknown; int(s) < len(sourceNames); s++ {
		if got, ok := SourceNamed(s.String()); got != s || !ok || s.String() == "" {
			t.Errorf("source %d is %q, which is %d, %v", s, s, got, ok)
		}
	}
	if s, ok := SourceNamed("AWS_SQS"); ok {
		t.Errorf("AWS_SQS is %s", s)
	}
	if got := Source(99).String(); got != "unknown" {
		t.Errorf("source 99 is %q", got)
	}
}

func TestBasePath(t *testing.T) {
	for _, tt := range []struct{ base, path, want string }{
		{"", "/api/x", "/api/x"},
		{"/", "/api/x", "/api/x"},
		{"/api", "/api/x", "/x"},
		{"/api", "/api/api/x", "/api/x"},
		{"/api", "/api", "/"},
		{"/api", "/api/", "/"},
		{"/api/", "/api/x", "/x"},
		{"api", "/api/x", "/x"},
		{"/api", "/apis/x", "/apis/x"},
		{"/api", "/x/api", "/x/api"},
		{"/api", "/api//x", "//x"},
		{"/api/v1", "/api/v1/x", "/x"},
		{"/api/v1", "/api/v10", "/api/v10"},
		{"/api", "/", "/"},
		{"/café", "/café/x", "/x"}, // as HTTP APIs have it
		{"/café", "/caf%C3%A9/x", "/x"},
		{"/caf%C3%A9", "/café/x", "/x"},
		{"/my%20app", "/my app/x", "/x"},
	} {
		if e := parse(t, v2(tt.path, ""), Invocation{}, Options{BasePath: tt.base}); e.Target != tt.want {
			t.Errorf("%q of %q is %q, want %q", tt.base, tt.path, e.Target, tt.want)
		}
	}
	if e := parse(t, `{}`, Invocation{}, Options{BasePath: "/events"}); e.Target != "/events" {
		t.Errorf("base path is removed from the pass-through path: %q", e.Target)
	}
}

func TestRoutes(t *testing.T) {
	o := Options{PassThroughPath: "work", Routes: map[string]string{"sqs": "/sqs?a=b c", "unknown": "/u", "http-api": "/no"}}
	for event, want := range map[string]string{
		`{"Records":[{"eventSource":"aws:sqs"}]}`: "/sqs?a=b%20c",
		`{"Records":[{"eventSource":"aws:s3"}]}`:  "/work",
		`{"Records":[]}`:                          "/u",
		`[]`:                                      "/u",
		v2("/x", ""):                              "/x",
	} {
		if e := parse(t, event, Invocation{}, o); e.Target != want {
			t.Errorf("%s goes to %s, want %s", event, e.Target, want)
		}
	}
}

func TestAuthorizationSource(t *testing.T) {
	for _, tt := range []struct {
		source, headers, want string
		missing               bool
	}{
		{"", `"authorization":"iam","x-auth":"app"`, "iam", false},
		{"X-AUTH", `"authorization":"iam","x-auth":"app"`, "app", false},
		{"x-auth", `"authorization":"iam"`, "iam", true},
		{"authorization", `"authorization":"iam"`, "iam", false},
	} {
		e := parse(t, v2("/", tt.headers), Invocation{}, Options{AuthorizationSource: tt.source})
		if got := e.Header.Get("Authorization"); got != tt.want || e.AuthorizationMissing != tt.missing {
			t.Errorf("%q of %s: %q, missing %v", tt.source, tt.headers, got, e.AuthorizationMissing)
		}
		if tt.want == "app" && e.Header.Get("X-Auth") != "" {
			t.Error("the header was copied and not moved")
		}
	}
	if e := parse(t, `{}`, Invocation{}, Options{AuthorizationSource: "x-auth"}); e.AuthorizationMissing {
		t.Error("an event that is not HTTP misses no authorization")
	}
}

// What Lambda vouches for is Lambda's, whatever the client sends.
func TestVouchedHeaders(t *testing.T) {
	spoofed := `"x-amz-tenant-id":"evil","X_Amz_Tenant.Id":"evil","x-amzn-lambda-context":"evil","x_amzn_request_context":"evil",` +
		`"x_amzn_trace_id":"evil","x-amzn-trace-id":"front","lambda-dispatch-x":"evil","connection":"x-amzn-lambda-context"`
	for _, inv := range []Invocation{{}, {TenantID: "blue\r\nx: y", TraceID: "Root=1"}} {
		e := parse(t, v2("/", spoofed), inv, Options{})
		for name, values := range e.Header {
			if strings.Contains(strings.Join(values, ""), "evil") {
				t.Errorf("%s is %q", name, values)
			}
		}
		if got, want := e.Header.Get("X-Amz-Tenant-Id"), strings.ReplaceAll(inv.TenantID, "\r\n", "  "); got != want {
			t.Errorf("tenant is %q, want %q", got, want)
		}
		if got := e.Header.Get("X-Amzn-Trace-Id"); got != "front" && inv.TraceID == "" || got == "front" && inv.TraceID != "" {
			t.Errorf("trace ID is %q", got)
		}
		var context struct {
			TenantID *string `json:"tenant_id"`
			Deadline int64
			Env      struct{ Memory int } `json:"env_config"`
		}
		if err := json.Unmarshal([]byte(e.Header.Get("X-Amzn-Lambda-Context")), &context); err != nil {
			t.Fatal(err)
		}
		if (context.TenantID != nil) != (inv.TenantID != "") || context.TenantID != nil && *context.TenantID != inv.TenantID {
			t.Errorf("tenant in the context is %v", context.TenantID)
		}
	}
}

func TestLambdaContext(t *testing.T) {
	inv := invocation
	inv.ClientContext, inv.CognitoIdentity = `{"custom":{"k":"ä"}}`, "{broken"
	e := parse(t, `{}`, inv, Options{})
	want := `"client_context":{"custom":{"k":"\u00e4"}},"identity":null,"env_config":{"function_name":"shop","memory":512,`
	if got := e.Header.Get("X-Amzn-Lambda-Context"); !strings.Contains(got, want) {
		t.Errorf("context is %s", got)
	}
}

func TestTraceparent(t *testing.T) {
	const root, parent = "Root=1-5759e988-bd862e3fe1be46a994272793", "Parent=53995c3f42cd8ad8"
	for xray, want := range map[string]string{
		root + ";" + parent + ";Sampled=1":                    "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01",
		"Sampled=0; " + parent + "; " + root + ";Lineage=a:1": "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00",
		"Root=1-5759E988-BD862E3FE1BE46A994272793;" + parent:  "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00",
		root + ";Sampled=1":                                   "",
		parent + ";Sampled=1":                                 "",
		"Root=2-5759e988-bd862e3fe1be46a994272793;" + parent:  "",
		"Root=1-5759e988-bd862e3fe1be46a99427279;" + parent:   "",
		"Root=1-00000000-000000000000000000000000;" + parent:  "",
		root + ";Parent=0000000000000000":                     "",
		root + ";Parent=53995c3f42cd8adg":                     "",
		"":                                                    "",
		";;=;Root;Parent":                                     "",
	} {
		e := parse(t, v2("/", `"tracestate":"v=1"`), Invocation{TraceID: xray}, Options{})
		if got := e.Header.Get("Traceparent"); got != want {
			t.Errorf("%s is %q, want %q", xray, got, want)
		}
		if got := e.Header.Get("Tracestate"); (got == "") != (want != "") {
			t.Errorf("%s: tracestate is %q", xray, got)
		}
	}
}

func TestMembersOfAnyKind(t *testing.T) {
	e := parse(t, `{"rawPath":"/no","version":"1","body":null,"v\u0065rsion":"2.0","rawPath":"/yes","isBase64Encoded":null,"cookies":null,
		"headers":{"a":"1","A":["2",null,"3"],"b":null,"cookie":"kept"},"requestContext":{"http":{"method":"REPORT"}}}`, Invocation{}, Options{})
	if e.Method != "REPORT" || e.Target != "/yes" || fmt.Sprint(e.Header["A"]) != "[1 2 3]" || e.Header.Get("Cookie") != "kept" || e.Body != nil {
		t.Errorf("%s %s %v %q", e.Method, e.Target, e.Header, e.Body)
	}
}

// Null is the same as nothing, and VPC Lattice's documentation has booleans as
// strings.
func TestLooseMembers(t *testing.T) {
	e := parse(t, `{"httpMethod":"GET","path":"/","headers":{},"multiValueHeaders":null,"requestContext":{"elb":{}}}`, Invocation{}, Options{})
	result, err := e.Result(200, http.Header{"A": {"1"}}, nil)
	if err != nil || read(t, result).Headers["a"] != "1" {
		t.Errorf("%s, %v", result, err)
	}
	for flag, want := range map[string]string{`"true"`: "hi", `true`: "hi", `"false"`: "aGk=", `null`: "aGk="} {
		e := parse(t, `{"raw_path":"/","method":"POST","body":"aGk=","is_base64_encoded":`+flag+`}`, Invocation{}, Options{})
		if string(e.Body) != want {
			t.Errorf("%s: body is %q", flag, e.Body)
		}
	}
}

func TestBrokenEvents(t *testing.T) {
	for _, event := range []string{
		`{`, `{"a":1}x`, "\xff", `{"requestContext":{"http":{}}}`,
		`{"httpMethod":"G T","path":"/"}`, `{"httpMethod":"CONNECT","path":"/"}`, `{"httpMethod":7,"path":"/"}`,
		`{"httpMethod":"GET","path":"/","headers":[]}`, `{"httpMethod":"GET","path":"/","headers":{"a":1}}`,
		`{"httpMethod":"GET","path":"/","multiValueHeaders":{"a":[1]}}`,
		`{"httpMethod":"GET","path":"/","queryStringParameters":{"a":1}}`,
		`{"httpMethod":"GET","path":"/","multiValueQueryStringParameters":{"a":["1",{}]}}`,
		`{"httpMethod":"POST","path":"/","body":{}}`, `{"httpMethod":"POST","path":"/","body":"%","isBase64Encoded":true}`,
		`{"requestContext":{"elb":{}},"path":"/"}`,
	} {
		e, err := Parse([]byte(event), Invocation{}, Options{})
		be, ok := errors.AsType[*Error](err)
		if !ok || be.Type != TypeBadEvent {
			t.Errorf("%s: %v, %v", event, e, err)
			continue
		}
		// Whoever sends HTTP can be told so in HTTP.
		if http := be.Source.HTTP(); http != (e != nil) || http && e.Source != be.Source {
			t.Errorf("%s: %v of %s", event, e, be.Source)
		}
	}
}

func TestEmptyEvent(t *testing.T) {
	for _, event := range []string{"", " \n"} {
		if e := parse(t, event, Invocation{}, Options{}); string(e.Body) != "null" || e.Source != Unknown {
			t.Errorf("%q: %s, %q", event, e.Source, e.Body)
		}
	}
}

// An event as large as an asynchronous one can be is the body byte for byte.
func TestLargeEvent(t *testing.T) {
	event := `{"Records":[{"eventSource":"aws:s3","x":"` + strings.Repeat("Grüße", 1<<18) + `"}]}`
	e := parse(t, event, invocation, Options{})
	if e.Source != S3 || string(e.Body) != event {
		t.Errorf("%s, %d bytes of %d", e.Source, len(e.Body), len(event))
	}
}

func TestHost(t *testing.T) {
	for _, tt := range []struct{ headers, domain, host, want string }{
		{`"host":"a:1"`, "b", "c", "a:1"},
		{`"host":"a b"`, "b", "c", "b"},
		{``, "b", "c", "b"},
		{``, "b/", "c", "c"},
		{``, "", "", "127.0.0.1"},
	} {
		event := strings.Replace(v2("/", tt.headers), `{"http"`, `{"domainName":"`+tt.domain+`","http"`, 1)
		if e := parse(t, event, Invocation{}, Options{Host: tt.host}); e.Host != tt.want {
			t.Errorf("%s, %q, %q: host is %q, want %q", tt.headers, tt.domain, tt.host, e.Host, tt.want)
		}
	}
}

func TestRemoteAddr(t *testing.T) {
	for ip, want := range map[string]string{"198.51.100.7": "198.51.100.7:0", "2001:db8::1": "[2001:db8::1]:0"} {
		event := strings.Replace(v2("/", ""), `{"method"`, `{"sourceIp":"`+ip+`","method"`, 1)
		r, err := parse(t, event, Invocation{}, Options{}).Request(t.Context())
		if err != nil || r.RemoteAddr != want {
			t.Errorf("%s: %q, %v", ip, r.RemoteAddr, err)
		}
	}
}

// A request must reach a server as what it is.
func TestPathsAreParsable(t *testing.T) {
	for _, path := range []string{"//evil.example/x", "/a?b#c", "/%", "/%4", "/%zz%41", "*", "http://x/", "/\u00e9 \x7f\n", `/\..\x`} {
		e := parse(t, v2(path, ""), Invocation{}, Options{})
		r, err := e.Request(t.Context())
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		want := path
		if path[0] != '/' {
			want = "/" + path
		}
		if path == "/%zz%41" { // %41 is what the client wrote
			want = "/%zzA"
		}
		if r.URL.Path != want || r.URL.RawQuery != "" || r.URL.Host != "" {
			t.Errorf("%q has become %s: path %q, query %q", path, e.Target, r.URL.Path, r.URL.RawQuery)
		}
	}
}

func TestRequestBodyCanBeSentAgain(t *testing.T) {
	e := parse(t, `{"httpMethod":"POST","path":"/","body":"abc"}`, Invocation{}, Options{})
	r, err := e.Request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	if n, _ := again.Read(buf); string(buf[:n]) != "abc" || r.ContentLength != 3 {
		t.Errorf("%q, length %d", buf[:n], r.ContentLength)
	}
	get, err := parse(t, v2("/", ""), Invocation{}, Options{}).Request(t.Context())
	if err != nil || get.Body != http.NoBody || get.ContentLength != 0 {
		t.Errorf("a request without body has %v, %d, %v", get.Body, get.ContentLength, err)
	}
}

// What JSON lets pass as it is, and what it has to escape, may both be what a
// header cannot have.
func TestOddHeaders(t *testing.T) {
	e := parse(t, v2("/", "\"a\":\" x\x7fy\",\"h\":\"1\\t\",\"b c\":\"1\",\"\":\"2\",\"d\\u0000\":\"3\",\"e\":\"1\\r\\nf: 2\",\"g\":\"\xff\""), Invocation{}, Options{})
	for name, want := range map[string]string{"A": "x y", "E": "1  f: 2", "G": "\ufffd", "H": "1", "F": ""} {
		if got := e.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if len(e.Header) != 6 { // with Lambda's context and the request's
		t.Errorf("header is %q", e.Header)
	}
}
