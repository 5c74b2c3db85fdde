package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke/awslambda"
	"github.com/lambda-dispatch/lambda-dispatch/internal/locallambda"
)

// InvokerConfig says how instances are started. At most one of its fields is
// set.
type InvokerConfig struct {
	// Invoke the function on AWS Lambda, or on anything that speaks its API.
	AWS *AWSInvoker `json:"aws,omitempty"`

	// Run a local Lambda inside Caddy, with the app as a process of this
	// machine: for development and tests, without an AWS account.
	Local *LocalInvoker `json:"local,omitempty"`
}

// AWSInvoker invokes the function on AWS Lambda.
type AWSInvoker struct {
	// The AWS region. Default: from the environment, as every AWS SDK does.
	Region string `json:"region,omitempty"`

	// The base URL of the Invoke API. Default: Lambda's in the region.
	Endpoint string `json:"endpoint,omitempty"`
}

// LocalInvoker runs a local Lambda inside Caddy.
type LocalInvoker struct {
	// The app and its arguments. It gets its port in the variable PORT.
	// Default: the demo app that is part of this Caddy.
	Command []string `json:"command,omitempty"`

	// The directory to start the app in. Default: Caddy's own.
	Dir string `json:"dir,omitempty"`

	// The lambdaadapter binary to use. Default: the adapter that is part of
	// this Caddy.
	Adapter string `json:"adapter,omitempty"`

	// Variables that the app's environment gets besides Caddy's own.
	Env map[string]string `json:"env,omitempty"`

	// The port of the app in the first environment; each further one gets the
	// next. Default: free ports.
	Port int `json:"port,omitempty"`

	// How long a cold start takes before any process is started. Default: 0.
	ColdStart caddy.Duration `json:"cold_start,omitempty"`

	// The function timeout: the longest that an invocation may take.
	// Default: 15m, Lambda's own limit.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The memory of the function, in bytes. It is told to the app and limits
	// nothing here. Default: 1769 MiB, which is one vCPU on Lambda.
	Memory uint64 `json:"memory,omitempty"`

	// The most environments that exist at once; Lambda calls it reserved
	// concurrency. Default: 1000.
	MaxEnvironments int `json:"max_environments,omitempty"`

	// How long an environment is kept after its last invocation. Default: 5m.
	WarmFor caddy.Duration `json:"warm_for,omitempty"`
}

// Defaults of LocalInvoker.
const (
	defaultTimeout         = 15 * time.Minute
	defaultMemory          = 1769 << 20
	defaultMaxEnvironments = 1000
	defaultWarmFor         = 5 * time.Minute
)

func (c *InvokerConfig) provision() error {
	switch {
	case c.AWS != nil && c.Local != nil:
		return errors.New("invoker: aws and local exclude each other")
	case c.Local == nil:
		if c.AWS == nil {
			c.AWS = new(AWSInvoker)
		}
		repl := caddy.NewReplacer()
		c.AWS.Region = repl.ReplaceAll(c.AWS.Region, "")
		c.AWS.Endpoint = repl.ReplaceAll(c.AWS.Endpoint, "")
		return nil
	}
	return c.Local.provision()
}

func (l *LocalInvoker) provision() error {
	if runtime.GOOS == "windows" {
		return errors.New("invoker local: the local Lambda needs a Unix system")
	}
	if l.Timeout == 0 {
		l.Timeout = caddy.Duration(defaultTimeout)
	}
	if l.Memory == 0 {
		l.Memory = defaultMemory
	}
	if l.MaxEnvironments == 0 {
		l.MaxEnvironments = defaultMaxEnvironments
	}
	if l.WarmFor == 0 {
		l.WarmFor = caddy.Duration(defaultWarmFor)
	}
	switch {
	case l.Timeout < caddy.Duration(time.Second) || l.Timeout > caddy.Duration(defaultTimeout):
		return fmt.Errorf("invoker local: timeout is %v, must be between 1s and 15m", time.Duration(l.Timeout))
	case l.ColdStart < 0:
		return fmt.Errorf("invoker local: cold_start is %v, must be positive", time.Duration(l.ColdStart))
	case l.WarmFor < 0:
		return fmt.Errorf("invoker local: warm_for is %v, must be positive", time.Duration(l.WarmFor))
	case l.MaxEnvironments < 1:
		return fmt.Errorf("invoker local: max_environments is %d, must be at least 1", l.MaxEnvironments)
	case l.Port < 0 || l.Port > 65535:
		return fmt.Errorf("invoker local: port is %d, must be between 1 and 65535", l.Port)
	}
	return nil
}

// function describes the function to the local Lambda.
func (l *LocalInvoker) function(name string) (locallambda.Function, error) {
	self, err := os.Executable()
	if err != nil {
		return locallambda.Function{}, fmt.Errorf("finding this executable: %w", err)
	}
	runtimeCommand := []string{l.Adapter}
	if l.Adapter == "" {
		runtimeCommand = []string{self, commandName, adapterCommand}
	}
	app := l.Command
	if len(app) == 0 {
		app = []string{self, commandName, demoCommand}
	}
	runtimeCommand = append(append(runtimeCommand, "--"), app...)
	env := make([]string, 0, len(l.Env))
	for k, v := range l.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env) // another order would pass for another function
	return locallambda.Function{
		Name:            name,
		Command:         runtimeCommand,
		Env:             env,
		Dir:             l.Dir,
		AppPort:         l.Port,
		ColdStart:       time.Duration(l.ColdStart),
		Timeout:         time.Duration(l.Timeout),
		WarmFor:         time.Duration(l.WarmFor),
		Memory:          l.Memory,
		MaxEnvironments: l.MaxEnvironments,
		Output:          os.Stderr,
	}, nil
}

// options says where the function is invoked.
func (c *InvokerConfig) options(function string) awslambda.Options {
	if c.Local != nil {
		return awslambda.Options{Function: function, Region: "local", Anonymous: true}
	}
	return awslambda.Options{Function: function, Region: c.AWS.Region, Endpoint: c.AWS.Endpoint}
}
