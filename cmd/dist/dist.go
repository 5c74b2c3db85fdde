package main

import (
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

//go:embed image.Dockerfile
var imageDockerfile []byte

// epoch is the time of all files: the earliest one that a zip file can say.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// dist is one run of the command.
type dist struct {
	dir     string // a directory of this module
	out     string
	version string // of the adapter; empty: as its build knows it
	limit   int    // bytes of an adapter
	report  io.Writer
}

// layerFile and imageFile name the files of an architecture below d.out.
func layerFile(arch string) string { return "lambdaadapter-layer-" + arch + ".zip" }
func imageFile(arch string) string { return filepath.Join("image", arch, "lambdaadapter") }

// make writes the files for the architectures and says which ones. An earlier
// run's files for other architectures are removed, lest an old adapter be
// published beside a new one. When it fails it may have written some files,
// each of them whole.
func (d *dist) make(archs []string) error {
	for _, arch := range architectures {
		if slices.Contains(archs, arch) {
			continue
		}
		for _, name := range []string{layerFile(arch), imageFile(arch)} {
			if err := os.Remove(filepath.Join(d.out, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing an earlier build: %w", err)
			}
		}
	}
	for _, arch := range architectures {
		if !slices.Contains(archs, arch) {
			continue
		}
		adapter, err := d.build(arch)
		if err != nil {
			return err
		}
		layer, err := packLayer(adapter)
		if err != nil {
			return fmt.Errorf("packing the layer: %w", err)
		}
		if err := d.write(layerFile(arch), layer, 0o644); err != nil {
			return err
		}
		if err := d.write(imageFile(arch), adapter, 0o755); err != nil {
			return err
		}
	}
	return d.write(filepath.Join("image", "Dockerfile"), imageDockerfile, 0o644)
}

// write writes a file at once, so that nobody publishes half of one.
func (d *dist) write(name string, content []byte, mode fs.FileMode) error {
	path := filepath.Join(d.out, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // G301: to be published
		return fmt.Errorf("writing %s: %w", path, err)
	}
	tmp := path + ".tmp"
	defer os.Remove(tmp) // if it has not been renamed
	err := os.WriteFile(tmp, content, mode)
	if err == nil {
		err = os.Chmod(tmp, mode) // whatever the umask
	}
	if err == nil {
		err = os.Chtimes(tmp, epoch, epoch)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	fmt.Fprintf(d.report, "%x  %9d bytes  %s\n", sha256.Sum256(content), len(content), path)
	return nil
}
