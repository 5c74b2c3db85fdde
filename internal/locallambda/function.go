package locallambda

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Function is what [Service.Deploy] needs to know.
type Function struct {
	// Name is how the function is invoked: a name, name:qualifier, or an ARN.
	// A function deployed with a qualifier is found by that qualifier only; one
	// without is found by every qualifier that has no function of its own.
	Name string

	// Command is the runtime process and its arguments. A name without a slash
	// is looked up in the service's PATH, a relative path is relative to Dir.
	Command []string

	// Layers are zip files or directories, at most five, whose contents make up
	// /opt, later ones over earlier ones. Each environment gets its own copy, at
	// most 250 MB, in a temporary directory which takes the place of /opt: it is
	// what Env and Command mean where a value or the name of the command begins
	// with "/opt/", its bin and lib are the last of PATH and LD_LIBRARY_PATH, and
	// the files in its extensions run as external extensions. Nothing is mounted,
	// so a path below /opt that is written into a program or a script is not
	// found.
	Layers []string

	// Extensions are executables that run as external extensions, at most ten.
	// They start before the runtime and must register under their file names.
	Extensions []string

	// Env holds NAME=value pairs that the processes get besides the service's
	// own environment and Lambda's variables. The service's environment is
	// passed on without AWS_*, CADDY_*, variables of systemd and everything
	// whose name looks like a secret; what is listed here is passed on always,
	// unless Lambda sets it. PORT and AWS_LWA_PORT are AppPort's to set. AWS_LAMBDA_EXEC_WRAPPER is a command that the
	// runtime's command is given to as its arguments, as managed runtimes have it.
	Env []string

	// Dir is the working directory and LAMBDA_TASK_ROOT. Default: the
	// service's own.
	Dir string

	// Handler is passed on in _HANDLER. Default: the base name of the command.
	Handler string

	// AppPort is the app port of the first environment; the others take the
	// next free ones. Default: free ports outside the range from which the
	// kernel takes ports for outgoing connections.
	AppPort int

	// ColdStart delays the start of a new environment's processes, as fetching
	// the image does. Default: none.
	ColdStart time.Duration

	// Timeout is the function timeout: the longest that one invocation takes.
	// Default: DefaultTimeout.
	Timeout time.Duration

	// InitTimeout is how long the init phase may take, after which it is tried
	// once more as a part of the first invocation. Default: DefaultInitTimeout,
	// or with MaxConcurrency, SnapStart or Provisioned the larger one of
	// DefaultLongInitTimeout and Timeout; these fail without a second try.
	InitTimeout time.Duration

	// RestoreTimeout is how long the hooks may take that run after a restore from
	// the snapshot. Default: DefaultRestoreTimeout.
	RestoreTimeout time.Duration

	// WarmFor is how long an idle environment is kept. Default: DefaultWarmFor;
	// negative: not at all.
	WarmFor time.Duration

	// Memory is the function's memory in bytes, announced to the runtime in
	// MB and not enforced. Default: DefaultMemory.
	Memory uint64

	// MaxEnvironments is how many environments may be in use at once, each with
	// one invocation or as many as MaxConcurrency says; more invocations are
	// throttled (429). Environments that are shutting down do not count.
	// Default: DefaultMaxEnvironments.
	MaxEnvironments int

	// MaxConcurrency above 1 makes environments those of Lambda Managed
	// Instances: each runs up to that many invocations at once, for which the
	// runtime asks in parallel. They are never frozen, their extensions cannot
	// subscribe to INVOKE, and an invocation that times out fails alone: its
	// place is free once the runtime has answered it after all.
	// https://docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html
	MaxConcurrency int

	// SnapStart has the runtime go through the phases of SnapStart: its init
	// phase ends when it asks to be restored (or for its first event, if it knows
	// nothing of snapshots), it is stopped, and it goes on with its restore hooks
	// at once. The snapshot is the process itself: every environment has its own
	// init phase, and no two share memory, random state or connections.
	// https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html
	SnapStart bool

	// Provisioned tells the runtime that it is part of provisioned concurrency,
	// and gives it the time that it has there. Environments are started by their
	// first invocation all the same.
	Provisioned bool

	// TenantIsolation gives each tenant environments of its own. Invocations
	// without a tenant ID are refused.
	// https://docs.aws.amazon.com/lambda/latest/dg/tenant-isolation.html
	TenantIsolation bool

	// Output receives what the processes write to stdout and stderr: whole
	// lines, one per Write, as they were written and with nothing added. Lines
	// longer than 64 KiB are broken. A slow Output loses lines and never
	// blocks a process. Nil: the output is discarded.
	Output io.Writer
}

// withDefaults fills in what is not set.
func (f Function) withDefaults() Function {
	if f.Handler == "" {
		f.Handler = filepath.Base(f.Command[0])
	}
	if f.Timeout == 0 {
		f.Timeout = DefaultTimeout
	}
	if f.InitTimeout == 0 {
		f.InitTimeout = DefaultInitTimeout
		if !f.onDemand() {
			f.InitTimeout = max(DefaultLongInitTimeout, f.Timeout)
		}
	}
	if f.RestoreTimeout == 0 {
		f.RestoreTimeout = DefaultRestoreTimeout
	}
	if f.WarmFor == 0 {
		f.WarmFor = DefaultWarmFor
	}
	if f.Memory == 0 {
		f.Memory = DefaultMemory
	}
	if f.MaxEnvironments == 0 {
		f.MaxEnvironments = DefaultMaxEnvironments
	}
	return f
}

func (f *Function) validate() error {
	if len(f.Command) == 0 || f.Command[0] == "" {
		return errors.New("command is missing")
	}
	if len(f.Extensions) > maxExtensions {
		return fmt.Errorf("%d extensions, at most %d are allowed", len(f.Extensions), maxExtensions)
	}
	names := make(map[string]bool, len(f.Extensions))
	for _, path := range f.Extensions {
		name := filepath.Base(path)
		if path == "" || names[name] {
			return fmt.Errorf("extension %q: file names must be unique, and not empty", path)
		}
		names[name] = true
	}
	if f.AppPort < 0 || f.AppPort > maxPort {
		return fmt.Errorf("app port %d is not between 0 and %d", f.AppPort, maxPort)
	}
	for _, pair := range f.Env {
		if name, _, _ := strings.Cut(pair, "="); slices.Contains(portNames, name) {
			return fmt.Errorf("variable %s: each environment gets a port of its own there, which the app has to listen on; the port setting chooses the first", name)
		}
	}
	if f.ColdStart < 0 || f.Timeout < 0 || f.InitTimeout < 0 || f.RestoreTimeout < 0 || f.MaxEnvironments < 0 || f.MaxConcurrency < 0 {
		return errors.New("cold start, timeouts, concurrency and number of environments must not be negative")
	}
	if len(f.Layers) > maxLayers {
		return fmt.Errorf("%d layers, at most %d are allowed", len(f.Layers), maxLayers)
	}
	return f.validateKind()
}

// validateKind refuses what AWS does not combine.
func (f *Function) validateKind() error {
	var kinds []string
	for kind, on := range map[string]bool{
		"several invocations at once": f.managed(),
		"SnapStart":                   f.SnapStart,
		"provisioned concurrency":     f.Provisioned,
		"tenant isolation":            f.TenantIsolation,
	} {
		if on {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) > 1 {
		slices.Sort(kinds)
		return fmt.Errorf("%s exclude each other", strings.Join(kinds, " and "))
	}
	return nil
}

// managed reports whether environments are those of Managed Instances.
func (f *Function) managed() bool { return f.MaxConcurrency > 1 }

func (f *Function) concurrency() int { return max(1, f.MaxConcurrency) }

// onDemand reports whether AWS would start environments when they are needed,
// and not before.
func (f *Function) onDemand() bool { return !f.managed() && !f.SnapStart && !f.Provisioned }

// initialization is the value of AWS_LAMBDA_INITIALIZATION_TYPE.
func (f *Function) initialization() string {
	switch {
	case f.managed():
		return "lambda-managed-instances"
	case f.SnapStart:
		return "snap-start"
	case f.Provisioned:
		return "provisioned-concurrency"
	default:
		return "on-demand"
	}
}

// same reports whether environments made from f and o are alike, so that
// deploying the same function again keeps the warm ones. The output is left
// out: it belongs to the function and can change under a living environment.
func (f Function) same(o Function) bool {
	f.Output, o.Output = nil, nil
	return reflect.DeepEqual(f, o)
}

// session returns what the sessions of the function's environments depend on.
func (f *Function) session(extensions []string) sessionConfig {
	return sessionConfig{names: extensions, concurrency: f.concurrency(), snapStart: f.SnapStart}
}
