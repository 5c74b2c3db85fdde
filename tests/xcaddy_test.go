package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The build line of xcaddy.Dockerfile, run outside Docker, makes a Caddy that
// has the module. It compiles all of Caddy with other flags than the rest of
// the tests, so it runs only when it is asked for, as .ci/run does.
func TestXcaddyBuild(t *testing.T) {
	if os.Getenv("LAMBDA_DISPATCH_TEST_XCADDY") == "" {
		t.Skip("NOT TESTED: LAMBDA_DISPATCH_TEST_XCADDY is not set, see .ci/run")
	}
	src, err := os.ReadFile(filepath.Join(root, "xcaddy.Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	dockerfile := strings.ReplaceAll(string(src), "\\\n", " ")
	version := regexp.MustCompile(`ARG CADDY_VERSION=(\S+)`).FindStringSubmatch(dockerfile)
	line := regexp.MustCompile(`(?m)xcaddy build .*$`).FindString(dockerfile)
	if version == nil || line == "" {
		t.Fatal("xcaddy.Dockerfile has no xcaddy build line or pins no version of Caddy")
	}
	bin := filepath.Join(t.TempDir(), "caddy")
	line = strings.NewReplacer("${CADDY_VERSION}", version[1], "=/src", "="+root, "/out/caddy", bin).Replace(line)
	args := strings.Fields(line)

	tool := exec.Command("go", "tool", "-n", args[0])
	tool.Dir = filepath.Join(root, "tests", "xcaddy")
	path, err := tool.Output()
	if err != nil {
		t.Fatalf("finding xcaddy: %v", err)
	}
	cmd := exec.Command(strings.TrimSpace(string(path)), args[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	out, err := exec.Command(bin, "list-modules", "--versions").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "http.handlers.lambda_dispatch") {
		t.Errorf("%v: the module is not in\n%s", err, out)
	}
	caddyBin = bin
	r := startCaddy(t, dispatch(local("command "+demoBin)))
	if status, body := r.get("/ping"); status != 200 || body != "pong" {
		t.Errorf("status %d, body %q", status, body)
	}
}
