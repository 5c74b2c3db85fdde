package caddymodule

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter"
	"github.com/lambda-dispatch/lambda-dispatch/internal/demoapp"
)

// Names of the command and its subcommands. The local Lambda runs the last two
// as the processes of its environments.
const (
	commandName        = "lambda-dispatch"
	localLambdaCommand = "local-lambda"
	adapterCommand     = "adapter"
	demoCommand        = "demo-app"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  commandName,
		Short: "Tools of the lambda_dispatch module",
		Long: `
Tools that come with the lambda_dispatch module: a local Lambda service that any
AWS SDK or CLI can invoke, and the parts that its environments are made of.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(newLocalLambdaCommand(), newAdapterCommand(), newDemoCommand())
		},
	})
}

func newLocalLambdaCommand() *cobra.Command {
	var (
		conf      LocalInvoker
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
			return runLocalLambda(cmd.Context(), listen, function, &conf)
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
	return cmd
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

func runLocalLambda(ctx context.Context, listen, function string, conf *LocalInvoker) error {
	if err := conf.provision(); err != nil {
		return err
	}
	fn, err := conf.function(function)
	if err != nil {
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

func newAdapterCommand() *cobra.Command {
	return &cobra.Command{
		Use:                adapterCommand + " [-- app args...]",
		Short:              "Runs the adapter, as the binary lambdaadapter does",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return exitStatus(adapter.Main(args))
		},
	}
}

func newDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:                demoCommand,
		Short:              "Runs the demo app",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return exitStatus(demoapp.Main(args))
		},
	}
}

// exitStatus ends the process with the status of a program that runs as a
// subcommand, which Caddy would otherwise replace by its own.
func exitStatus(code int) error {
	if code != 0 {
		os.Exit(code)
	}
	return nil
}
