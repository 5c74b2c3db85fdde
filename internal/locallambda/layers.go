package locallambda

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Limits of https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html.
const (
	maxLayers    = 5
	maxLayerSize = 250 * mebibyte // of all of them, unpacked
)

var errLayerSize = fmt.Errorf("the layers have more than %d bytes", maxLayerSize)

// inOpt returns what a path below /opt is in the directory that stands for it.
// Everything else it leaves alone.
func inOpt(opt, value string) string {
	if rest, ok := strings.CutPrefix(value, "/opt/"); ok && opt != "" {
		return filepath.Join(opt, filepath.FromSlash(rest))
	}
	return value
}

// allExtensions returns the executables of all external extensions: those that
// the function names and those of its layers. A later one takes the place of
// an earlier one of its name.
func allExtensions(named []string, opt string) ([]string, error) {
	all := slices.Clone(named)
	if opt == "" {
		return all, nil
	}
	dir := filepath.Join(opt, "extensions")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the extensions of the layers: %w", err)
	}
	for _, entry := range entries {
		all = slices.DeleteFunc(all, func(path string) bool { return filepath.Base(path) == entry.Name() })
		if !entry.IsDir() {
			all = append(all, filepath.Join(dir, entry.Name()))
		}
	}
	return all, nil
}

// unpackLayers puts the contents of layers into a new temporary directory.
func unpackLayers(layers []string) (dir string, err error) {
	dir, err = os.MkdirTemp("", "local-lambda-opt-")
	if err != nil {
		return "", fmt.Errorf("making a directory for the layers: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir) // it is of no use, and what matters is why
			dir = ""
		}
	}()
	// Nothing is written outside of the root, whatever names and links say.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return dir, fmt.Errorf("opening the directory for the layers: %w", err)
	}
	defer root.Close()
	u := &unpacker{root: root, dir: dir, left: maxLayerSize}
	for _, layer := range layers {
		if err := u.layer(layer); err != nil {
			return dir, fmt.Errorf("layer %s: %w", layer, err)
		}
	}
	return dir, nil
}

// unpacker writes the files of layers.
type unpacker struct {
	root *os.Root
	dir  string // of root
	left int64  // bytes
}

func (u *unpacker) layer(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return u.directory(name)
	}
	archive, err := zip.OpenReader(name)
	if err != nil {
		return err
	}
	defer archive.Close()
	for _, f := range archive.File {
		open := func() (io.ReadCloser, error) { return f.Open() }
		if err := u.entry(f.Name, f.Mode(), open); err != nil {
			return fmt.Errorf("%q: %w", f.Name, err)
		}
	}
	return nil
}

func (u *unpacker) directory(name string) error {
	return filepath.WalkDir(name, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(name, file)
		if err != nil || rel == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return u.entry(filepath.ToSlash(rel), info.Mode(), func() (io.ReadCloser, error) {
			if d.Type() != fs.ModeSymlink {
				return os.Open(file)
			}
			target, err := os.Readlink(file)
			return io.NopCloser(strings.NewReader(target)), err
		})
	})
}

// entry writes a file, a directory or a symbolic link, whose target is its
// content.
func (u *unpacker) entry(name string, mode fs.FileMode, open func() (io.ReadCloser, error)) error {
	if name = path.Clean(name); !filepath.IsLocal(filepath.FromSlash(name)) {
		return errors.New("the name leads out of the layer")
	}
	if mode.IsDir() {
		return u.root.MkdirAll(name, 0o755)
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // an earlier layer has a directory there
	}
	content, err := open()
	if err != nil {
		return err
	}
	defer content.Close()
	switch mode.Type() {
	case 0:
		return u.file(name, mode, content)
	case fs.ModeSymlink:
		target, err := io.ReadAll(io.LimitReader(content, maxLine))
		if err != nil {
			return err
		}
		return u.root.Symlink(inOpt(u.dir, string(target)), name)
	default:
		return fmt.Errorf("%s is not a file, a directory or a link", mode)
	}
}

// file writes a file that its owner, who runs it, can read.
func (u *unpacker) file(name string, mode fs.FileMode, content io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode.Perm()|0o400)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(content, u.left+1))
	if u.left -= n; u.left < 0 {
		err = errors.Join(err, errLayerSize)
	}
	return errors.Join(err, f.Close())
}
