package main

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/lambdaadapter/layer"
)

// built is what the command makes from this checkout, in the test's directory.
func built(t *testing.T, args ...string) string {
	t.Helper()
	out := t.TempDir()
	var report, errs strings.Builder
	if err := run(append([]string{"-o", out, "-version", "v1.2.3-test"}, args...), &report, &errs); err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	for _, f := range files(t, out) {
		if !strings.Contains(report.String(), filepath.Join(out, f)) {
			t.Errorf("%s is not in the report:\n%s", f, &report)
		}
	}
	return out
}

// files are the names of all files below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func read(t *testing.T, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDist(t *testing.T) {
	out := built(t)
	want := []string{"image/Dockerfile", "image/amd64/lambdaadapter", "image/arm64/lambdaadapter",
		"lambdaadapter-layer-amd64.zip", "lambdaadapter-layer-arm64.zip"}
	if got := files(t, out); !slices.Equal(got, want) {
		t.Fatalf("files %q, want %q", got, want)
	}
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		adapter := checkLayer(t, filepath.Join(out, layerFile(arch)))
		if !bytes.Equal(adapter, read(t, out, imageFile(arch))) {
			t.Errorf("%s: the layer and the image have different adapters", arch)
		}
		checkBinary(t, adapter, machine)
		if info, err := os.Stat(filepath.Join(out, imageFile(arch))); err != nil || info.Mode() != 0o755 || !info.ModTime().Equal(epoch) {
			t.Errorf("%s in the image: %v, %v, %v", arch, info.Mode(), info.ModTime(), err)
		}
	}
	if runtime.GOOS == "linux" && slices.Contains(architectures, runtime.GOARCH) {
		version, err := exec.Command(filepath.Join(out, imageFile(runtime.GOARCH)), "--version").Output()
		if string(version) != "lambdaadapter v1.2.3-test\n" || err != nil {
			t.Errorf("--version says %q, %v", version, err)
		}
	}
	t.Run("same bytes elsewhere", func(t *testing.T) { sameElsewhere(t, out) })
	t.Run("image", func(t *testing.T) { checkImage(t, filepath.Join(out, "image")) })
}

// checkLayer checks a layer as Lambda unpacks it, and returns its adapter.
func checkLayer(t *testing.T, file string) []byte {
	t.Helper()
	zr, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	content := map[string][]byte{}
	var names []string
	for _, f := range zr.File {
		names = append(names, f.Name)
		if f.Mode() != 0o755 || !f.Modified.Equal(epoch) {
			t.Errorf("%s: %s has mode %v and time %v", filepath.Base(file), f.Name, f.Mode(), f.Modified)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if content[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"bootstrap", "extensions/lambdaadapter"}; !slices.Equal(names, want) {
		t.Fatalf("%s has %q, want %q", filepath.Base(file), names, want)
	}
	if !bytes.Equal(content["bootstrap"], layer.Bootstrap) {
		t.Errorf("%s has another bootstrap", filepath.Base(file))
	}
	return content["extensions/lambdaadapter"]
}

func checkBinary(t *testing.T, binary []byte, machine elf.Machine) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != machine || f.Type != elf.ET_EXEC {
		t.Errorf("%v %v, want an executable for %v", f.Machine, f.Type, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%v: it is not static: %v", machine, p.Type)
		}
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		t.Errorf("%v: it is not stripped", machine)
	}
	if len(binary) > maxAdapter {
		t.Errorf("%v: %d bytes", machine, len(binary))
	}
}

// sameElsewhere builds from a copy of the sources, in another directory and
// with other settings of Go, and compares with what is in out.
func sameElsewhere(t *testing.T, out string) {
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	list.Dir = filepath.Join("..", "..")
	names, err := list.Output()
	if err != nil {
		t.Skipf("NOT TESTED: this is no checkout: %v", err)
	}
	copied := filepath.Join(t.TempDir(), "a", "copy")
	for name := range strings.Lines(string(names)) {
		name = strings.TrimSpace(name)
		if !strings.HasSuffix(name, ".go") && !strings.HasPrefix(name, "go.") && !strings.HasPrefix(name, "internal/") {
			continue
		}
		content, err := os.ReadFile(filepath.Join("..", "..", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, and git has not been told yet
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(copied, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"TZ": "Asia/Tokyo", "GOAMD64": "v3", "GOARM64": "v9.0", "GOFLAGS": "-buildvcs=auto", "CGO_ENABLED": "1"} {
		t.Setenv(name, value)
	}
	again := t.TempDir()
	d := &dist{dir: copied, out: again, version: "v1.2.3-test", limit: maxAdapter, report: io.Discard}
	if err := d.make(architectures); err != nil {
		t.Fatal(err)
	}
	for _, name := range files(t, out) {
		if !bytes.Equal(read(t, out, name), read(t, again, name)) {
			t.Errorf("%s has other bytes", name)
		}
	}
}

// checkImage reads the context of the image as a build for each architecture
// would.
func checkImage(t *testing.T, context string) {
	var from, copies []string
	for line := range strings.Lines(string(read(t, context, "Dockerfile"))) {
		switch words := strings.Fields(line); {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
		case words[0] == "FROM":
			from = append(from, words[1:]...)
		case words[0] == "COPY":
			copies = append(copies, words[1:]...)
		case line != "ARG TARGETARCH\n" && line != `ENTRYPOINT ["/lambdaadapter"]`+"\n":
			t.Errorf("unexpected: %s", line)
		}
	}
	if !slices.Equal(from, []string{"scratch"}) || len(copies) != 3 || copies[0] != "--chmod=0755" || copies[2] != "/lambdaadapter" {
		t.Fatalf("FROM %q COPY %q", from, copies)
	}
	for _, arch := range architectures {
		source := strings.ReplaceAll(copies[1], "${TARGETARCH}", arch)
		if len(read(t, context, source)) == 0 {
			t.Errorf("%s is empty", source)
		}
	}
}

func TestDistForOneArchitecture(t *testing.T) {
	out := built(t, "-arch", "amd64")
	want := []string{"image/Dockerfile", "image/amd64/lambdaadapter", "lambdaadapter-layer-amd64.zip"}
	if got := files(t, out); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}

	// Those of an earlier run for both do not stay.
	for _, name := range []string{"lambdaadapter-layer-arm64.zip", "image/arm64/lambdaadapter", "somebody.else"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(out, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, name), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &dist{dir: ".", out: out, version: "v1.2.3-test", limit: maxAdapter, report: io.Discard}
	if err := d.make([]string{"amd64"}); err != nil {
		t.Fatal(err)
	}
	if got := files(t, out); !slices.Equal(got, append(want, "somebody.else")) {
		t.Errorf("files %q after a second run, want %q", got, want)
	}
}

func TestRefusals(t *testing.T) {
	out := t.TempDir()
	d := &dist{dir: ".", out: out, version: "v1.2.3-test", limit: 1_000_000, report: io.Discard}
	if err := d.make([]string{"amd64"}); err == nil || !strings.Contains(err.Error(), "more than 1000000") {
		t.Errorf("too large: %v", err)
	}
	d = &dist{dir: ".", out: out, version: "v1 -X main.a=b", limit: maxAdapter, report: io.Discard}
	if err := d.make([]string{"amd64"}); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("a version of several words: %v", err)
	}
	d = &dist{dir: t.TempDir(), out: out, version: "v1", limit: maxAdapter, report: io.Discard}
	if err := d.make([]string{"amd64"}); err == nil || !strings.Contains(err.Error(), "building for amd64") {
		t.Errorf("outside of the module: %v", err)
	}
	if got := files(t, out); len(got) > 0 {
		t.Errorf("it wrote %q", got)
	}

	for _, tt := range []struct {
		args string
		want error
		text string
	}{
		{"-arch x86_64", errUsage, `no architecture "x86_64"; Lambda has amd64 and arm64`},
		{"-arch amd64,", errUsage, `no architecture ""`},
		{"now", errUsage, `unexpected argument "now"`},
		{"-x", errUsage, "not defined: -x"},
		{"-h", flag.ErrHelp, "-arch"},
	} {
		var errs strings.Builder
		if err := run(strings.Fields(tt.args), io.Discard, &errs); !errors.Is(err, tt.want) || !strings.Contains(errs.String(), tt.text) {
			t.Errorf("%s: %v, %q; want %v and %q", tt.args, err, &errs, tt.want, tt.text)
		}
	}
}

func TestDescribe(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(dir))
	if got := describe(dir); got != "" {
		t.Errorf("outside of a checkout: %q", got)
	}
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(time.Now().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	git("add", "file")
	git("commit", "-q", "-m", "first")
	if got := describe(dir); len(got) != 12 || !versionText.MatchString(got) {
		t.Errorf("without a tag: %q", got)
	}
	git("tag", "v1.0.0")
	if got := describe(dir); got != "v1.0.0" {
		t.Errorf("at the tag: %q", got)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := describe(dir); got != "v1.0.0-dirty" {
		t.Errorf("after a change: %q", got)
	}
}
