package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The build line of xcaddy.Dockerfile, run outside Docker, makes a Caddy that
// has the module, for both architectures that Fargate has. It compiles all of
// Caddy twice with other flags than the rest of the tests, so it runs only when it
// is asked for, as .ci/run does.
func TestXcaddyBuild(t *testing.T) {
	if os.Getenv("LAMBDA_DISPATCH_TEST_XCADDY") == "" {
		t.Skip("NOT TESTED: LAMBDA_DISPATCH_TEST_XCADDY is not set, see .ci/run")
	}
	tool := exec.Command("go", "tool", "-n", "xcaddy")
	tool.Dir = filepath.Join(root, "tests", "xcaddy")
	path, err := tool.Output()
	if err != nil {
		t.Fatalf("finding xcaddy: %v", err)
	}
	search := "PATH=" + filepath.Dir(strings.TrimSpace(string(path))) + string(os.PathListSeparator) + os.Getenv("PATH")

	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			line := dockerRun(t, "xcaddy.Dockerfile", "xcaddy build", map[string]string{"TARGETOS": "linux", "TARGETARCH": arch})
			bin := filepath.Join(runInPlace(t, line, search), "caddy")
			mustBeFor(t, bin, arch)
			if arch != runtime.GOARCH || runtime.GOOS != "linux" {
				return
			}
			out, err := exec.Command(bin, "list-modules", "--versions").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "http.handlers.lambda_dispatch") {
				t.Errorf("%v: the module is not in\n%s", err, out)
			}
			built := caddyBin
			caddyBin = bin
			t.Cleanup(func() { caddyBin = built })
			r := startCaddy(t, dispatch(local("command "+demoBin)))
			if status, body := r.get("/ping"); status != 200 || body != "pong" {
				t.Errorf("status %d, body %q", status, body)
			}
		})
	}
}

// What the Dockerfiles pin is what is tested: the router is made of the Caddy
// that go.mod has, by the xcaddy that TestXcaddyBuild runs, and with its Go.
func TestDockerfilesPinWhatIsTested(t *testing.T) {
	for _, pin := range []struct{ file, arg, mod, before string }{
		{"xcaddy.Dockerfile", "CADDY_VERSION", "go.mod", "github.com/caddyserver/caddy/v2 "},
		{"xcaddy.Dockerfile", "XCADDY_VERSION", "tests/xcaddy/go.mod", "github.com/caddyserver/xcaddy "},
		{"xcaddy.Dockerfile", "GO_VERSION", "go.mod", "go "},
		{"lambdaadapter/Dockerfile", "GO_VERSION", "go.mod", "go "},
	} {
		dockerfile, err := os.ReadFile(filepath.Join(root, pin.file))
		if err != nil {
			t.Fatal(err)
		}
		mod, err := os.ReadFile(filepath.Join(root, pin.mod))
		if err != nil {
			t.Fatal(err)
		}
		_, version, ok := strings.Cut(string(dockerfile), "ARG "+pin.arg+"=")
		version, _, _ = strings.Cut(version, "\n")
		if !ok || !strings.Contains(string(mod), pin.before+version) {
			t.Errorf("%s has %s %q, which is not that of %s", pin.file, pin.arg, version, pin.mod)
		}
	}
}
