package directevent

import (
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
	"pgregory.net/rapid"
)

// FuzzParse: whatever comes, a request that is made can be sent.
func FuzzParse(f *testing.F) {
	for _, event := range fixtures(f) {
		f.Add(event, "/base", "x-app-authorization", []byte("\x00\xffbody"))
	}
	f.Add([]byte(`{"rawPath":"%","version":"2.0","requestContext":{"http":{"method":"G"}},"headers":{"\u0000":"\r\n"}}`), "/%", "\n", []byte("{"))
	f.Add([]byte(`{"requestContext":{"elb":{}}}`), "", "", []byte("no method"))
	f.Fuzz(func(t *testing.T, event []byte, path, header string, body []byte) {
		o := Options{BasePath: path, PassThroughPath: path, Host: "app.internal"}
		if httpguts.ValidHeaderFieldName(header) {
			o.AuthorizationSource = header
		}
		e, err := Parse(event, Invocation{TraceID: path, TenantID: header, ClientContext: string(body)}, o)
		if err != nil {
			if e != nil { // broken, and its source must be told so
				checkAnswer(t, e, header, body)
			}
			return
		}
		if len(event) > 0 && strings.TrimSpace(string(event)) != "" && !json.Valid(event) {
			t.Fatalf("%q was taken for JSON", event)
		}
		checkRequest(t, e)
		checkAnswer(t, e, header, body)
	})
}

func checkAnswer(t *testing.T, e *Event, header string, body []byte) {
	t.Helper()
	if result, err := e.Result(200, http.Header{"X": {header}}, body); err == nil && !json.Valid(result) {
		t.Errorf("result %q", result)
	} else if err != nil && e.Source.HTTP() {
		t.Error(err)
	}
}

func checkRequest(t *testing.T, e *Event) {
	t.Helper()
	r, err := e.Request(t.Context())
	if err != nil && e.Source.HTTP() {
		t.Fatalf("target %q: %v", e.Target, err)
	}
	if err == nil && (r.RequestURI != e.Target || r.URL.Host != "" || r.ContentLength != int64(len(e.Body))) {
		t.Errorf("request is %+v", r)
	}
	if !validMethod(e.Method) || !httpguts.ValidHostHeader(e.Host) || e.Host == "" {
		t.Errorf("method %q, host %q", e.Method, e.Host)
	}
	if !strings.HasPrefix(e.Target, "/") || strings.IndexFunc(e.Target, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0 {
		t.Errorf("target %q", e.Target)
	}
	for name, values := range e.Header {
		if !httpguts.ValidHeaderFieldName(name) || name != http.CanonicalHeaderKey(name) {
			t.Errorf("header name %q", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) || v != strings.Trim(v, " \t") {
				t.Errorf("header %s is %q", name, v)
			}
		}
	}
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Connection", "Host", "Upgrade", "Expect"} {
		if v := e.Header[name]; v != nil {
			t.Errorf("%s is %q", name, v)
		}
	}
	for _, name := range []string{headerLambdaContext, headerRequestContext} {
		if v := e.Header[name]; len(v) != 1 || !json.Valid([]byte(v[0])) {
			t.Errorf("%s is %q", name, v)
		}
	}
}

// httpEvent writes a request as a source would, with encoding/json.
func httpEvent(source Source, h http.Header, query url.Values, body []byte) []byte {
	single := map[string]string{}
	for name, values := range h {
		single[name] = values[len(values)-1]
	}
	encoded := map[string][]string{}
	for name, values := range query {
		for _, v := range values {
			encoded[url.QueryEscape(name)] = append(encoded[url.QueryEscape(name)], url.QueryEscape(v))
		}
	}
	ev := map[string]any{"body": body, "isBase64Encoded": true}
	switch source {
	case RESTAPI:
		ev["httpMethod"], ev["path"], ev["headers"], ev["multiValueHeaders"] = "POST", "/", single, h
		ev["multiValueQueryStringParameters"] = query
	case ALB:
		ev["httpMethod"], ev["path"], ev["multiValueHeaders"] = "POST", "/", h
		ev["multiValueQueryStringParameters"] = encoded
		ev["requestContext"] = map[string]any{"elb": map[string]any{}}
	case VPCLatticeV2:
		ev["method"], ev["path"], ev["headers"], ev["queryStringParameters"] = "POST", "/", h, encoded
		ev["requestContext"] = map[string]any{"serviceArn": "arn"}
	default:
		ev["rawPath"], ev["rawQueryString"] = "/", query.Encode()
		for name, values := range h { // as the service joins them
			single[name] = strings.Join(values, ",")
		}
		ev["headers"] = single
		ev["requestContext"] = map[string]any{"http": map[string]any{"method": "POST"}}
	}
	event, err := json.Marshal(ev)
	if err != nil {
		panic(err)
	}
	return event
}

var (
	genName  = rapid.StringMatching(`X-T[a-z]{0,2}(-[A-Z][a-z]?)?`).Filter(func(s string) bool { return s == http.CanonicalHeaderKey(s) })
	genValue = rapid.StringMatching(`[!-~é]([ -~é]{0,9}[!-~é])?`)
	genBytes = rapid.SliceOf(rapid.Byte())
)

// No header, parameter or byte of a request is lost on the way to the app.
func TestRequestsKeepEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := rapid.SampledFrom([]Source{RESTAPI, ALB, VPCLatticeV2, HTTPAPI}).Draw(t, "source")
		h := http.Header(rapid.MapOfN(genName, rapid.SliceOfN(genValue, 1, 3), 0, 5).Draw(t, "header"))
		query := url.Values(rapid.MapOfN(rapid.String(), rapid.SliceOfN(rapid.String(), 1, 3), 0, 4).Draw(t, "query"))
		body := genBytes.Draw(t, "body")
		event := httpEvent(source, h, query, body)
		e, err := Parse(event, Invocation{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if e.Source != source || string(e.Body) != string(body) {
			t.Fatalf("%s: body %q has become %q", e.Source, body, e.Body)
		}
		for name, values := range h {
			got := e.Header[name]
			if source == HTTPAPI {
				values = []string{strings.Join(values, ",")}
			}
			if !slices.Equal(got, values) {
				t.Errorf("%s: %q has become %q", name, values, got)
			}
		}
		r, err := e.Request(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil || len(query) > 0 && !reflect.DeepEqual(got, query) {
			t.Errorf("query %q has become %q: %v", query, got, err)
		}
	})
}

// The client gets the status, every header and the very bytes of the app.
func TestResultsKeepEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := rapid.SampledFrom([]Source{RESTAPI, ALB, VPCLatticeV2, HTTPAPI}).Draw(t, "source")
		e, err := Parse(httpEvent(source, nil, nil, nil), Invocation{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header(rapid.MapOfN(genName, rapid.SliceOfN(genValue, 1, 3), 0, 5).Draw(t, "header"))
		if cookies := rapid.SliceOfN(rapid.StringMatching(`[a-z]=[a-z, ]{0,3}[a-z]`), 0, 3).Draw(t, "cookies"); len(cookies) > 0 {
			h["Set-Cookie"] = cookies
		}
		if ct := rapid.SampledFrom([]string{"", "text/plain", "text/html; charset=iso-8859-1", "image/png", "application/json"}).Draw(t, "type"); ct != "" {
			h["Content-Type"] = []string{ct}
		}
		body := rapid.OneOf(genBytes, rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) })).Draw(t, "body")
		status := rapid.SampledFrom([]int{200, 201, 404, 503}).Draw(t, "status")
		result, err := e.Result(status, h, body)
		if err != nil {
			t.Fatal(err)
		}
		a := read(t, result)
		if a.StatusCode != status || string(a.Body) != string(body) {
			t.Fatalf("%d, %q has become %s", status, body, result)
		}
		for name, values := range h {
			var got, want []string
			switch lower := strings.ToLower(name); {
			case a.MultiValueHeaders != nil:
				got, want = a.MultiValueHeaders[lower], values
			case name == "Set-Cookie" && source == HTTPAPI:
				got, want = a.Cookies, values
			case name == "Set-Cookie":
				for name, v := range a.Headers {
					if strings.EqualFold(name, "set-cookie") {
						got = append(got, v)
					}
				}
				slices.Sort(got)
				want = slices.Sorted(slices.Values(values))
			default:
				got, want = []string{a.Headers[lower]}, []string{strings.Join(values, ", ")}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %q has become %q in %s", name, values, got, result)
			}
		}
	})
}
