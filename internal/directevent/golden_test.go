package directevent

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// golden compares with testdata/name; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path) //nolint:gosec // a name of this file's
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// invocation is what Lambda says about all events of testdata.
var invocation = Invocation{
	RequestID:       "7f3a9c52-0d1e-4b6f-8a77-2c5e9d40b1f3",
	FunctionARN:     "arn:aws:lambda:eu-central-1:111122223333:function:shop:live",
	TraceID:         "Root=1-6923a1b0-4f2d8c6e1a3b5d7f90e2c4a6;Parent=3c5e7a9b1d2f4068;Sampled=1",
	Deadline:        time.UnixMilli(1795482000123),
	FunctionName:    "shop",
	FunctionVersion: "7",
	MemoryMB:        "512",
	LogGroup:        "/aws/lambda/shop",
	LogStream:       "2026/11/24/[7]b9d1",
}

func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "*.event.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no events: %v", err)
	}
	events := make(map[string][]byte)
	for _, path := range paths {
		event, err := os.ReadFile(path) //nolint:gosec // a path of the line above
		if err != nil {
			t.Fatal(err)
		}
		events[strings.TrimSuffix(filepath.Base(path), ".event.json")] = event
	}
	return events
}

// describe writes a request as HTTP/1.1 would have it, after a line about
// where it is from.
func describe(e *Event, event []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# source %s, client %q, streams %t\n", e.Source, e.RemoteAddr, e.Streams())
	fmt.Fprintf(&b, "%s %s HTTP/1.1\nHost: %s\n", e.Method, e.Target, e.Host)
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		for _, v := range e.Header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, v)
		}
	}
	switch {
	case bytes.Equal(e.Body, event):
		b.WriteString("\n# the event\n")
	case utf8.Valid(e.Body):
		fmt.Fprintf(&b, "\n%s", e.Body)
	default:
		fmt.Fprintf(&b, "\n# %q\n", e.Body)
	}
	return b.String()
}

func TestRequests(t *testing.T) {
	for name, event := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			e, err := Parse(event, invocation, Options{})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".request.golden", describe(e, event))
			r, err := e.Request(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.RequestURI != e.Target || r.Host != e.Host || r.ContentLength != int64(len(e.Body)) {
				t.Errorf("request is %s %s, host %s, %d bytes", r.Method, r.RequestURI, r.Host, r.ContentLength)
			}
		})
	}
}

// answers are what an app may say.
var answers = []struct {
	name   string
	status int
	header http.Header
	body   string
}{
	{"text", 200, http.Header{
		"Content-Type": {"text/html; charset=utf-8"}, "Set-Cookie": {"a=1; Path=/", "b=2", "c=3"}, "Vary": {"Accept", "Origin"},
		"Content-Length": {"36"}, "Keep-Alive": {"timeout=5"}, "Connection": {"keep-alive, X-Hop"}, "X-Hop": {"1"},
	}, "<p class=\"x\">Grüße\n\t\\ \x01 & 😀</p>"},
	{"binary", 201, http.Header{"Content-Type": {"image/png"}}, "\x89PNG\r\n\x1a\n\x00\xff"},
	{"none", 204, http.Header{"X-Lambda-Http-Content-Encoding": {"text"}}, ""},
}

func TestResults(t *testing.T) {
	for name, event := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			e, err := Parse(event, invocation, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, a := range answers {
				result, err := e.Result(a.status, a.header, []byte(a.body))
				fmt.Fprintf(&b, "# %s: %v\n%s\n", a.name, err, result)
				if !e.Streams() {
					continue
				}
				prelude, err := e.Prelude(a.status, a.header)
				fmt.Fprintf(&b, "# %s, streamed: %v\n%q\n", a.name, err, prelude)
			}
			golden(t, name+".results.golden", b.String())
		})
	}
}
