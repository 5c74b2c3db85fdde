package adapter

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// directWorld is everything around a handler of direct events.
type directWorld struct {
	t       testing.TB
	d       *directHandler
	network string
	address string
	log     *syncBuffer
	given   chan error // why the app was given up

	pieces chan string // what Lambda gets of streamed answers, as it comes
	ends   chan directEnd
}

// directEnd is how Lambda was told of an invocation's end.
type directEnd struct {
	how     string // "response" or "error"
	header  http.Header
	trailer http.Header
	body    string // the first MB of it
	size    int64  // of the whole body
	err     error  // of reading the body
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newDirectWorld has an app that is served by h on loopback.
func newDirectWorld(t testing.TB, h http.HandlerFunc) *directWorld {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveDirect(t, ln, h, appproxy.Config{}, false)
}

func serveDirect(t testing.TB, ln net.Listener, h http.Handler, cfg appproxy.Config, h2 bool) *directWorld {
	t.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: h, Protocols: &protocols}} //nolint:gosec // a test's app
	srv.Start()
	t.Cleanup(srv.Close)
	w := newDirectWorldAt(t, ln.Addr().Network(), ln.Addr().String(), cfg, h2)
	return w
}

func newDirectWorldAt(t testing.TB, network, address string, cfg appproxy.Config, h2 bool) *directWorld {
	t.Helper()
	w := &directWorld{
		t: t, network: network, address: address, log: &syncBuffer{},
		given: make(chan error, 10), pieces: make(chan string, 1000), ends: make(chan directEnd, 100),
	}
	api := httptest.NewServer(http.HandlerFunc(w.answerLambda))
	t.Cleanup(api.Close)
	client, err := lambdaapi.New(api.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	cfg.Network, cfg.Address, cfg.Fail = network, address, failRequest
	var proxy appproxy.App = appproxy.New(cfg)
	if h2 {
		proxy = appproxy.NewH2(cfg)
	}
	t.Cleanup(proxy.Close)
	w.d = &directHandler{
		app: newApp(func(context.Context) error { return nil }), proxy: proxy, api: client,
		probe:    func(ctx context.Context) error { return w.dial(ctx) },
		ask:      func(ctx context.Context) error { return w.dial(ctx) },
		log:      slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		warnings: appproxy.NewLogLimit(),
		function: directevent.Invocation{FunctionName: "f"},
	}
	w.d.giveUp = func(cause error) {
		w.d.app.markDown(cause)
		w.given <- cause
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("adapter's log:\n" + w.log.String())
		}
	})
	return w
}

func (w *directWorld) dial(ctx context.Context) error {
	c, err := new(net.Dialer).DialContext(ctx, w.network, w.address)
	if err != nil {
		return err
	}
	return c.Close()
}

// answerLambda is Lambda's end of the calls that end invocations.
func (w *directWorld) answerLambda(rw http.ResponseWriter, r *http.Request) {
	e := directEnd{how: r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:], header: r.Header}
	var all strings.Builder
	buf := make([]byte, 64<<10)
	for e.err == nil {
		var n int
		n, e.err = r.Body.Read(buf)
		e.size += int64(n)
		if n > 0 && all.Len() < 1<<20 {
			all.Write(buf[:n])
			w.pieces <- string(buf[:n])
		}
	}
	if errors.Is(e.err, io.EOF) {
		e.err = nil
	}
	e.body, e.trailer = all.String(), r.Trailer
	rw.WriteHeader(http.StatusAccepted)
	w.ends <- e
}

// handle serves one event as the loop does, and returns its result.
func (w *directWorld) handle(event string, timeout time.Duration) ([]byte, error) {
	return w.d.handle(w.t.Context(), &lambdaapi.Invocation{
		RequestID: "r-1", Deadline: time.Now().Add(timeout), Event: []byte(event), FunctionARN: "arn:f",
	})
}

// result is what a REST API gets.
type apiResult struct {
	StatusCode        int                 `json:"statusCode"`
	MultiValueHeaders map[string][]string `json:"multiValueHeaders"`
	Headers           map[string]string   `json:"headers"`
	Body              string              `json:"body"`
	IsBase64Encoded   bool                `json:"isBase64Encoded"`
}

func (r apiResult) header(name string) string {
	if v := r.MultiValueHeaders[name]; len(v) > 0 {
		return v[0]
	}
	return r.Headers[name]
}

func (w *directWorld) wantResult(event string, timeout time.Duration) apiResult {
	w.t.Helper()
	result, err := w.handle(event, timeout)
	if err != nil {
		w.t.Fatalf("event %.200s failed: %v", event, err)
	}
	return w.parse(result)
}

func (w *directWorld) parse(result []byte) (r apiResult) {
	w.t.Helper()
	if err := json.Unmarshal(result, &r); err != nil {
		w.t.Fatalf("result %.200s: %v", result, err)
	}
	if r.IsBase64Encoded {
		body, err := base64.StdEncoding.DecodeString(r.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		r.Body = string(body)
	}
	return r
}

// wantEnd serves an event that the handler answers itself.
func (w *directWorld) wantEnd(event string, timeout time.Duration) directEnd {
	w.t.Helper()
	if result, err := w.handle(event, timeout); !errors.Is(err, errAnswered) {
		w.t.Fatalf("event %.200s ended with %s, %v", event, result, err)
	}
	return w.end()
}

func (w *directWorld) end() directEnd {
	w.t.Helper()
	select {
	case e := <-w.ends:
		return e
	case <-time.After(patience):
		w.t.Fatal("timed out waiting for the answer")
		panic("unreachable")
	}
}

// wantLines checks that exactly these lines were logged, each by a few words.
func (w *directWorld) wantLines(want ...string) {
	w.t.Helper()
	lines := strings.Split(strings.TrimSpace(w.log.String()), "\n")
	if len(want) == 0 && lines[0] == "" {
		return
	}
	if len(lines) != len(want) {
		w.t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), w.log.String())
	}
	for i, line := range lines {
		for words := range strings.SplitSeq(want[i], "|") {
			if !strings.Contains(line, words) {
				w.t.Errorf("line %s\nlacks %s", line, words)
			}
		}
	}
}

func restEvent(method, path, body string, header ...string) string {
	h := map[string][]string{"Host": {"example.com"}}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = append(h[header[i]], header[i+1])
	}
	return mustJSON(map[string]any{
		"resource": "/{proxy+}", "path": path, "httpMethod": method, "multiValueHeaders": h, "headers": map[string]string{},
		"queryStringParameters": nil, "multiValueQueryStringParameters": nil, "body": body, "isBase64Encoded": false,
		"requestContext": map[string]any{"stage": "prod", "httpMethod": method, "path": "/prod" + path, "resourcePath": "/{proxy+}", "apiId": "abc", "requestId": "q", "identity": map[string]any{"sourceIp": "192.0.2.1"}},
	})
}

func urlEvent(method, path, body string, header ...string) string {
	h := map[string]string{"host": "abc.lambda-url.us-east-1.on.aws"}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = header[i+1]
	}
	return mustJSON(map[string]any{
		"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "headers": h, "body": body, "isBase64Encoded": false,
		"requestContext": map[string]any{
			"domainName": "abc.lambda-url.us-east-1.on.aws", "apiId": "abc", "stage": "$default", "requestId": "q",
			"http": map[string]any{"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
		},
	})
}

func albEvent(method, path, body string, header ...string) string {
	h := map[string]string{"host": "example.com"}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = header[i+1]
	}
	return mustJSON(map[string]any{
		"requestContext": map[string]any{"elb": map[string]any{"targetGroupArn": "arn:x"}},
		"httpMethod":     method, "path": path, "queryStringParameters": map[string]string{}, "headers": h, "body": body, "isBase64Encoded": false,
	})
}

const sqsEvent = `{"Records":[{"messageId":"1","receiptHandle":"h","body":"x","eventSource":"aws:sqs","awsRegion":"us-east-1"}]}`

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}
