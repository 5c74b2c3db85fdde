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
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

const apiVariable = "AWS_LAMBDA_RUNTIME_API"

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
	cfg, remarks, err := ParseConfig(p.environ)
	p.cfg = cfg
	p.log = newLogger(p.stderr, &p.cfg)
	for _, r := range remarks {
		p.log.LogAttrs(ctx, r.Level, r.Message, r.Attrs...)
	}
	if p.env[apiVariable] == "" {
		return p.outside(err)
	}
	if err := p.connect(); err != nil {
		p.log.Error("cannot start", slog.Any("error", err))
		return 1
	}
	defer p.api.Close()
	defer p.extensions.Close()
	if network, address := p.cfg.AppNetwork(); err == nil && network == "tcp" && address == p.env[apiVariable] {
		// It would answer the readiness check, too.
		err = fmt.Errorf("%s is Lambda's own Runtime API: the app needs another port", address)
	}
	if err != nil {
		err = p.initFailed(ctx, "LambdaDispatch.BadConfiguration", err)
	} else {
		err = p.run(ctx, signals)
	}
	if silent, ok := errors.AsType[*silentError](err); ok {
		return silent.status
	}
	if err != nil {
		p.log.Error("adapter failed", slog.Any("error", err))
		return 1
	}
	return 0
}

// connect makes the clients of Lambda's APIs. A proxy of the Runtime API, such
// as a security product, does not know the Extensions API.
func (p *process) connect() (err error) {
	api := p.env[apiVariable]
	if p.extensions, err = lambdaapi.New(api); err != nil {
		return fmt.Errorf("%s: %w", apiVariable, err)
	}
	if p.cfg.RuntimeAPIProxy != "" {
		api = p.cfg.RuntimeAPIProxy
	}
	p.api, err = lambdaapi.New(api)
	return err
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
	return startStatus(err)
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
