package tests

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// commands returns the lines of all shell blocks of a Markdown file.
func commands(t *testing.T, file string) []string {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	inside := false
	for line := range strings.Lines(string(src)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "```sh":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case inside:
			found = append(found, line)
		}
	}
	return found
}

// Every command of README and docs is known here, with what runs it. A new one
// needs a test.
func TestCommandsInTheDocsAreTested(t *testing.T) {
	known := []string{
		"go run ./cmd/caddy run --config Caddyfile.example", // TestQuickStart
		"go test ./...", // this, and .ci/run
		"xcaddy build v2.11.9 --with github.com/lambda-dispatch/lambda-dispatch",                 // TestXcaddyBuild
		"CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o out/lambdaadapter ./lambdaadapter", // TestAdapterIsSmall
		"go run ./tests/bench -md docs/performance.md",                                           // .ci/run bench
		// TestAdapterIsBuiltAndPublished:
		"go run ./cmd/dist",
		"docker buildx build --platform linux/amd64,linux/arm64 --tag registry.example.com/lambda-dispatch-adapter --push dist/image",
		"aws lambda publish-layer-version --layer-name lambda-dispatch-adapter --compatible-architectures arm64 --zip-file fileb://dist/lambdaadapter-layer-arm64.zip",
		"aws lambda update-function-configuration --function-name shop --handler run.sh --layers arn:aws:lambda:eu-central-1:123456789012:layer:lambda-dispatch-adapter:1 --environment 'Variables={AWS_LAMBDA_EXEC_WRAPPER=/opt/bootstrap,PORT=3000}'",
	}
	docs, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(docs) == 0 {
		t.Fatalf("docs: %v, %v", docs, err)
	}
	for _, file := range append(docs, filepath.Join(root, "README.md")) {
		for _, c := range commands(t, file) {
			if !slices.Contains(known, c) {
				t.Errorf("%s says %q, and no test runs it", filepath.Base(file), c)
			}
		}
	}
}

// The quick start's first command, as it is written, in the checkout.
func TestQuickStart(t *testing.T) {
	for _, addr := range []string{"localhost:8080", "localhost:2019", "127.0.0.1:7443"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Skipf("NOT TESTED: the example needs %s, which is in use: %v", addr, err)
		}
		ln.Close()
	}
	home := t.TempDir()
	cmd := exec.Command("sh", "-c", "exec "+commands(t, filepath.Join(root, "README.md"))[0])
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run and Caddy
	logs := new(logBuffer)
	cmd.Stdout, cmd.Stderr = logs, logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(patience):
			t.Error("it does not end after SIGTERM")
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-exited
		}
		if t.Failed() {
			t.Log(logs)
		}
	})

	var page string
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // it may have to compile
	defer cancel()
	for page == "" {
		select {
		case <-exited:
			t.Fatal("it ended")
		case <-ctx.Done():
			t.Fatal("it does not serve")
		case <-time.After(100 * time.Millisecond):
		}
		resp, err := http.Get("http://localhost:8080/")
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("status %d, %s, %v", resp.StatusCode, body, err)
		}
		page = string(body)
	}
	if !bytes.Contains([]byte(page), []byte("$LATEST")) {
		t.Errorf("the page does not say which environment answered:\n%s", page)
	}
}
