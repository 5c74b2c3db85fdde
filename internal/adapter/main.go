package adapter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
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

// parseArgs takes apart what is behind the program's name. Package flag would
// be a considerable part of the adapter's size, for two flags.
func parseArgs(args []string, stdout, stderr io.Writer) (command []string, status int, done bool) {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") {
		return args, 0, false
	}
	switch args[0] {
	case "-h", "-help", "--help":
		usage(stdout)
		return nil, 0, true
	case "-version", "--version":
		fmt.Fprintln(stdout, "lambdaadapter", Version())
		return nil, 0, true
	case "--":
		if len(args) > 1 {
			return args[1:], 0, false
		}
		fmt.Fprintln(stderr, "lambdaadapter: no command after --")
	default:
		fmt.Fprintf(stderr, "lambdaadapter: unknown flag %s; see lambdaadapter --help\n", args[0])
	}
	return nil, 2, true
}
