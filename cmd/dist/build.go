package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	module = "github.com/lambda-dispatch/lambda-dispatch"

	// maxAdapter is how many bytes the adapter may have: it is loaded in every
	// cold start.
	maxAdapter = 8_000_000
)

// versionText is what survives as one argument of the linker.
var versionText = regexp.MustCompile(`^[A-Za-z0-9._+/-]*$`)

// describe is git's name for what is checked out in dir, or empty where git
// has none.
func describe(dir string) string {
	// The length of an abbreviated commit depends on the clone unless it is given.
	cmd := exec.Command("git", "describe", "--tags", "--always", "--dirty", "--abbrev=12")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// build compiles the adapter for an architecture and returns the binary.
func (d *dist) build(arch string) ([]byte, error) {
	if !versionText.MatchString(d.version) {
		return nil, fmt.Errorf("version %q has characters other than letters, digits and . _ + / -", d.version)
	}
	tmp, err := os.MkdirTemp("", "lambdaadapter-dist-")
	if err != nil {
		return nil, fmt.Errorf("building for %s: %w", arch, err)
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "lambdaadapter")
	// What git knows of the checkout would differ between a clone and a copy.
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X "+module+"/internal/adapter.buildVersion="+d.version,
		"-o", bin, module+"/lambdaadapter")
	cmd.Dir = d.dir
	// An empty GOFLAGS would let those of "go env -w" in.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch,
		"GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=-trimpath", "GOEXPERIMENT=", "GOWORK=off")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("building for %s: %w\n%s", arch, err, output.Bytes())
	}
	binary, err := os.ReadFile(bin)
	if err != nil {
		return nil, fmt.Errorf("building for %s: %w", arch, err)
	}
	if len(binary) > d.limit {
		return nil, fmt.Errorf("the adapter for %s has %d bytes, more than %d", arch, len(binary), d.limit)
	}
	return binary, nil
}
