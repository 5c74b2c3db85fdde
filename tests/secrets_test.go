package tests

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// spellings are the forms in which a secret could show up somewhere.
func spellings(secret []byte) map[string]string {
	text := base64.RawURLEncoding.EncodeToString(secret)
	return map[string]string{
		"raw":                string(secret),
		"quoted":             strings.Trim(strconv.Quote(string(secret)), `"`),
		"as in the event":    text,
		"base64":             base64.RawStdEncoding.EncodeToString(secret),
		"base64 of base64":   base64.RawStdEncoding.EncodeToString([]byte(text)),
		"hex":                hex.EncodeToString(secret),
		"HEX":                strings.ToUpper(hex.EncodeToString(secret)),
		"hex with spaces":    fmt.Sprintf("% x", secret),
		"hex of base64":      hex.EncodeToString([]byte(text)),
		"numbers":            strings.Trim(fmt.Sprintf("%d", secret), "[]"),
		"numbers in JSON":    strings.ReplaceAll(strings.Trim(fmt.Sprintf("%d", secret), "[]"), " ", ","),
		"numbers with 0x":    fmt.Sprintf("%#v", secret)[len("[]byte{"):][:40],
		"URL-encoded":        url.QueryEscape(string(secret)),
		"URL-encoded base64": url.QueryEscape(base64.StdEncoding.EncodeToString(secret)),
	}
}

// leaks looks for every secret in every text and fails the test if it finds one.
// It returns how many secrets it looked for.
func leaks(t *testing.T, events [][]byte, texts map[string]string) int {
	t.Helper()
	for _, payload := range events {
		ev, err := invoke.ParseEvent(payload)
		if err != nil {
			t.Fatal(err)
		}
		for form, spelling := range spellings(ev.Secret) {
			for where, text := range texts {
				if i := strings.Index(text, spelling); i >= 0 {
					begin, end := max(0, i-200), min(len(text), i+200)
					t.Errorf("%s holds a secret, %s: …%q…", where, form, text[begin:end])
				}
			}
		}
	}
	return len(events)
}

// Of a secret there is no trace in anything that the router, the adapter, the
// app or the operator gets to see, at the most talkative settings, whatever
// fails: logs, metrics, profiles, the admin API, answers, the app's environment
// and requests.
func TestSecretsStaySecret(t *testing.T) {
	for _, tc := range []struct{ format, level string }{{"text", "debug"}, {"json", "trace"}} {
		t.Run(tc.format, func(t *testing.T) {
			testSecretsStaySecret(t, "--env", "LAMBDA_DISPATCH_LOG_LEVEL="+tc.level, "--env", "LAMBDA_DISPATCH_LOG_FORMAT="+tc.format)
		})
	}
}

func testSecretsStaySecret(t *testing.T, flags ...string) {
	l := startLocalLambda(t, nil, append(flags, "--listen", "127.0.0.1:0")...)
	api := startInvokeAPI(t, l)
	site := func(advertise string) string {
		return dispatch("min_instances 1", "queue_timeout 10s", "callback {\n listen 127.0.0.1:0\n advertise "+advertise+"\n}", api.invoker())
	}
	r := startCaddy(t, site("auto"))
	texts := make(map[string]string)
	n := 0
	keep := func(what string, resp *http.Response, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil && resp.StatusCode == http.StatusOK {
			t.Logf("%s: %v", what, err)
		}
		n++
		texts[fmt.Sprintf("%s (%d)", what, n)] = fmt.Sprint(resp.Status, resp.Header, string(body))
	}
	site0 := func(path string) {
		t.Helper()
		resp, err := r.client.Get("http://localhost" + path)
		keep("the answer to "+path, resp, err)
	}
	dump := func(when string) {
		t.Helper()
		for _, path := range []string{
			"/lambda_dispatch/pools", "/config/", "/metrics", "/reverse_proxy/upstreams",
			"/debug/pprof/goroutine?debug=2", "/debug/pprof/goroutine?debug=1", "/debug/pprof/heap?debug=1",
			"/debug/pprof/cmdline", "/debug/vars",
		} {
			resp, err := r.admin.Get("http://localhost" + path)
			keep(when+": admin API "+path, resp, err)
		}
	}

	// All is well: the app shows its environment and what it was sent.
	r.await("an instance", func() bool { return r.pool().in("ready") == 1 })
	for _, path := range []string{"/ping", "/env", "/headers", "/", "/no-such-page"} {
		site0(path)
	}
	for _, pid := range descendants(t, os.Getpid()) {
		// Some end meanwhile.
		env, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		args, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		texts[fmt.Sprint("environment and arguments of process ", pid)] = string(env) + string(args)
	}
	dump("ready")

	// An adapter that is refused, one that panics, one that the router loses.
	stolen := make(chan stolenEvent, 10)
	api.steal(stolen)
	if status, body := r.load(strings.Replace(site("auto"), "min_instances 1", "min_instances 2", 1)); status != 200 {
		t.Fatal(body)
	}
	mine := take(t, "an event", stolen)
	wrong := adapterFor(mine.Event, http.NotFoundHandler())
	wrong.Secret = append([]byte("x"), mine.Secret[1:]...)
	_, err := tunnel.Dial(t.Context(), wrong)
	if err == nil {
		t.Fatal("the wrong secret was right")
	}
	texts["error of the adapter that was refused"] = err.Error()
	s, err := tunnel.Dial(t.Context(), adapterFor(mine.Event, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") })))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tunnel.Dial(t.Context(), adapterFor(mine.Event, http.NotFoundHandler()))
	texts["error of the adapter that came twice"] = fmt.Sprint(err)
	r.await("the second instance", func() bool { return r.pool().in("ready") == 2 })
	for _, a := range r.burst(20, "/delay?delay=100") {
		texts[fmt.Sprint("answer beside a panic: ", a.status, a.err)] += a.body
	}
	dump("with a hostile instance")
	_ = s.Close()
	mine.end("made up")

	// An environment that cannot reach the router, and what clients are told.
	api.steal(nil)
	if status, body := r.load(strings.Replace(site("127.0.0.1:1"), "min_instances 1", "min_instances 4", 1)); status != 200 {
		t.Fatal(body)
	}
	r.await("a failed call-back", func() bool { return r.results()["router_unreachable"] > 0 })
	site0("/ping")
	dump("unreachable")
	r.stop()
	texts["the router's log"] = r.logs.String()
	texts["the log of the adapters and of the local Lambda"] = l.logs.String()
	if !strings.Contains(l.logs.String(), "instance ready") {
		t.Errorf("the adapters say nothing:\n%s", l.logs)
	}
	size := 0
	for _, text := range texts {
		size += len(text)
	}
	secrets := leaks(t, api.seen(), texts)
	t.Logf("looked for %d secrets in %d texts of %d KB", secrets, len(texts), size>>10)
	if secrets < 3 {
		t.Errorf("only %d invocations", secrets)
	}
}

// The test above finds what it looks for.
func TestSpellingsOfASecret(t *testing.T) {
	ev := invoke.NewEvent("app", "127.0.0.1:1", "", 1)
	for form, spelling := range spellings(ev.Secret) {
		if len(spelling) < 32 {
			t.Errorf("%s is only %q", form, spelling)
		}
	}
	for _, text := range []string{
		hex.EncodeToString(ev.Secret), fmt.Sprintf("%X", []byte(ev.Secret)), fmt.Sprintf("%d", []byte(ev.Secret)),
		string(ev.Secret), base64.StdEncoding.EncodeToString(ev.Secret), fmt.Sprintf("%#v", []byte(ev.Secret)),
	} {
		found := false
		for _, spelling := range spellings(ev.Secret) {
			found = found || strings.Contains(text, spelling)
		}
		if !found {
			t.Errorf("%q was not found", text)
		}
	}
}
