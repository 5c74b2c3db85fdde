package adapter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "text/plain")
	_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.URL, body)
}

func TestDirect(t *testing.T) {
	socket, err := net.Listen("unix", filepath.Join(t.TempDir(), "app.sock"))
	if err != nil {
		t.Fatal(err)
	}
	tcp := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	socket2, err := net.Listen("unix", filepath.Join(t.TempDir(), "app2.sock"))
	if err != nil {
		t.Fatal(err)
	}
	worlds := map[string]*directWorld{
		"tcp":      serveDirect(t, tcp(), http.HandlerFunc(echo), appproxy.Config{}, false),
		"unix":     serveDirect(t, socket, http.HandlerFunc(echo), appproxy.Config{}, false),
		"h2c":      serveDirect(t, tcp(), http.HandlerFunc(echo), appproxy.Config{}, true),
		"unix h2c": serveDirect(t, socket2, http.HandlerFunc(echo), appproxy.Config{}, true),
	}
	for name, w := range worlds {
		t.Run(name, func(t *testing.T) {
			for source, event := range map[string]string{
				"POST example.com /a hello":                     restEvent("POST", "/a", "hello"),
				"POST abc.lambda-url.us-east-1.on.aws /a hello": urlEvent("POST", "/a", "hello"),
				"PUT example.com /a hello":                      albEvent("PUT", "/a", "hello"),
				"GET example.com /a ":                           restEvent("GET", "/a", ""),
			} {
				r := w.wantResult(event, time.Minute)
				if r.StatusCode != 200 || r.Body != source || r.header("content-type") != "text/plain" || r.IsBase64Encoded {
					t.Errorf("%s: result %+v", source, r)
				}
			}
			w.wantLines()
		})
	}
}

func TestDirectEventsThatAreNotHTTP(t *testing.T) {
	const failures = `{"batchItemFailures": [{"itemIdentifier":"1"}] , "x":1.50}`
	w := newDirectWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != "POST" || r.URL.Path != "/queue" || string(body) != sqsEvent {
			t.Errorf("app got %s %s %s", r.Method, r.URL, body)
		}
		_, _ = io.WriteString(rw, failures)
	})
	w.d.cfg.Compress, w.d.cfg.Stream = true, true
	w.d.cfg.Options.Routes = map[string]string{"sqs": "/queue"}
	if result, err := w.handle(sqsEvent, time.Minute); err != nil || string(result) != failures {
		t.Errorf("result %s, %v", result, err)
	}
	w.wantLines()
}

func TestDirectStatusOfEvents(t *testing.T) {
	const body = `{"message":"<no> \"way\""}`
	status := 0
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, body)
	})
	is5xx := func(status int) bool { return status >= 500 }
	for _, tt := range []struct {
		name   string
		cfg    directConfig
		event  string
		status int
		fails  bool
		line   string
	}{
		{"passed on", directConfig{}, sqsEvent, 500, false, "level=WARN|status=500|source=sqs|method=POST|path=/events|request_id=r-1"},
		{"fine", directConfig{}, sqsEvent, 202, false, ""},
		{"all events", directConfig{ErrorStatus: is5xx}, sqsEvent, 502, true, "level=WARN|status=502|error_type=LambdaDispatch.ErrorStatus"},
		{"no http", directConfig{EventErrorStatus: is5xx}, sqsEvent, 502, true, "level=WARN|status=502|error_type=LambdaDispatch.ErrorStatus"},
		{"no http, another", directConfig{EventErrorStatus: is5xx}, sqsEvent, 404, false, "level=WARN|status=404"},
		{"http", directConfig{ErrorStatus: is5xx}, restEvent("GET", "/", ""), 502, true, "level=WARN|status=502|source=rest-api"},
		{"http streamed", directConfig{ErrorStatus: is5xx, Stream: true, Compress: true}, restEvent("GET", "/", "", "Accept-Encoding", "gzip"), 502, true, "level=WARN|status=502|source=rest-api"},
		{"http, not asked for", directConfig{EventErrorStatus: is5xx}, restEvent("GET", "/", ""), 502, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t, w.log.b = t, bytes.Buffer{}
			w.d.cfg, status = tt.cfg, tt.status
			if tt.fails {
				e := w.wantEnd(tt.event, time.Minute)
				var fe lambdaapi.FunctionError
				if err := json.Unmarshal([]byte(e.body), &fe); err != nil || e.how != "error" || fe.Type != "LambdaDispatch.ErrorStatus" {
					t.Errorf("ended with %+v", e)
				}
				if want := `{"statusCode":502,"body":"{\"message\":\"<no> \\\"way\\\"\"}"}`; fe.Message != want {
					t.Errorf("message %s, want %s", fe.Message, want)
				}
			} else if _, err := w.handle(tt.event, time.Minute); err != nil {
				t.Error(err)
			}
			if tt.line == "" {
				w.wantLines()
			} else {
				w.wantLines(tt.line)
			}
		})
	}
}

func TestDirectAuthorizationSource(t *testing.T) {
	w := newDirectWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, r.Header.Get("Authorization")+"|"+r.Header.Get("X-Auth"))
	})
	w.d.cfg.Options.AuthorizationSource = "x-auth"
	if r := w.wantResult(restEvent("GET", "/", "", "X-Auth", "secret", "Authorization", "IAM"), time.Minute); r.Body != "secret|" {
		t.Errorf("app saw %q", r.Body)
	}
	w.wantLines()
	for range 150 { // a burst of warnings is bounded
		if r := w.wantResult(restEvent("GET", "/", "", "Authorization", "IAM"), time.Minute); r.Body != "IAM|" {
			t.Fatalf("app saw %q", r.Body)
		}
	}
	if n := strings.Count(w.log.String(), "level=WARN msg=\"request has no authorization source\" request_id=r-1 source=rest-api"); n < 100 || n > 145 {
		t.Errorf("%d warnings", n)
	}
}

// TestDirectConcurrently is an environment with many invocations at once.
func TestDirectConcurrently(t *testing.T) {
	w := newDirectWorld(t, echo)
	w.d.cfg.Compress = true
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for range 20 {
				body := strings.Repeat(strconv.Itoa(i), 1000)
				coding := codings[i%len(codings)]
				result, err := w.handle(restEvent("POST", "/a", body, "Accept-Encoding", coding), time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				r := w.parse(result)
				if got := decode(t, r.header("content-encoding"), []byte(r.Body)); got != "POST example.com /a "+body || r.header("content-encoding") != coding {
					t.Errorf("%s: %d bytes", r.header("content-encoding"), len(got))
				}
			}
		})
	}
	wg.Wait()
}

// The line about an event has the invocation's trace, if Lambda traces it.
func TestDirectLineHasTheTrace(t *testing.T) {
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) })
	for trace, want := range map[string]string{
		"": "",
		"Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1": "trace_id=1-67891233-abcdef012345678912345678",
	} {
		w.log.b = bytes.Buffer{}
		_, err := w.d.handle(t.Context(), &lambdaapi.Invocation{
			RequestID: "r-1", Deadline: time.Now().Add(time.Minute), Event: []byte(sqsEvent), TraceID: trace,
		})
		if err != nil {
			t.Fatal(err)
		}
		w.wantLines("request_id=r-1|" + want)
		if want == "" && strings.Contains(w.log.String(), "trace_id") {
			t.Errorf("line %s", w.log.String())
		}
	}
}
