package adapter

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// functionURL is an event of a function URL.
func functionURL(method, target string, headers string) string {
	path, query, _ := strings.Cut(target, "?")
	return fmt.Sprintf(`{"version":"2.0","rawPath":%q,"rawQueryString":%q,"headers":{"host":"h"%s},"requestContext":`+
		`{"domainName":"x.lambda-url.eu-central-1.on.aws","http":{"method":%q,"path":%[1]q}},"isBase64Encoded":false}`, path, query, headers, method)
}

// echoTarget answers with what it was asked, and with the status that it was asked for.
func echoTarget(w http.ResponseWriter, r *http.Request) {
	var status int
	if _, err := fmt.Sscan(r.Header.Get("X-Status"), &status); err != nil {
		_, _ = fmt.Sscan(r.URL.Query().Get("status"), &status)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(max(status, 200))
	_, _ = fmt.Fprintf(w, `"%s %s by %s"`, r.Method, r.RequestURI, r.Header.Get("Authorization"))
}

// TestDispatchAndDirectInOneFunction: a function serves a router's instance and
// direct events, one after the other and, where Lambda wants that, at once.
func TestDispatchAndDirectInOneFunction(t *testing.T) {
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(hello))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil, "AWS_LAMBDA_MAX_CONCURRENCY=2")
	direct := func() {
		t.Helper()
		w.invokeWith(time.Minute, []byte(functionURL("GET", "/direct", "")))
		e := receive(t, w.lambda.ended, "the answer")
		if e.how != "response" || !strings.Contains(string(e.body), `"body":"hello /direct"`) {
			t.Errorf("%s %s", e.how, e.body)
		}
	}
	direct()
	tun := w.tunnel(w.invoke(time.Minute))
	direct()
	resp, err := roundTrip(t, tun, "GET", "/dispatched", nil)
	if body := read(t, resp, err); body != "hello /dispatched" {
		t.Errorf("body %q", body)
	}
	tun.Drain("idle")
	w.wantReason(invoke.ReasonDrained)
	direct()
}

// TestSettingsOfDirectEvents: each setting does what it says, from the
// environment to the app and back.
func TestSettingsOfDirectEvents(t *testing.T) {
	const sqs = `{"Records":[{"eventSource":"aws:sqs","messageId":"1"}]}`
	get := functionURL("GET", "/api/api/x?status=502", `,"x-token":"me","accept-encoding":"gzip"`)
	tests := []struct {
		env   string
		event string
		how   string
		body  []string // what is in the result
	}{
		{"", get, "response", []string{`"statusCode":502`, `GET /api/api/x?status=502 by \"`}},
		{"AWS_LWA_REMOVE_BASE_PATH=/api", get, "response", []string{`GET /api/x?status=502 by`}},
		{"AWS_LWA_AUTHORIZATION_SOURCE=x-token", get, "response", []string{`by me`}},
		{"AWS_LWA_ERROR_STATUS_CODES=500-599", get, "error", []string{`LambdaDispatch.ErrorStatus`, `\"statusCode\":502`}},
		{"LAMBDA_DISPATCH_EVENT_ERROR_STATUS=500-599", get, "response", []string{`"statusCode":502`}},
		{"AWS_LWA_ENABLE_COMPRESSION=true", functionURL("GET", "/"+strings.Repeat("a", 2000), `,"accept-encoding":"gzip"`), "response", []string{`"content-encoding":"gzip"`, `"isBase64Encoded":true`}},
		{"AWS_LWA_INVOKE_MODE=response_stream", get, "response", []string{"\"statusCode\":502", "\x00\x00\x00\x00\x00\x00\x00\x00\"GET /api"}},
		{"", sqs, "response", []string{`"POST /events by "`}},
		{"AWS_LWA_INVOKE_MODE=response_stream", sqs, "response", []string{`"POST /events by "`}},
		{"AWS_LWA_PASS_THROUGH_PATH=in", sqs, "response", []string{`"POST /in by "`}},
		{"LAMBDA_DISPATCH_EVENT_ROUTES=sns=/sns,sqs=/q?status=503", sqs, "response", []string{`"POST /q?status=503 by "`}},
		{"LAMBDA_DISPATCH_EVENT_ROUTES=sqs=/q?status=503;LAMBDA_DISPATCH_EVENT_ERROR_STATUS=500-599", sqs, "error", []string{`LambdaDispatch.ErrorStatus`}},
		{"AWS_LWA_SNAPSTART_AFTER_RESTORE_PATH=/api", functionURL("POST", "/x/..//API/", ""), "response", []string{`"statusCode":403`, "Forbidden"}},
		{"", `{"httpMethod":"G T","path":"/"}`, "response", []string{`"statusCode":400`, "LambdaDispatch.BadEvent"}},
		{"", `{`, "error", []string{"LambdaDispatch.BadEvent"}},
		{"", `null`, "response", []string{`"POST /events by "`}},
	}
	for _, tt := range tests {
		w := newWorld(t)
		w.serveApp(http.HandlerFunc(echoTarget))
		w.adapt(time.Now(), nil, strings.Split(tt.env, ";")...)
		w.invokeWith(time.Minute, []byte(tt.event))
		e := receive(t, w.lambda.ended, "the answer")
		if e.how != tt.how {
			t.Errorf("%q: %s %s", tt.env, e.how, e.body)
		}
		for _, part := range tt.body {
			if !strings.Contains(string(e.body), part) {
				t.Errorf("%q: %q lacks %q", tt.env, e.body, part)
			}
		}
	}
}
