package caddymodule

import (
	"os"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
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
