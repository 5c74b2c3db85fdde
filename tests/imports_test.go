package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/lambda-dispatch/lambda-dispatch"

// mayImport says for each package which other packages of this module it may
// import. A package that is not here may not exist.
var mayImport = map[string][]string{
	"": {"caddymodule"}, // what xcaddy is given
	"caddymodule": {"internal/pool", "internal/scale", "internal/tunnel", "internal/invoke", "internal/httprules",
		"internal/invoke/awslambda", "internal/locallambda", "internal/adapter", "internal/demoapp", "internal/whereami"},
	"cmd/caddy":     {"caddymodule"},
	"cmd/dist":      {"lambdaadapter/layer"},
	"examples/demo": {"internal/demoapp", "internal/whereami"},
	"internal/adapter": {"internal/adapter/appproxy", "internal/directevent", "internal/httprules", "internal/lambdaapi", "internal/tunnel",
		"internal/invoke"},
	"internal/adapter/appproxy": {"internal/httprules", "internal/tunnel"},
	"internal/demoapp":          nil,
	"internal/directevent":      {"internal/httprules"},
	"internal/dispatch":         nil,
	"internal/httprules":        nil,
	"internal/invoke":           nil,
	"internal/invoke/awslambda": {"internal/invoke"},
	"internal/lambdaapi":        nil,
	"internal/locallambda":      nil,
	"internal/pool":             {"internal/dispatch", "internal/httprules", "internal/scale", "internal/invoke", "internal/tunnel"},
	"internal/scale":            nil,
	"internal/tunnel":           {"internal/httprules"},
	"internal/whereami":         nil,
	"lambdaadapter":             {"internal/adapter"},
	"lambdaadapter/layer":       nil,
	"tests":                     nil,
	"tests/bench":               nil,
}

const eventstream = "github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"

// golist runs go list in the checkout and returns its lines.
func golist(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

func TestImportsPointOneWay(t *testing.T) {
	for _, pkg := range golist(t, "./...") {
		name := strings.TrimPrefix(strings.TrimPrefix(pkg, module), "/")
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("package %s has no place in the layout: see docs/architecture.md", name)
			continue
		}
		for _, imp := range golist(t, "-f", `{{join .Imports "\n"}}`, "./"+name) {
			own, isOwn := strings.CutPrefix(imp, module+"/")
			switch {
			case isOwn && !slices.Contains(allowed, own):
				t.Errorf("%s must not import %s", name, own)
			case strings.HasPrefix(imp, "github.com/caddyserver/") && name != "caddymodule" && name != "cmd/caddy":
				t.Errorf("%s must not know Caddy, but imports %s", name, imp)
			case name == "internal/locallambda" && strings.HasPrefix(imp, eventstream):
				// The framing of streamed responses, which knows no AWS service.
			case strings.HasPrefix(imp, "github.com/aws/") && name != "internal/invoke/awslambda" && name != "internal/whereami":
				t.Errorf("%s must not know the AWS SDK, but imports %s", name, imp)
			}
		}
	}
}

// pureRooms say what a room may import that does no I/O, starts no goroutine
// and reads no clock: dispatch and scale are run by the live router and by
// simulators alike, and what directevent makes of an event depends on nothing else.
var pureRooms = map[string][]string{
	"./internal/dispatch": {"cmp", "container/heap", "errors", "fmt", "iter", "math", "math/bits", "slices", "sort", "strconv", "time"},
	"./internal/scale":    {"cmp", "container/heap", "errors", "fmt", "iter", "math", "math/bits", "slices", "sort", "strconv", "time"},
	// net/http for its types, io for the reader of a request's body.
	"./internal/directevent": {"bytes", "context", "encoding/base64", "encoding/binary", "errors", "fmt", "io", "math/bits", "net/http", "net/url",
		"slices", "strconv", "strings", "time", "unicode/utf16", "unicode/utf8", module + "/internal/httprules"},
}

func TestPureRoomsTouchNothing(t *testing.T) {
	for pkg, allowed := range pureRooms {
		for _, imp := range golist(t, "-f", `{{join .Imports "\n"}}`, pkg) {
			if !slices.Contains(allowed, imp) {
				t.Errorf("%s must be pure, but imports %s", pkg, imp)
			}
		}
		for _, file := range goFiles(t, filepath.Join(root, pkg)) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, banned := range []string{"time.Now(", "time.Since(", "time.Until(", "time.Sleep(", "time.After", "time.NewT", "\tgo ", "sync.", "chan "} {
				if strings.Contains(string(src), banned) {
					t.Errorf("%s must be pure, but has %q", filepath.Base(file), banned)
				}
			}
		}
	}
}

func goFiles(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	return slices.DeleteFunc(all, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
}

// The adapter is uploaded to, and started in, every environment.
func TestAdapterIsSmall(t *testing.T) {
	for _, dep := range golist(t, "-deps", "./lambdaadapter") {
		for _, heavy := range []string{"github.com/caddyserver/", "github.com/aws/", "go.uber.org/zap", "github.com/prometheus/", "golang.org/x/net/"} {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("the adapter links %s", dep)
			}
		}
	}
	bin := filepath.Join(t.TempDir(), "lambdaadapter")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./lambdaadapter")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > 8_000_000 {
		t.Errorf("the adapter has %d bytes, more than 8 MB", info.Size())
	}
}
