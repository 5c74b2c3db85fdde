package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Paths of the binaries under test. TestMain builds them once.
var (
	caddyBin   string
	adapterBin string
	demoBin    string
	// root is the checkout.
	root string
)

func TestMain(m *testing.M) {
	if file := os.Getenv(ledgerVar); file != "" {
		os.Exit(fail(runLedger(file)))
	}
	os.Exit(func() int {
		var err error
		if root, err = filepath.Abs(".."); err != nil {
			return fail(err)
		}
		dir, err := os.MkdirTemp("", "lambda-dispatch-tests-")
		if err != nil {
			return fail(err)
		}
		defer os.RemoveAll(dir)
		if err := build(dir); err != nil {
			return fail(err)
		}
		return m.Run()
	}())
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// build compiles what users run, with the race detector in it if the tests
// have it, so that a race in Caddy or in the adapter fails the test that met it.
func build(dir string) error {
	for _, b := range []struct {
		path *string
		pkg  string
		race bool
	}{
		{&caddyBin, "./cmd/caddy", raceEnabled},
		{&adapterBin, "./lambdaadapter", raceEnabled},
		{&demoBin, "./examples/demo", false},
	} {
		*b.path = filepath.Join(dir, filepath.Base(b.pkg))
		args := []string{"build", "-o", *b.path}
		if b.race {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, b.pkg)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", b.pkg, err, out)
		}
	}
	return nil
}
