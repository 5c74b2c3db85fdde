//go:build unix

package locallambda

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func unmarshal(b []byte, v any) error { return json.Unmarshal(b, v) }

// packed is a file of a layer.
type packed struct {
	name string
	mode fs.FileMode
	text string
}

func zipped(t *testing.T, files ...packed) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer.zip")
	out, err := os.Create(path) //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(out)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(f.mode)
		entry, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := entry.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func unpacked(t *testing.T, layers ...string) string {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	dir, err := unpackLayers(layers)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLayersAreUnpackedInOrder(t *testing.T) {
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "bin", "tool"), []byte("third"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(tree, "bin", "alias")); err != nil {
		t.Fatal(err)
	}
	dir := unpacked(t,
		zipped(t, packed{"bin/", fs.ModeDir | 0o755, ""}, packed{"bin/tool", 0o755, "first"}, packed{"data", 0o600, "first"}),
		zipped(t, packed{"bin/tool", 0o644, "second"}, packed{"lib/link", fs.ModeSymlink | 0o777, "/opt/data"}),
		tree,
	)
	for name, want := range map[string]string{"bin/tool": "third", "data": "first", "lib/link": "first", "bin/alias": "third"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want { //nolint:gosec // the test's own
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "bin/tool")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("the tool is no program: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "data")); err != nil || info.Mode()&0o111 != 0 {
		t.Errorf("the data is a program: %v", err)
	}
}

func TestLayersDoNotEscape(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	outside := filepath.Join(t.TempDir(), "outside")
	for name, files := range map[string][]packed{
		"parent":   {{"../evil", 0o644, "x"}},
		"inside":   {{"a/../../evil", 0o644, "x"}},
		"absolute": {{outside, 0o644, "x"}},
		"link":     {{"out", fs.ModeSymlink | 0o777, filepath.Dir(outside)}, {"out/outside", 0o644, "x"}},
		"device":   {{"dev", fs.ModeDevice | 0o644, ""}},
	} {
		if dir, err := unpackLayers([]string{zipped(t, files...)}); err == nil {
			t.Errorf("%s: unpacked in %s", name, dir)
		}
		if _, err := os.Stat(outside); err == nil {
			t.Fatalf("%s: wrote outside", name)
		}
	}
	if _, err := unpackLayers([]string{filepath.Join(tmp, "missing.zip")}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLayersHaveALimit(t *testing.T) {
	u := &unpacker{root: nil, left: 10}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	u.root = root
	if err := u.file("a", 0o644, strings.NewReader("0123456789")); err != nil {
		t.Error(err)
	}
	if err := u.file("b", 0o644, strings.NewReader("0")); !errors.Is(err, errLayerSize) {
		t.Error(err)
	}
}

// An environment with layers: the wrapper gets the runtime's command, extensions
// are started, and what says /opt means the layers.
func TestEnvironmentWithLayers(t *testing.T) {
	b := newBench(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	layer := t.TempDir()
	if err := os.Mkdir(filepath.Join(layer, "extensions"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(layer, "extensions", "ext-layer")); err != nil {
		t.Fatal(err)
	}
	g := newGate(t)
	b.deploy(env("AWS_LAMBDA_EXEC_WRAPPER=/opt/wrapper", "TOOL=/opt/bin/tool", "OTHER=/optional", "PATH=/bin:/usr/bin",
		"EXT_EVENTS=INVOKE", "EXT_GATE="+g.address()),
		func(f *Function) {
			f.Layers = []string{layer, zipped(t, packed{"wrapper", 0o755, "#!/bin/sh\nWRAPPED=\"$*\" exec \"$@\"\n"})}
			f.Command = append(f.Command, "one", "two")
		})
	vars := b.invoke(order{Do: "vars"}).Vars
	if v := g.next(); !strings.HasPrefix(v.line, "ext-layer ") {
		t.Errorf("%q got the event", v.line)
	} else {
		v.let(t)
	}
	dirs, err := filepath.Glob(filepath.Join(tmp, "local-lambda-opt-*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%v, %v", dirs, err)
	}
	opt := dirs[0]
	for name, want := range map[string]string{
		"WRAPPED":                 self + " one two",
		"AWS_LAMBDA_EXEC_WRAPPER": opt + "/wrapper",
		"TOOL":                    opt + "/bin/tool",
		"OTHER":                   "/optional",
		"PATH":                    "/bin:/usr/bin:" + opt + "/bin",
	} {
		if vars[name] != want {
			t.Errorf("%s is %q, want %q", name, vars[name], want)
		}
	}
	if list := filepath.SplitList(vars["LD_LIBRARY_PATH"]); !slices.Contains(list, opt+"/lib") {
		t.Errorf("LD_LIBRARY_PATH is %v", list)
	}
	b.Remove("app")
	eventually(t, "the environment is gone", func() bool { return len(b.Environments("app")) == 0 })
	if _, err := os.Stat(opt); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the layers are left: %v", err)
	}
}

func TestBrokenLayer(t *testing.T) {
	b := newBench(t)
	b.deploy(func(f *Function) { f.Layers = []string{"/nonexistent/layer.zip"} })
	if _, err := b.call(order{}); err == nil || !strings.Contains(err.Error(), "layer /nonexistent/layer.zip") {
		t.Errorf("got %v", err)
	}
}

// Of two extensions of one name, the layer's is the one on /opt.
func TestExtensionsOfLayers(t *testing.T) {
	opt := t.TempDir()
	if err := os.MkdirAll(filepath.Join(opt, "extensions", "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	layered := filepath.Join(opt, "extensions", "one")
	if err := os.WriteFile(layered, nil, 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	got, err := allExtensions([]string{"/a/one", "/a/two"}, opt)
	if err != nil || !slices.Equal(got, []string{"/a/two", layered}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err = allExtensions([]string{"/a/one"}, ""); err != nil || !slices.Equal(got, []string{"/a/one"}) {
		t.Errorf("%v, %v", got, err)
	}
}
