//go:build linux

// Command bench measures what the way through lambda_dispatch costs, beside
// the app alone, one Caddy and two Caddies in a row, all on loopback:
//
//	go run ./tests/bench
//	go run ./tests/bench -only caddy,dispatch -workloads ping -c 1 -rounds 5
//
// It builds what it measures, runs all variants side by side and sends
// requests to one after the other, round by round, so that a machine which
// gets slower makes all of them slower. It must be run from a checkout, needs
// nothing but Go, and reads /proc, so it works on Linux only. It is no part of
// the product, and nothing may depend on it.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errFailures makes a run fail, after its results have been written.
var errFailures = errors.New("some requests failed: see the end of the results")

var numCPU = runtime.NumCPU()

type options struct {
	rounds      int
	connections int
	duration    time.Duration
	warmup      time.Duration
	variants    []variant
	workloads   []workload
	json        string
	markdown    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	opts, err := parseFlags(os.Args[1:])
	if err == nil {
		err = bench(ctx, opts)
	}
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (options, error) {
	var opts options
	var only, loads string
	names := func(all []string) string { return strings.Join(all, ",") }
	allVariants := mapSlice(variants, func(v variant) string { return v.name })
	allWorkloads := mapSlice(workloads, func(w workload) string { return w.name })
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&opts.rounds, "rounds", 3, "how often to measure everything")
	fs.IntVar(&opts.connections, "c", 50, "`connections`, each with one request at a time")
	fs.DurationVar(&opts.duration, "duration", 4*time.Second, "how long to measure each variant and workload in a round")
	fs.DurationVar(&opts.warmup, "warmup", time.Second, "how long to send requests before that")
	fs.StringVar(&only, "only", names(allVariants), "`variants` to measure")
	fs.StringVar(&loads, "workloads", names(allWorkloads[:defaultWorkloads]), "`workloads` to measure, of "+names(allWorkloads))
	fs.StringVar(&opts.json, "json", "bench.json", "`file` for all samples; empty for none")
	fs.StringVar(&opts.markdown, "md", "", "`file` whose results, between two marks, to replace")
	if err := fs.Parse(args); err != nil {
		return opts, err
	}
	if fs.NArg() > 0 {
		return opts, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if opts.rounds < 1 || opts.connections < 1 || opts.duration <= 0 || opts.warmup < 0 {
		return opts, errors.New("-rounds, -c and -duration must be positive, -warmup not negative")
	}
	var err1, err2 error
	opts.variants, err1 = choose(only, variants, func(v variant) string { return v.name })
	opts.workloads, err2 = choose(loads, workloads, func(w workload) string { return w.name })
	return opts, errors.Join(err1, err2)
}

// choose returns the named ones of all, in the order of all.
func choose[T any](list string, all []T, name func(T) string) ([]T, error) {
	wanted := strings.Split(list, ",")
	var chosen []T
	for _, v := range all {
		if i := slices.Index(wanted, name(v)); i >= 0 {
			chosen = append(chosen, v)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("no %q; there are %s", wanted[0], strings.Join(mapSlice(all, name), ", "))
	}
	return chosen, nil
}

func mapSlice[T, U any](in []T, f func(T) U) []U {
	out := make([]U, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func bench(ctx context.Context, opts options) (err error) {
	dir, err := os.MkdirTemp("", "lambda-dispatch-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	progress("building")
	bin, err := build(ctx, dir, opts)
	if err != nil {
		return err
	}
	rep, err := describe(ctx, opts)
	if err != nil {
		return err
	}

	var systems []*system
	defer func() {
		for _, s := range systems {
			err = errors.Join(append(s.stop(), err)...)
		}
	}()
	answers := map[string][sha256.Size]byte{}
	for _, v := range opts.variants {
		progress("starting %s", v.name)
		s, err := startSystem(ctx, v, dir, bin, opts.connections)
		systems = append(systems, s)
		if err != nil {
			return err
		}
		if err := verifyAll(ctx, s, opts.workloads, answers); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}

	for round := range opts.rounds {
		order := slices.Clone(systems)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, w := range opts.workloads {
			for _, s := range order {
				if ctx.Err() != nil {
					return errors.New("interrupted")
				}
				sm, err := measure(s, w, round, opts)
				if err != nil {
					return err
				}
				rep.Samples = append(rep.Samples, sm)
				progress("round %d of %d, %s, %s: %.0f requests/s, p50 %.2f ms, p99 %.2f ms, %d failed",
					round+1, opts.rounds, w.name, s.variant.name, sm.RPS, sm.P50, sm.P99, sm.Failures)
			}
		}
	}
	return publish(rep, opts)
}

// verifyAll checks that a system gives every answer, and the same as the
// systems before it.
func verifyAll(ctx context.Context, s *system, loads []workload, answers map[string][sha256.Size]byte) error {
	for _, w := range loads {
		digest, err := w.verify(ctx, s.target)
		if err != nil {
			return err
		}
		if first, ok := answers[w.name]; ok && first != digest {
			return fmt.Errorf("%s: the answer differs from that of %s", w.name, variants[0].name)
		}
		answers[w.name] = digest
	}
	return nil
}

func publish(rep *report, opts options) error {
	text := rep.markdown()
	fmt.Print(text)
	if opts.json != "" {
		if err := rep.writeJSON(opts.json); err != nil {
			return err
		}
	}
	if opts.markdown != "" {
		if err := writeMarkdown(opts.markdown, text); err != nil {
			return err
		}
	}
	if len(rep.failures()) > 0 {
		return errFailures
	}
	return nil
}

// build compiles what the chosen variants run.
func build(ctx context.Context, dir string, opts options) (programs, error) {
	bin := programs{
		caddy:   filepath.Join(dir, "bin", "caddy"),
		adapter: filepath.Join(dir, "bin", "lambdaadapter"),
		demo:    filepath.Join(dir, "bin", "demo"),
	}
	packages := map[string]string{bin.demo: "./examples/demo"}
	for _, v := range opts.variants {
		if v.name != variants[0].name {
			packages[bin.caddy] = "./cmd/caddy"
		}
		if v.dispatch {
			packages[bin.adapter] = "./lambdaadapter"
		}
	}
	root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return bin, err
	}
	for program, pkg := range packages {
		cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", program, pkg)
		cmd.Dir = root
		if program == bin.adapter {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
		}
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return bin, fmt.Errorf("building %s: %w", pkg, err)
		}
	}
	return bin, nil
}

// describe notes what is being measured, and where.
func describe(ctx context.Context, opts options) (*report, error) {
	rep := &report{
		Date: time.Now().UTC(), Go: runtime.Version(), CPUs: numCPU, CPU: cpuModel(),
		Connections: opts.connections, Rounds: opts.rounds,
		Warmup: opts.warmup.String(), Duration: opts.duration.String(),
	}
	var err error
	if rep.Caddy, err = output(ctx, "go", "list", "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2"); err != nil {
		return nil, err
	}
	// A checkout without git, such as an unpacked archive, has no commit.
	rep.Commit, err = output(ctx, "git", "describe", "--always", "--dirty", "--exclude=*")
	if err != nil {
		rep.Commit = "unknown"
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, err
	}
	rep.Kernel = unix.ByteSliceToString(uts.Release[:])
	return rep, nil
}

func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH // ARM names no model
}

// output runs a command and returns the line that it writes.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// progress goes to standard error, so that standard output holds the results
// and nothing else.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
