package adapter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// deadAddress is where nothing listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // a test's end
	return ln.Addr().String()
}

// hurry is the deadline of those who meet it: real time, which passes.
const hurry = 4 * time.Second

// TestDirectFailures: each failure has its status, its error type and one line,
// for each form of answer.
func TestDirectFailures(t *testing.T) {
	t.Parallel()
	hangs := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	for name, tt := range map[string]struct {
		app     http.HandlerFunc // nil: none
		change  func(*directHandler)
		body    string
		broken  bool
		timeout time.Duration
		status  int
		kind    string
		line    string
	}{
		"app down": {
			timeout: time.Minute, status: 503, kind: "LambdaDispatch.AppUnavailable", line: "level=ERROR|refused",
		},
		"app not ready": {
			app: echo, timeout: hurry, status: 503, kind: "LambdaDispatch.AppNotReady", line: "level=ERROR|still starting",
			change: func(d *directHandler) {
				d.app.check = func(ctx context.Context) error {
					<-ctx.Done()
					return errors.New("still starting")
				}
			},
		},
		"app crashes": {
			app:     func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			timeout: time.Minute, status: 502, kind: "LambdaDispatch.AppFailed", line: "level=ERROR|closed the connection",
		},
		"app cuts its answer": {
			app: func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Length", "10")
				_, _ = io.WriteString(rw, "x")
			},
			change:  func(d *directHandler) { d.cfg.Stream = false },
			timeout: time.Minute, status: 502, kind: "LambdaDispatch.AppFailed", line: "level=ERROR|cut",
		},
		"app hangs": {
			app: hangs, timeout: hurry, status: 504, kind: "LambdaDispatch.AppTimeout", line: "level=ERROR",
		},
		"broken event": {
			app: echo, broken: true, timeout: time.Minute, status: 400, kind: "LambdaDispatch.BadEvent", line: "level=WARN",
		},
		"oversize event": {
			app: echo, body: strings.Repeat("x", 6<<20), timeout: time.Minute, status: 413, kind: "LambdaDispatch.EventTooLarge", line: "level=WARN",
		},
		"oversize answer": {
			app: func(rw http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(rw, `"`+strings.Repeat("x", 6<<20)+`"`)
			},
			change:  func(d *directHandler) { d.cfg.Stream = false },
			timeout: time.Minute, status: 502, kind: "LambdaDispatch.ResponseTooLarge", line: "level=ERROR",
		},
		"endless answer": {
			app: func(rw http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					_, _ = rw.Write(make([]byte, 64<<10))
				}
			},
			change:  func(d *directHandler) { d.cfg.Stream = false },
			timeout: time.Minute, status: 502, kind: "LambdaDispatch.ResponseTooLarge", line: "level=ERROR",
		},
	} {
		for source, event := range map[string]func(string) string{
			"rest-api":     func(body string) string { return restEvent("POST", "/a", body) },
			"function-url": func(body string) string { return urlEvent("POST", "/a", body) },
			"alb":          func(body string) string { return albEvent("POST", "/a", body) },
			"sqs":          func(body string) string { return strings.Replace(sqsEvent, `"x"`, `"`+body+`"`, 1) },
		} {
			for _, stream := range []bool{false, true} {
				if stream && source != "rest-api" && source != "function-url" {
					continue
				}
				t.Run(name+" "+source+map[bool]string{true: " streamed"}[stream], func(t *testing.T) {
					t.Parallel()
					var w *directWorld
					if tt.app != nil {
						w = newDirectWorld(t, tt.app)
					} else {
						w = newDirectWorldAt(t, "tcp", deadAddress(t), appproxy.Config{}, false)
					}
					w.d.cfg.Stream, w.d.cfg.Compress = stream, true
					if tt.change != nil {
						tt.change(w.d)
					}
					event := strings.Replace(event(tt.body), `"rawQueryString":""`, `"rawQueryString":"secret=1"`, 1)
					if tt.broken {
						event = strings.Replace(event, `"POST"`, `"P S"`, 2)
						if source == "sqs" {
							event = "{"
						}
					}
					began := time.Now()
					r, fe := w.failure(event, tt.timeout)
					if tt.timeout < time.Minute && time.Since(began) >= tt.timeout {
						t.Errorf("answered after %v, past the deadline", time.Since(began))
					}
					if source == "sqs" {
						if fe.Type != tt.kind || fe.Message == "" {
							t.Errorf("error %+v", fe)
						}
					} else if page := (map[string]string{}); json.Unmarshal([]byte(r.Body), &page) != nil ||
						r.StatusCode != tt.status || page["errorType"] != tt.kind || page["errorMessage"] == "" || len(page) != 2 ||
						r.header("content-type") != "application/json" || r.header("content-encoding") != "" {
						t.Errorf("result %+v", r)
					}
					if strings.Contains(r.Body, "127.0.0.1") {
						t.Errorf("the client sees %s", r.Body)
					}
					line := tt.line + "|error_type=" + tt.kind + "|request_id=r-1"
					if !tt.broken {
						line += "|source=" + source + "|method=POST|path=/"
					}
					w.wantLines(line)
					if strings.Contains(w.log.String(), "secret") {
						t.Error("the log has the query")
					}
				})
			}
		}
	}
}

// failure serves an event that fails, and returns what the client or the
// invoker sees.
func (w *directWorld) failure(event string, timeout time.Duration) (r apiResult, fe lambdaapi.FunctionError) {
	w.t.Helper()
	result, err := w.handle(event, timeout)
	if err == nil {
		return w.parse(result), fe
	}
	if !errors.Is(err, errAnswered) {
		w.t.Fatal(err)
	}
	e := w.end()
	if e.how == "error" {
		if err := json.Unmarshal([]byte(e.body), &fe); err != nil {
			w.t.Fatal(err)
		}
		return r, fe
	}
	head, body, _ := strings.Cut(e.body, strings.Repeat("\x00", 8))
	r = w.parse([]byte(head))
	r.Body = body
	return r, fe
}

// TestDirectDeadlineWithinAStream ends it with trailers before the deadline.
func TestDirectDeadlineWithinAStream(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	w := newDirectWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "begun")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
		close(gone)
	})
	w.d.cfg.Stream = true
	deadline := time.Now().Add(hurry)
	e := w.wantEnd(urlEvent("GET", "/", ""), hurry)
	if time.Now().After(deadline) {
		t.Error("the answer ended after the deadline")
	}
	if _, rest := splitPrelude(t, e.body); rest != "begun" {
		t.Errorf("body %q", rest)
	}
	if fe := trailerError(t, e); fe.Type != "LambdaDispatch.AppTimeout" {
		t.Errorf("error %+v", fe)
	}
	receive(t, gone, "the app to notice")
	w.wantLines("level=ERROR|error_type=LambdaDispatch.AppTimeout|source=function-url")
}

// TestDirectErrorStatusOfTheAdapter: who wants a status to fail the invocation
// wants it of the adapter's answers, too.
func TestDirectErrorStatusOfTheAdapter(t *testing.T) {
	w := newDirectWorld(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	w.d.cfg.ErrorStatus = func(status int) bool { return status >= 500 }
	if _, fe := w.failure(restEvent("GET", "/", ""), time.Minute); fe.Type != "LambdaDispatch.AppFailed" {
		t.Errorf("error %+v", fe)
	}
}

func TestDirectALBTakesOneMegabyte(t *testing.T) {
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain")
		_, _ = rw.Write(bytes.Repeat([]byte("x"), 1<<20))
	})
	if r := w.wantResult(albEvent("GET", "/", ""), time.Minute); r.StatusCode != 502 || !strings.Contains(r.Body, "ResponseTooLarge") {
		t.Errorf("result %d, %d bytes", r.StatusCode, len(r.Body))
	}
	if r := w.wantResult(restEvent("GET", "/", ""), time.Minute); r.StatusCode != 200 {
		t.Errorf("result %d", r.StatusCode)
	}
	w.d.cfg.Compress = true // what fits when it is compressed is fine
	if r := w.wantResult(albEvent("GET", "/", "", "accept-encoding", "gzip"), time.Minute); r.StatusCode != 200 || len(decode(t, "gzip", []byte(r.Body))) != 1<<20 {
		t.Errorf("result %d", r.StatusCode)
	}
}

// TestDirectShutdown: a request gets a moment, and then its end is reported.
func TestDirectShutdown(t *testing.T) {
	arrived, gone := make(chan struct{}), make(chan struct{})
	w := newDirectWorld(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan []byte, 1)
	go func() {
		result, err := w.d.handle(ctx, &lambdaapi.Invocation{RequestID: "r-1", Event: []byte(restEvent("GET", "/", ""))})
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	receive(t, arrived, "the request")
	cancel()
	if r := w.parse(receive(t, done, "the result")); r.StatusCode != 503 || !strings.Contains(r.Body, "LambdaDispatch.ShuttingDown") {
		t.Errorf("result %+v", r)
	}
	receive(t, gone, "the app to notice")
}

// TestDirectAppShutsDownFirst: Lambda and the wrapper tell the app to end, which
// is not the app's fault then.
func TestDirectAppShutsDownFirst(t *testing.T) {
	arrived, ctx := make(chan struct{}), t.Context()
	ctx, cancel := context.WithCancel(ctx)
	w := newDirectWorld(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-ctx.Done()
		panic(http.ErrAbortHandler)
	})
	go func() {
		<-arrived
		cancel()
	}()
	result, err := w.d.handle(ctx, &lambdaapi.Invocation{
		RequestID: "r-1", Deadline: time.Now().Add(time.Minute), Event: []byte(restEvent("POST", "/", "")), FunctionARN: "arn:f",
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := w.parse(result); r.StatusCode != 503 || !strings.Contains(r.Body, "LambdaDispatch.ShuttingDown") {
		t.Errorf("result %+v", r)
	}
}

func TestDirectTellsNobodyTwice(t *testing.T) {
	w := newDirectWorldAt(t, "tcp", deadAddress(t), appproxy.Config{}, false)
	w.d.api = rawLambda(t, func(*bufio.Reader) string {
		return "HTTP/1.1 500 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
	})
	if _, err := w.handle(sqsEvent, time.Minute); !errors.Is(err, errAnswered) {
		t.Error(err)
	}
	w.wantLines("error_type=LambdaDispatch.AppUnavailable", "lambda did not take the answer|status 500")
}
