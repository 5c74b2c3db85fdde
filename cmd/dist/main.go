// Command dist builds what users of the adapter install, for both of Lambda's
// architectures: a layer for functions that are zip files, and the context of
// an image for those that are images.
//
//	go run ./cmd/dist [-o dist] [-arch amd64,arm64] [-version v1.2.3]
//
// The same sources, version and Go release make the same bytes, whatever the
// machine, the directory and the day. It uploads nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// architectures are Lambda's, by Go's names. AWS calls amd64 x86_64.
var architectures = []string{"amd64", "arm64"}

func main() {
	switch err := run(os.Args[1:], os.Stdout, os.Stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// errUsage is the end after arguments that make no sense; they have been
// explained.
var errUsage = errors.New("bad arguments")

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("dist", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("o", "dist", "`directory` to write to")
	arch := flags.String("arch", strings.Join(architectures, ","), "`architectures` to build for")
	version := flags.String("version", "", "`version` that the adapter gives; by default git's description of the checkout")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	chosen := strings.Split(*arch, ",")
	for _, a := range chosen {
		if !slices.Contains(architectures, a) {
			fmt.Fprintf(stderr, "dist: no architecture %q; Lambda has %s\n", a, strings.Join(architectures, " and "))
			return errUsage
		}
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "dist: unexpected argument %q\n", flags.Arg(0))
		return errUsage
	}
	if *version == "" {
		*version = describe(".")
	}
	d := &dist{dir: ".", out: *out, version: *version, limit: maxAdapter, report: stdout}
	return d.make(chosen)
}
