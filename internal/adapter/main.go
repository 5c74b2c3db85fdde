package adapter

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// Main is the adapter's main function: args are the arguments after the
// program's name, and the result is the exit status. It reads the environment
// and handles signals, so there can be one per process.
func Main(args []string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, slices.Concat(forwarded, ending)...)
	defer signal.Stop(signals)
	p := &process{
		began: time.Now(), name: os.Args[0], environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr,
	}
	return p.main(context.Background(), args, signals)
}

func (p *process) main(ctx context.Context, args []string, signals <-chan os.Signal) int {
	command, status, done := parseArgs(args, p.stdout, p.stderr)
	if done {
		return status
	}
	p.command = command
	p.env = environment(p.environ)
	cfg, unknown, err := ParseConfig(p.environ)
	p.cfg = cfg
	p.log = newLogger(p.stderr, &p.cfg)
	for _, name := range unknown {
		p.log.Warn("unknown setting is ignored", slog.String("name", name))
	}
	if p.env[apiVariable] == "" {
		return p.outside(err)
	}
	var apiErr error
	if p.api, apiErr = lambdaapi.New(p.env[apiVariable]); apiErr != nil {
		p.log.Error("cannot start", slog.Any("error", fmt.Errorf("%s: %w", apiVariable, apiErr)))
		return 1
	}
	defer p.api.Close()
	if err != nil {
		_ = p.initFailed(ctx, "LambdaDispatch.BadConfiguration", err)
		return 1
	}
	if err := p.run(ctx, signals); err != nil {
		if !errors.Is(err, errSilent) {
			p.log.Error("adapter failed", slog.Any("error", err))
		}
		return 1
	}
	return 0
}

// outside is the adapter where there is no Lambda: an image whose entry point
// is the wrapper is then an ordinary web server.
func (p *process) outside(err error) int {
	if len(p.command) == 0 {
		p.log.Error("cannot start: " + apiVariable + " is not set, and the adapter works inside AWS Lambda only")
		return 1
	}
	if err == nil {
		var path string
		if path, err = exec.LookPath(p.command[0]); err == nil {
			err = execute(path, p.command, p.environ)
		}
	}
	p.log.Error("cannot start", slog.Any("error", err))
	return 1
}

func parseArgs(args []string, stdout, stderr io.Writer) (command []string, status int, done bool) {
	flags := flag.NewFlagSet("lambdaadapter", flag.ContinueOnError)
	flags.SetOutput(stderr)
	version := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() { usage(flags.Output()) }
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, 0, true
	case err != nil:
		return nil, 2, true
	case *version:
		fmt.Fprintln(stdout, "lambdaadapter", Version())
		return nil, 0, true
	case flags.NArg() == 0 && len(args) > 0:
		fmt.Fprintln(stderr, "lambdaadapter: no command after --")
		return nil, 2, true
	}
	return flags.Args(), 0, false
}

func usage(w io.Writer) {
	fmt.Fprint(w, `usage: lambdaadapter                       as an external extension, beside an app that Lambda starts
       lambdaadapter [--] <command> [args]  as a wrapper that starts the app

The adapter runs inside AWS Lambda and serves the app's answers to a
lambda-dispatch router. It is configured by environment variables; the first
of several names wins.

`)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range settings {
		fmt.Fprintf(tw, "%s\t%s", s.names[0], s.help)
		if s.dflt != "" {
			fmt.Fprintf(tw, " (default %s)", s.dflt)
		}
		if len(s.names) > 1 {
			fmt.Fprintf(tw, "; also %s", strings.Join(s.names[1:], ", "))
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush()
}
