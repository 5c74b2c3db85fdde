// Package locallambda is a Lambda service on this machine, so that the router,
// the adapter and real apps run without AWS. In front it speaks Lambda's
// Invoke API over HTTP, so an AWS SDK client is pointed at it by endpoint and
// notices no difference. Behind it every execution environment is a set of
// real processes with a Runtime API and an Extensions API of its own, which
// are initialised, frozen, thawed, timed out and shut down as Lambda does it.
//
// It must not know what a dispatch event, a tunnel or Caddy is, and it must
// never leave a process behind, however the service itself ends.
//
// Sources: https://docs.aws.amazon.com/lambda/latest/dg/ lambda-runtime-environment.html
// (phases, shutdown), runtimes-api.html, runtimes-extensions-api.html,
// configuration-envvars.html; https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html.
//
// # What differs from AWS
//
//   - Environments share this machine: its network, its files and its users.
//     Each gets an app port of its own in PORT and AWS_LWA_PORT. Memory is
//     announced and not enforced.
//   - There is one version of a function. Any qualifier is accepted; it is
//     part of the ARN that the runtime sees, and runs what was deployed.
//   - An environment that timed out, crashed or could not be initialised is
//     given up; the next invocation gets a new one. On AWS its processes are
//     started again in place.
//   - An environment whose process dies between two invocations is given up
//     too, and no invocation fails for it.
//   - Events (asynchronous invocations) wait in memory for a free environment
//     and are tried once.
//   - There are no signatures, no identity and no access check: bind it to
//     loopback.
//
// # Processes
//
// Every process started here leads a process group of its own. On Linux an
// environment is all of its descendants, whichever group or session they are
// in: children of children, members of their groups, and whatever carries the
// environment's log stream name in its initial environment. A process that
// detaches itself from its parents, leaves their groups and overwrites its
// environment all at once escapes. On other Unix systems an environment is the
// process groups that were started here. Elsewhere [Service.Deploy] fails with
// [ErrUnsupported].
//
// If the service dies, by SIGKILL even, the kernel kills the processes it
// started (Linux), and a small guard process, which the service keeps beside
// itself and which is this very program in another role, kills the rest.
package locallambda

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"time"
)

// Defaults of [Function], and the limits that Lambda has.
const (
	// DefaultTimeout is the longest that Lambda allows. AWS's own default of
	// three seconds is of no use to a function that is dispatched to.
	DefaultTimeout = 900 * time.Second
	// DefaultInitTimeout is what Lambda allows on-demand functions.
	DefaultInitTimeout = 10 * time.Second
	// DefaultWarmFor is how long an idle environment is kept. AWS does not
	// document its own value.
	DefaultWarmFor = 5 * time.Minute
	// DefaultMemory is Lambda's default, in bytes.
	DefaultMemory = 128 << 20
	// DefaultMaxEnvironments keeps a mistake from filling this machine.
	DefaultMaxEnvironments = 100

	maxExtensions = 10 // extensions that may register, as on AWS

	mebibyte = 1 << 20
)

// ErrUnsupported is returned by [Service.Deploy] on systems whose processes
// this package cannot control.
var ErrUnsupported = errors.New("the local Lambda needs Linux or another Unix")

// ErrClosed is returned once the service is closed.
var ErrClosed = errors.New("the local Lambda is closed")

// Function is what [Service.Deploy] needs to know.
type Function struct {
	// Name is how the function is invoked: a name, name:qualifier, or an ARN.
	// A function deployed with a qualifier is found by that qualifier only; one
	// without is found by every qualifier that has no function of its own.
	Name string

	// Command is the runtime process and its arguments. A name without a slash
	// is looked up in the service's PATH, a relative path is relative to Dir.
	Command []string

	// Extensions are executables that run as external extensions, at most ten.
	// They start before the runtime and must register under their file names.
	Extensions []string

	// Env holds NAME=value pairs that the processes get besides the service's
	// own environment and Lambda's variables. The service's environment is
	// passed on without AWS_*, CADDY_*, variables of systemd and everything
	// whose name looks like a secret; what is listed here is passed on always,
	// unless Lambda sets it.
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
	// once more as a part of the first invocation. Default: DefaultInitTimeout.
	InitTimeout time.Duration

	// WarmFor is how long an idle environment is kept. Default: DefaultWarmFor;
	// negative: not at all.
	WarmFor time.Duration

	// Memory is the function's memory in bytes, announced to the runtime in
	// MB and not enforced. Default: DefaultMemory.
	Memory uint64

	// MaxEnvironments is how many invocations may run at once, each in an
	// environment of its own; more are throttled (429). Environments that are
	// shutting down do not count. Default: DefaultMaxEnvironments.
	MaxEnvironments int

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
	if f.ColdStart < 0 || f.Timeout < 0 || f.InitTimeout < 0 || f.MaxEnvironments < 0 {
		return errors.New("cold start, timeout, init timeout and number of environments must not be negative")
	}
	return nil
}

// same reports whether environments made from f and o are alike, so that
// deploying the same function again keeps the warm ones. The output is left
// out: it belongs to the function and can change under a living environment.
func (f Function) same(o Function) bool {
	f.Output, o.Output = nil, nil
	return reflect.DeepEqual(f, o)
}
