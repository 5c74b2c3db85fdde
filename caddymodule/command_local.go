package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/lambda-dispatch/lambda-dispatch/internal/locallambda"
)

func newLocalLambdaCommand() *cobra.Command {
	var (
		conf      LocalInvoker
		kind      functionKind
		listen    string
		function  string
		memory    string
		env       []string
		coldStart time.Duration
		timeout   time.Duration
		warmFor   time.Duration
	)
	cmd := &cobra.Command{
		Use:   localLambdaCommand + " [flags] [-- app args...]",
		Short: "Serves AWS Lambda's Invoke API for an app on this machine",
		Long: `
Serves the Invoke API of AWS Lambda. Invocations of the function are run by
environments that are processes of this machine: the adapter and the app, which
is given after "--" and is the demo app otherwise.

Responses can be streamed (InvokeWithResponseStream). With --no-adapter the
command is the runtime itself, or an app whose adapter is an --extension or comes
with a --layer, the contents of which are found in place of /opt:

  caddy lambda-dispatch local-lambda --no-adapter --extension ./lambdaadapter -- node server.js
  caddy lambda-dispatch local-lambda --no-adapter --layer layer.zip --handler run.sh \
    --env AWS_LAMBDA_EXEC_WRAPPER=/opt/bootstrap -- node

Point an AWS SDK or the AWS CLI at it with its endpoint option, for example
"aws lambda invoke --endpoint-url http://127.0.0.1:9009 --function-name app out.json".
Any credentials will do.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := humanize.ParseBytes(memory)
			if err != nil {
				return fmt.Errorf("bad memory size %q", memory)
			}
			conf.Command, conf.Memory = args, size
			conf.ColdStart = caddy.Duration(coldStart)
			conf.Timeout = caddy.Duration(timeout)
			conf.WarmFor = caddy.Duration(warmFor)
			if conf.Env, err = parseEnv(env); err != nil {
				return err
			}
			return runLocalLambda(cmd.Context(), listen, function, &conf, &kind)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:9009", "Address of the Invoke API")
	f.StringVar(&function, "function", "app", "Name of the function")
	f.StringVar(&conf.Adapter, "adapter", "", "Path of a lambdaadapter binary (default: the one built in)")
	f.StringVar(&conf.Dir, "dir", "", "Directory to start the app in")
	f.StringArrayVar(&env, "env", nil, "Variable for the app, NAME=VALUE; may be repeated")
	f.IntVar(&conf.Port, "port", 0, "Port of the app in the first environment; further ones count up (default: free ports)")
	f.DurationVar(&coldStart, "cold-start", 0, "Delay before the processes of an environment are started")
	f.DurationVar(&timeout, "timeout", defaultTimeout, "Function timeout")
	f.StringVar(&memory, "memory", "1769MiB", "Memory of the function, told to the app")
	f.IntVar(&conf.MaxEnvironments, "max-environments", defaultMaxEnvironments, "Most environments at once")
	f.DurationVar(&warmFor, "warm-for", defaultWarmFor, "How long an environment is kept after its last invocation")
	kind.addFlags(cmd)
	return cmd
}

// functionKind is what only a function of a local Lambda on its own can be: one
// that is dispatched to needs none of it.
type functionKind struct {
	noAdapter      bool
	handler        string
	layers         []string
	extensions     []string
	maxConcurrency int
	snapStart      bool
	provisioned    bool
	tenants        bool
}

func (k *functionKind) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&k.noAdapter, "no-adapter", false, "Start the command as it is, without the adapter in front")
	f.StringVar(&k.handler, "handler", "", "Handler of the function, told to the runtime in _HANDLER (default: the name of the command)")
	f.StringArrayVar(&k.layers, "layer", nil, "Zip file or directory of a layer; may be repeated")
	f.StringArrayVar(&k.extensions, "extension", nil, "Executable to run as an external extension; may be repeated")
	f.IntVar(&k.maxConcurrency, "max-concurrency", 1, "Most invocations at once in one environment; above 1 as on Lambda Managed Instances")
	f.BoolVar(&k.snapStart, "snap-start", false, "Go through the phases of SnapStart")
	f.BoolVar(&k.provisioned, "provisioned", false, "Tell the runtime that it is part of provisioned concurrency")
	f.BoolVar(&k.tenants, "tenant-isolation", false, "Give each tenant environments of its own")
}

// apply makes fn a function of this kind, whose app is the given command.
func (k *functionKind) apply(fn *locallambda.Function, app []string) error {
	if k.noAdapter {
		if len(app) == 0 {
			return errors.New(`--no-adapter needs a command after "--"`)
		}
		fn.Command = app
	}
	for _, paths := range [][]string{k.layers, k.extensions} {
		for i, path := range paths { // processes are started in the app's directory
			abs, err := filepath.Abs(path)
			if err != nil {
				return fmt.Errorf("finding %s: %w", path, err)
			}
			paths[i] = abs
		}
	}
	fn.Handler, fn.Layers, fn.Extensions = k.handler, k.layers, k.extensions
	fn.MaxConcurrency, fn.SnapStart = k.maxConcurrency, k.snapStart
	fn.Provisioned, fn.TenantIsolation = k.provisioned, k.tenants
	return nil
}

func parseEnv(pairs []string) (map[string]string, error) {
	env := make(map[string]string, len(pairs))
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return nil, fmt.Errorf("bad env %q: must be NAME=VALUE", p)
		}
		env[name] = value
	}
	return env, nil
}

func runLocalLambda(ctx context.Context, listen, function string, conf *LocalInvoker, kind *functionKind) error {
	if err := conf.provision(); err != nil {
		return err
	}
	fn, err := conf.function(function)
	if err != nil {
		return err
	}
	if err := kind.apply(&fn, conf.Command); err != nil {
		return err
	}
	if err := fn.Validate(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	local, err := serveLambda(listen, caddy.Log())
	if err != nil {
		return err
	}
	if err := local.lambda.Deploy(fn); err != nil {
		return err
	}
	fmt.Printf("local Lambda serves function %s at %s\n", function, local.endpoint)
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.Background(), exitGrace)
	defer cancel()
	return local.close(ctx)
}
