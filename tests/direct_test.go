package tests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// urlEvent is a request that came through a Function URL.
func urlEvent(method, path, query string, body []byte, fields ...string) []byte {
	headers := map[string]string{"host": "abc123.lambda-url.eu-central-1.on.aws"}
	for i := 0; i < len(fields); i += 2 {
		headers[strings.ToLower(fields[i])] = fields[i+1]
	}
	event, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query, "headers": headers,
		"requestContext": map[string]any{
			"domainName": "abc123.lambda-url.eu-central-1.on.aws",
			"http":       map[string]string{"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "198.51.100.7"},
		},
		"body": base64.StdEncoding.EncodeToString(body), "isBase64Encoded": true,
	})
	if err != nil {
		panic(err)
	}
	return event
}

// proxyResult is what the HTTP sources expect of a function.
type proxyResult struct {
	StatusCode      int               `json:"statusCode"`
	Headers         map[string]string `json:"headers"`
	Body            string            `json:"body"`
	IsBase64Encoded bool              `json:"isBase64Encoded"`
}

func proxyResultOf(t *testing.T, result string) proxyResult {
	t.Helper()
	var r proxyResult
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		t.Fatalf("%v: %s", err, result)
	}
	if r.IsBase64Encoded {
		body, err := base64.StdEncoding.DecodeString(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		r.Body = string(body)
	}
	return r
}

// One function serves a router and direct events at the same time, each in
// environments of its own: so people move over step by step, and have a way
// back.
func TestDispatchAndDirectEventsInOneFunction(t *testing.T) {
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0")
	r := startCaddy(t, dispatch("max_instances 2", "callback {\n listen 127.0.0.1:0\n}", l.invoker()))
	var both sync.WaitGroup
	both.Go(func() { checkAll(t, r.burst(100, "/delay?delay=20")) })
	both.Go(func() {
		for i := range 50 {
			body := fmt.Appendf(nil, "message %d", i)
			result, failed := l.invoke(t, urlEvent(http.MethodPost, "/echo", "", body))
			if got := proxyResultOf(t, result); failed != "" || got.StatusCode != 200 || got.Body != string(body) {
				t.Errorf("direct event %d: %s %s", i, failed, result)
			}
		}
	})
	both.Wait()
	if n := l.ended("drained"); n != 0 {
		t.Errorf("%d instances ended meanwhile", n)
	}
}

// A direct event is answered by an environment that was an instance before, and
// the other way round.
func TestAnEnvironmentServesBothOneAfterTheOther(t *testing.T) {
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--max-environments", "1")
	r := startCaddy(t, dispatch("idle_timeout 100ms", "callback {\n listen 127.0.0.1:0\n}", l.invoker()))
	for i := range 3 {
		if status, body := r.get("/ping"); status != 200 || body != "pong" {
			t.Fatalf("dispatched %d: status %d, %q", i, status, body)
		}
		r.await("the instance to be let go", func() bool { return len(r.pool().Instances) == 0 })
		result, failed := l.invoke(t, urlEvent(http.MethodGet, "/ping", "", nil))
		if got := proxyResultOf(t, result); failed != "" || got.Body != "pong" {
			t.Fatalf("direct %d: %s %s", i, failed, result)
		}
	}
}

// The first piece of a streamed answer is with the caller while the app still
// works, and an answer that breaks off says so.
func TestDirectAnswersAreStreamed(t *testing.T) {
	l := startDirectApp(t, "AWS_LWA_INVOKE_MODE=response_stream")
	goOn := make(chan struct{})
	l.app.on("", func(x *appExchange) {
		x.readBody()
		x.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
		<-goOn
		x.write("7\r\nsecond\n\r\n0\r\n\r\n")
	})
	s := l.invokeStream(t, urlEvent(http.MethodGet, "/events", "", nil))
	got := s.until("first\n")
	close(goOn)
	got = append(got, s.all()...)
	prelude, body, found := strings.Cut(string(got), strings.Repeat("\x00", 8))
	if !found || body != "first\nsecond\n" || !strings.Contains(prelude, `"content-type":"text/event-stream"`) || s.end.ErrorCode != nil {
		t.Errorf("streamed %q, %s", got, aws.ToString(s.end.ErrorCode))
	}

	l.app.on("", func(x *appExchange) {
		x.readBody()
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning")
		x.keep = false
	})
	s = l.invokeStream(t, urlEvent(http.MethodGet, "/", "", nil))
	got = s.all()
	if !strings.HasSuffix(string(got), "beginning") || aws.ToString(s.end.ErrorCode) == "" {
		t.Errorf("an answer that breaks off: %q, %v", got, s.end)
	}
}

// What goes wrong has a status for HTTP sources and an error type for the others.
func TestDirectFailuresSayWhatTheyAre(t *testing.T) {
	l := startDirectApp(t, "AWS_LAMBDA_LOG_FORMAT=JSON")
	request, queue := urlEvent(http.MethodGet, "/", "", nil), []byte(`{"Records":[{"eventSource":"aws:sqs","body":"x"}]}`)
	for _, tc := range []struct {
		name   string
		status int
		kind   string
		script func(*appExchange)
	}{
		{"the app closes the connection", 502, "LambdaDispatch.AppFailed", func(x *appExchange) { x.readBody(); x.keep = false }},
		{"the app sends no HTTP", 502, "LambdaDispatch.AppFailed", func(x *appExchange) { x.readBody(); x.write("nonsense\r\n\r\n"); x.keep = false }},
		{"the answer is too large", 502, "LambdaDispatch.ResponseTooLarge", func(x *appExchange) {
			x.readBody()
			x.write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 7000000\r\n\r\n" + strings.Repeat("x", 7_000_000))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := strings.Count(l.logs.String(), tc.kind)
			l.app.on("", tc.script)
			result, failed := l.invoke(t, request)
			got := proxyResultOf(t, result)
			if failed != "" || got.StatusCode != tc.status || !strings.Contains(got.Body, tc.kind) {
				t.Errorf("an HTTP source gets %s%s, want status %d and %s", failed, result, tc.status, tc.kind)
			}
			result, failed = l.invoke(t, queue)
			if failed == "" || !strings.Contains(result, `"errorType":"`+tc.kind+`"`) {
				t.Errorf("a queue gets %s%s, want the error %s", failed, result, tc.kind)
			}
			if n := strings.Count(l.logs.String(), tc.kind) - before; n != 2 {
				t.Errorf("%d lines say %s, want one for each event", n, tc.kind)
			}
			l.app.on("", reply("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			if result, failed := l.invoke(t, request); failed != "" || proxyResultOf(t, result).StatusCode != 200 {
				t.Errorf("afterwards: %s%s", failed, result)
			}
		})
	}
}

// An app that does not answer in time is answered for, before Lambda ends the
// environment.
func TestDirectEventsTimeOutInTime(t *testing.T) {
	app := startRawApp(t)
	release := make(chan struct{})
	defer close(release)
	app.on("", func(x *appExchange) { x.readBody(); <-release; x.keep = false })
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--timeout", "3s",
		"--env", fmt.Sprintf("LAMBDA_DISPATCH_PORT=%d", app.port()), "--env", "LAMBDA_DISPATCH_READINESS_PROTOCOL=tcp")
	result, failed := l.invoke(t, urlEvent(http.MethodGet, "/", "", nil))
	if got := proxyResultOf(t, result); failed != "" || got.StatusCode != 504 || !strings.Contains(got.Body, "LambdaDispatch.AppTimeout") {
		t.Errorf("got %s%s", failed, result)
	}
	result, failed = l.invoke(t, []byte(`{"Records":[]}`))
	if failed == "" || !strings.Contains(result, "LambdaDispatch.AppTimeout") {
		t.Errorf("got %s%s", failed, result)
	}
}

// Apps close idle connections, Node after 5 s; and an environment may have been
// frozen for longer between two invocations. No request may suffer.
func TestFrozenConnectionsCostNoDirectEvent(t *testing.T) {
	app := startRawApp(t)
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0", "--env", fmt.Sprintf("LAMBDA_DISPATCH_PORT=%d", app.port()),
		"--env", "LAMBDA_DISPATCH_READINESS_PROTOCOL=tcp")
	closed := make(chan struct{})
	app.on("", func(x *appExchange) {
		x.readBody()
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		go func() { // a moment later, whether the environment is frozen or not
			_ = x.conn.Close()
			closed <- struct{}{}
		}()
	})
	for i := range 50 {
		result, failed := l.invoke(t, urlEvent(http.MethodPost, "/", "", []byte("once")))
		if got := proxyResultOf(t, result); failed != "" || got.Body != "ok" {
			t.Fatalf("event %d: %s%s", i, failed, result)
		}
		select {
		case <-closed:
		case <-time.After(patience):
			t.Fatal("the app did not close the connection")
		}
	}
	if seen := app.saw(""); len(seen) != 50 {
		t.Errorf("the app saw %d of 50 requests", len(seen))
	}
}

// The API Gateway and Function URL limit of 6 MB, and what fits into it.
func TestLargeDirectBodies(t *testing.T) {
	l := startLocalLambda(t, nil, "--listen", "127.0.0.1:0")
	body := []byte(strings.Repeat("\x00\xffbinary\r\n", 400_000)) // 4.0 MB, 5.3 MB in base64
	out, err := l.sdk().Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: aws.String("app"), Payload: urlEvent(http.MethodPost, "/echo", "", body, "Content-Type", "application/octet-stream"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := proxyResultOf(t, string(out.Payload)); got.StatusCode != 200 || got.Body != string(body) {
		t.Errorf("status %d, %d bytes of %d", got.StatusCode, len(got.Body), len(body))
	}
}
