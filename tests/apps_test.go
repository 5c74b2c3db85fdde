package tests

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Real web servers that know nothing of Lambda, started through the adapter in
// the local Lambda. .ci/run installs them and sets the variables.
func TestRealApps(t *testing.T) {
	for _, tc := range []struct{ name, needs, command string }{
		{"express", "LAMBDA_DISPATCH_TEST_EXPRESS_DIR", "node " + os.Getenv("LAMBDA_DISPATCH_TEST_EXPRESS_DIR") + "/server.mjs"},
		{"fastapi", "LAMBDA_DISPATCH_TEST_PYTHON", os.Getenv("LAMBDA_DISPATCH_TEST_PYTHON") + " ../examples/fastapi/app.py"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if os.Getenv(tc.needs) == "" {
				t.Skipf("NOT TESTED: %s is not set, see .ci/run", tc.needs)
			}
			command := strings.Replace(tc.command, "../", root+"/", 1)
			r := startCaddy(t, dispatch("max_concurrent 10", "idle_timeout 2s",
				local("command "+command, "env LAMBDA_DISPATCH_READINESS_PATH /health")))

			if status, body := r.get("/ping"); status != 200 || body != "pong" {
				t.Errorf("ping: status %d, body %q", status, body)
			}
			checkAll(t, r.burst(60, "/delay?delay=50"))

			sent := make([]byte, 3<<20)
			if _, err := rand.Read(sent); err != nil {
				t.Fatal(err)
			}
			resp, got, err := r.do(http.MethodPost, "/echo", bytes.NewReader(sent))
			if err != nil || resp.StatusCode != 200 || got != string(sent) {
				t.Errorf("echo: %v, %v, %d bytes of %d", resp, err, len(got), len(sent))
			}

			req, err := http.NewRequest(http.MethodGet, "http://localhost/headers", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Test", "a value")
			resp, err = r.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			var headers map[string]any
			if err := json.Unmarshal(body, &headers); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			if headers["x-test"] != "a value" || headers["via"] == nil {
				t.Errorf("the app saw %v", headers)
			}

			r.await("all environments to be let go", func() bool { return len(r.pool().Instances) == 0 })
			if started, ended := r.invocations(); started != ended {
				t.Errorf("%d invocations started, %d ended", started, ended)
			}
		})
	}
}

// The demo app's routes come through unchanged.
func TestDemoApp(t *testing.T) {
	r := startCaddy(t, dispatch(local("command "+demoBin)))
	image, err := os.ReadFile(filepath.Join(root, "go.mod")) // something to send
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path   string
		status int
		body   func(string) bool
	}{
		{"/", 200, func(b string) bool { return strings.Contains(b, "<html") }},
		{"/ping", 200, func(b string) bool { return b == "pong" }},
		{"/health", 200, func(string) bool { return true }},
		{"/odd-status", 519, func(string) bool { return true }},
		{"/public/silly-test-image.jpg", 200, func(b string) bool { return len(b) == 168_161 && strings.HasPrefix(b, "\xff\xd8\xff") }},
	} {
		status, body := r.get(tc.path)
		if status != tc.status || !tc.body(body) {
			t.Errorf("%s: status %d, %d bytes", tc.path, status, len(body))
		}
	}
	req, err := http.NewRequest(http.MethodPost, "http://localhost/echo", bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/x-go-mod")
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	if !bytes.Equal(got, image) || resp.Header.Get("Content-Type") != "text/x-go-mod" {
		t.Errorf("echo: %d bytes of %d, type %s", len(got), len(image), resp.Header.Get("Content-Type"))
	}
}
