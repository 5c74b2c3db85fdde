package lambdaapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAPI answers everything in one way and writes down what it was asked.
type fakeAPI struct {
	status int
	header http.Header
	body   string

	seen []string
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", r.Method, r.RequestURI)
	var lines []string
	for name, values := range r.Header {
		if name != "User-Agent" {
			lines = append(lines, name+": "+strings.Join(values, "|")+"\n")
		}
	}
	sort.Strings(lines)
	b.WriteString(strings.Join(lines, ""))
	fmt.Fprintf(&b, "\n%s\n", body)
	f.seen = append(f.seen, b.String())
	maps.Copy(w.Header(), f.header)
	w.WriteHeader(f.status)
	_, _ = io.WriteString(w, f.body)
}

func start(t *testing.T, f http.Handler) *Client {
	t.Helper()
	srv := httptest.NewServer(f)
	c, err := New(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		srv.Close()
	})
	return c
}

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
		t.Errorf("on the wire:\n%s\nwant:\n%s", got, want)
	}
}

var failure = &FunctionError{Type: "App.Down", Message: `it said "no"`}

func extension(c *Client) *Extension { return &Extension{client: c, id: "ext-1"} }

func TestOnTheWire(t *testing.T) {
	tests := []struct {
		name   string
		answer fakeAPI
		call   func(context.Context, *Client) error
	}{
		{"response", fakeAPI{status: 202}, func(ctx context.Context, c *Client) error {
			return c.Respond(ctx, "a/b", []byte(`{"x":1}`))
		}},
		{"response_empty", fakeAPI{status: 202}, func(ctx context.Context, c *Client) error {
			return c.Respond(ctx, "r-1", nil)
		}},
		{"error", fakeAPI{status: 202}, func(ctx context.Context, c *Client) error {
			return c.Fail(ctx, "r-1", failure)
		}},
		{"init_error", fakeAPI{status: 202}, func(ctx context.Context, c *Client) error {
			return c.InitError(ctx, failure)
		}},
		{"extension_init_error", fakeAPI{status: 202}, func(ctx context.Context, c *Client) error {
			return extension(c).InitError(ctx, failure)
		}},
		{"extension_exit_error", fakeAPI{status: 202}, func(ctx context.Context, c *Client) error {
			return extension(c).ExitError(ctx, failure)
		}},
		{"next", fakeAPI{status: 200, header: http.Header{"Lambda-Runtime-Aws-Request-Id": {"r-1"}}}, func(ctx context.Context, c *Client) error {
			_, err := c.Next(ctx)
			return err
		}},
		{"restore_next", fakeAPI{status: 200}, func(ctx context.Context, c *Client) error {
			return c.RestoreNext(ctx)
		}},
		{"restore_error", fakeAPI{status: 202}, func(ctx context.Context, c *Client) error {
			return c.RestoreError(ctx, failure)
		}},
		{"event_next", fakeAPI{status: 200, body: `{"eventType":"INVOKE"}`}, func(ctx context.Context, c *Client) error {
			_, err := extension(c).Next(ctx)
			return err
		}},
		{"register", fakeAPI{status: 200, header: http.Header{"Lambda-Extension-Identifier": {"ext-1"}}, body: `{}`}, func(ctx context.Context, c *Client) error {
			_, err := c.Register(ctx, "lambdaadapter", EventShutdown)
			return err
		}},
		{"register_internal", fakeAPI{status: 200, header: http.Header{"Lambda-Extension-Identifier": {"ext-1"}}, body: `{}`}, func(ctx context.Context, c *Client) error {
			_, err := c.Register(ctx, "wrapper")
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.call(t.Context(), start(t, &tt.answer)); err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name, strings.Join(tt.answer.seen, ""))
		})
	}
}

func TestNext(t *testing.T) {
	f := &fakeAPI{status: 200, body: `{"event":1}`, header: http.Header{
		"Lambda-Runtime-Aws-Request-Id":       {"r-1"},
		"Lambda-Runtime-Deadline-Ms":          {"1795389408063"},
		"Lambda-Runtime-Invoked-Function-Arn": {"arn:aws:lambda:eu-central-1:1:function:f:live"},
		"Lambda-Runtime-Trace-Id":             {"Root=1-2-3;Sampled=1"},
		"Lambda-Runtime-Client-Context":       {`{"custom":{}}`},
		"Lambda-Runtime-Cognito-Identity":     {`{"cognitoIdentityId":"i"}`},
		"Lambda-Runtime-Aws-Tenant-Id":        {"blue"},
	}}
	got, err := start(t, f).Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &Invocation{
		RequestID: "r-1", Deadline: time.UnixMilli(1795389408063), FunctionARN: "arn:aws:lambda:eu-central-1:1:function:f:live",
		TraceID: "Root=1-2-3;Sampled=1", ClientContext: `{"custom":{}}`, CognitoIdentity: `{"cognitoIdentityId":"i"}`,
		TenantID: "blue", Event: []byte(`{"event":1}`),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestNextWithUnknownLength(t *testing.T) {
	event := strings.Repeat("x", 1<<20)
	c := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", "r-1")
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, event)
	}))
	got, err := c.Next(t.Context())
	if err != nil || string(got.Event) != event || !got.Deadline.IsZero() {
		t.Errorf("%d bytes, %v", len(got.Event), err)
	}
}

func TestNextRefusesNonsense(t *testing.T) {
	id := http.Header{"Lambda-Runtime-Aws-Request-Id": {"r-1"}}
	tests := map[string]struct {
		api        fakeAPI
		identified bool // the invocation can still be answered
	}{
		"no request ID": {fakeAPI{status: 200}, false},
		"bad deadline": {fakeAPI{status: 200, header: http.Header{
			"Lambda-Runtime-Aws-Request-Id": {"r-1"}, "Lambda-Runtime-Deadline-Ms": {"soon"},
		}}, true},
		"event too large": {fakeAPI{status: 200, header: id, body: strings.Repeat("x", maxEvent+1)}, true},
		"gone":            {fakeAPI{status: 410}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inv, err := start(t, &tt.api).Next(t.Context())
			if err == nil || (inv != nil) != tt.identified {
				t.Errorf("invocation %v, error %v", inv, err)
			}
		})
	}
}

func TestErrorsHaveTheirType(t *testing.T) {
	f := &fakeAPI{status: 403, body: `{"errorMessage":"SHUTDOWN: not allowed","errorType":"Extension.InvalidEventType"}`}
	c := start(t, f)
	_, err := c.Register(t.Context(), "x", EventShutdown)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != 403 || e.Type != TypeInvalidEventType {
		t.Fatalf("error %#v", err)
	}
	const want = "POST /2020-01-01/extension/register: status 403: Extension.InvalidEventType: SHUTDOWN: not allowed"
	if err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	f.body = "<html>"
	if err := c.Respond(t.Context(), "r-1", nil); err == nil || !strings.HasSuffix(err.Error(), "/response: status 403") {
		t.Errorf("error %v", err)
	}
}

func TestRegister(t *testing.T) {
	f := &fakeAPI{
		status: 200, header: http.Header{"Lambda-Extension-Identifier": {"ext-7"}},
		body: `{"functionName":"f","functionVersion":"3","handler":"h"}`,
	}
	c := start(t, f)
	ext, err := c.Register(t.Context(), "x")
	if err != nil || ext.id != "ext-7" || ext.FunctionName != "f" || ext.FunctionVersion != "3" || ext.Handler != "h" {
		t.Errorf("%+v, %v", ext, err)
	}
	f.header = nil
	if _, err := c.Register(t.Context(), "x"); err == nil {
		t.Error("registered without an identifier")
	}
}

func TestExtensionNext(t *testing.T) {
	c := start(t, &fakeAPI{status: 200, body: `{"eventType":"SHUTDOWN","deadlineMs":1795389408063,"shutdownReason":"spindown"}`})
	got, err := extension(c).Next(t.Context())
	want := &ExtensionEvent{Type: EventShutdown, Deadline: time.UnixMilli(1795389408063), ShutdownReason: "spindown"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestLongPollEndsWithTheContext(t *testing.T) {
	asked := make(chan struct{})
	c := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestNoProxy(t *testing.T) {
	// Checked on the transport, because Go does not use proxies for loopback
	// and reads the variables once only.
	c, err := New("169.254.100.1:9001")
	if err != nil {
		t.Fatal(err)
	}
	if c.http.Transport.(*http.Transport).Proxy != nil || c.http.Timeout != 0 {
		t.Error("client has a proxy or a timeout")
	}
}

func TestAddress(t *testing.T) {
	for address, base := range map[string]string{
		"127.0.0.1:9001":        "http://127.0.0.1:9001",
		"http://127.0.0.1:9002": "http://127.0.0.1:9002",
		"http://localhost:1/":   "http://localhost:1",
		"[::1]:9001":            "http://[::1]:9001",
		"":                      "", "https://x": "", "http://x/path": "", "a b": "", "http://x?q": "",
	} {
		c, err := New(address)
		if (err != nil) != (base == "") {
			t.Errorf("%q: error %v", address, err)
		} else if c != nil && c.base != base {
			t.Errorf("%q: base %q, want %q", address, c.base, base)
		}
	}
}
