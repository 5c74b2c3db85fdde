package tests

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The events of internal/directevent go the whole way: Invoke API, Runtime API,
// adapter, app, and back. The app is a raw TCP server, so the bytes that it
// reads and the bytes that the caller gets are compared with the golden files.

// eventFixtures is where the events and what becomes of them are.
const eventFixtures = "internal/directevent/testdata"

// eventTrace is the trace header in the golden files.
const eventTrace = "Root=1-6923a1b0-4f2d8c6e1a3b5d7f90e2c4a6;Parent=3c5e7a9b1d2f4068;Sampled=1"

// eventAnswers are the app's answers in the golden files, by their names there.
var eventAnswers = []struct{ name, raw string }{
	{"text", "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n" +
		"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nSet-Cookie: c=3\r\nVary: Accept\r\nVary: Origin\r\n" +
		"Keep-Alive: timeout=5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n" +
		"Content-Length: " + strconv.Itoa(len(eventText)) + "\r\n\r\n" + eventText},
	{"binary", "HTTP/1.1 201 Created\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"3\r\n\x89PN\r\n7\r\nG\r\n\x1a\n\x00\xff\r\n0\r\n\r\n"},
	{"none", "HTTP/1.1 204 No Content\r\nX-Lambda-Http-Content-Encoding: text\r\n\r\n"},
}

const (
	eventText   = "<p class=\"x\">Grüße\n\t\\ \x01 & 😀</p>"
	eventBinary = "\x89PNG\r\n\x1a\n\x00\xff"
)

// directApp is a function whose app is a raw TCP server.
type directApp struct {
	*localLambda
	app *rawApp
}

// startDirectApp starts a local Lambda whose environments have the app of the
// test. An app that nobody asks whether it is ready sees nothing but events.
func startDirectApp(t *testing.T, env ...string) *directApp {
	app := startRawApp(t)
	flags := []string{"--listen", "127.0.0.1:0", "--env", "LAMBDA_DISPATCH_PORT=" + strconv.Itoa(app.port()),
		"--env", "LAMBDA_DISPATCH_READINESS_PROTOCOL=tcp"}
	for _, e := range env {
		flags = append(flags, "--env", e)
	}
	return &directApp{localLambda: startLocalLambda(t, nil, flags...), app: app}
}

// invoke sends an event as the AWS SDK does, and returns the result and the
// function error if there is one.
func (l *localLambda) invoke(t *testing.T, event []byte) (result, failed string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		l.endpoint+"/2015-03-31/functions/app/invocations", bytes.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Amzn-Trace-Id", eventTrace)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("invoke: %v, status %d: %s", err, resp.StatusCode, body)
	}
	return string(body), resp.Header.Get("X-Amz-Function-Error")
}

// fixture is an event with what it becomes.
type fixture struct {
	name    string
	event   []byte
	request string            // what the app reads
	results map[string]string // what the caller gets, by the name of the answer
}

func eventFixture(t *testing.T, path string) fixture {
	t.Helper()
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	base := strings.TrimSuffix(path, ".event.json")
	f := fixture{name: filepath.Base(base), event: read(path), results: make(map[string]string)}
	_, f.request, _ = strings.Cut(string(read(base+".request.golden")), "\n") // the first line is for people
	lines := strings.Split(strings.TrimSuffix(string(read(base+".results.golden")), "\n"), "\n")
	if len(lines)%2 != 0 {
		t.Fatalf("%s.results.golden has %d lines", f.name, len(lines))
	}
	for i := 0; i < len(lines); i += 2 {
		name, err, _ := strings.Cut(strings.TrimPrefix(lines[i], "# "), ": ")
		f.results[name] = lines[i+1]
		if err != "<nil>" {
			f.results[name] = "error"
		}
	}
	return f
}

func eventFixturesOf(t *testing.T) []fixture {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, eventFixtures, "*.event.json"))
	if err != nil || len(paths) < 80 {
		t.Fatalf("%d events, %v", len(paths), err)
	}
	var all []fixture
	for _, path := range paths {
		all = append(all, eventFixture(t, path))
	}
	return all
}

// asRead puts what the app has read in the form of the golden files. What
// differs from one environment to the next is checked and left as it is there.
func asRead(t *testing.T, m *message, f fixture) string {
	t.Helper()
	var host string
	fields := make([]string, 0, len(m.Fields))
	for _, field := range m.Fields {
		name, value, _ := strings.Cut(field, ": ")
		switch http.CanonicalHeaderKey(name) {
		case "Host":
			host = value
		case "Content-Length":
			if value != strconv.Itoa(len(m.Body)) {
				t.Errorf("Content-Length %s for %d bytes", value, len(m.Body))
			}
		case "X-Amzn-Lambda-Context":
			checkLambdaContext(t, value)
			fields = append(fields, lineOf(f.request, "X-Amzn-Lambda-Context: "))
		default:
			fields = append(fields, http.CanonicalHeaderKey(name)+": "+value)
		}
	}
	slices.SortStableFunc(fields, func(a, b string) int { return cmp.Compare(fieldName(a), fieldName(b)) })
	text := m.Start + " HTTP/1.1\nHost: " + host + "\n" + strings.Join(fields, "\n") + "\n"
	switch _, body, _ := strings.Cut(f.request, "\n\n"); {
	case m.Body == string(f.event):
		return text + "\n# the event\n"
	case strings.HasPrefix(body, "# \""):
		return text + fmt.Sprintf("\n# %q\n", m.Body)
	default:
		return text + "\n" + m.Body
	}
}

func lineOf(text, prefix string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSuffix(line, "\n")
		}
	}
	return ""
}

func checkLambdaContext(t *testing.T, value string) {
	t.Helper()
	var c struct {
		RequestID string `json:"request_id"`
		Deadline  int64  `json:"deadline"`
		ARN       string `json:"invoked_function_arn"`
		Trace     string `json:"xray_trace_id"`
		Config    struct {
			Name string `json:"function_name"`
		} `json:"env_config"`
	}
	err := json.Unmarshal([]byte(value), &c)
	left := time.Until(time.UnixMilli(c.Deadline))
	if err != nil || len(c.RequestID) != 36 || left < time.Second || left > time.Hour ||
		!strings.HasSuffix(c.ARN, ":function:app") || c.Trace != eventTrace || c.Config.Name != "app" {
		t.Errorf("%v: the app was told %s", err, value)
	}
}

func TestEveryEventTakesTheWholePath(t *testing.T) {
	l := startDirectApp(t)
	for _, f := range eventFixturesOf(t) {
		t.Run(f.name, func(t *testing.T) {
			for _, answer := range eventAnswers {
				want := f.results[answer.name]
				l.app.on("", reply(answer.raw))
				before := len(l.app.saw(""))
				got, failed := l.invoke(t, f.event)
				if want == "error" != (failed != "") || want != "error" && got != want {
					t.Errorf("%s: the caller got %s (%s), want %s", answer.name, got, failed, want)
				}
				seen := l.app.saw("")[before:]
				if len(seen) != 1 {
					t.Fatalf("%s: the app saw %d requests", answer.name, len(seen))
				}
				if read := asRead(t, &seen[0], f); read != f.request {
					t.Errorf("%s: the app read\n%s\nwant\n%s", answer.name, read, f.request)
				}
			}
		})
	}
}
