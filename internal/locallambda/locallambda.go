// Package locallambda is a Lambda service on this machine, so that the router,
// the adapter and real apps run without AWS. In front it speaks Lambda's
// Invoke API over HTTP, buffered and streamed, so an AWS SDK client is pointed
// at it by endpoint and notices no difference. Behind it every execution
// environment is a set of real processes with a Runtime API and an Extensions
// API of its own, which are initialised, frozen, thawed, timed out and shut down
// as Lambda does it.
//
// It must not know what a dispatch event, a tunnel or Caddy is, and it must
// never leave a process behind, however the service itself ends.
//
// Sources: https://docs.aws.amazon.com/lambda/latest/dg/ lambda-runtime-environment.html
// (phases, shutdown), runtimes-api.html, runtimes-extensions-api.html,
// runtimes-custom.html (streaming), configuration-envvars.html, snapstart.html,
// snapstart-runtime-hooks-custom.html, tenant-isolation.html,
// lambda-managed-instances-execution-environment.html;
// https://docs.aws.amazon.com/lambda/latest/api/ API_Invoke.html and
// API_InvokeWithResponseStream.html.
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
//   - Every environment is started by an invocation and goes when it was idle
//     for a while: those of SnapStart, provisioned concurrency and Managed
//     Instances too, which AWS starts beforehand. Invocations that arrive
//     meanwhile wait for a Managed Instance's environment with room.
//   - A snapshot is the stopped process itself. It is restored once, at once.
//   - Layers are not mounted at /opt: see [Function].
//   - A streamed response is as fast as its caller; AWS slows it down after
//     6 MB. Callers see an error in it as they see one of Invoke: the code is
//     "Unhandled", the details are the error document.
//   - A tenant ID is passed on by functions without tenant isolation, which AWS
//     refuses.
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
// itself and which is this very program in another role, kills the rest. The
// unpacked layers stay in the temporary directory then.
package locallambda

import (
	"errors"
	"time"
)

// Defaults of [Function], and the limits that Lambda has.
const (
	// DefaultTimeout is the longest that Lambda allows. AWS's own default of
	// three seconds is of no use to a function that is dispatched to.
	DefaultTimeout = 900 * time.Second
	// DefaultInitTimeout is what Lambda allows on-demand functions. Others have
	// at least DefaultLongInitTimeout, and as long as the function timeout.
	DefaultInitTimeout     = 10 * time.Second
	DefaultLongInitTimeout = 130 * time.Second
	// DefaultRestoreTimeout is what Lambda allows the restore phase of SnapStart.
	DefaultRestoreTimeout = 10 * time.Second
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
