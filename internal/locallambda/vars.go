package locallambda

import (
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Names that no environment inherits from the service. The prefixes are those
// of AWS, which Lambda sets itself, of Caddy, and of systemd, whose sockets and
// credentials belong to the service alone.
var (
	withheldPrefixes = []string{"AWS_", "CADDY_", "LISTEN_", "WATCHDOG_"}
	withheldNames    = []string{
		"NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID",
		"_HANDLER", "_X_AMZN_TRACE_ID", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "PORT",
		guardVariable,
	}
	secretParts = []string{
		"SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL",
		"APIKEY", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY", "AUTH_KEY",
	}
)

// portNames are where the processes of an environment find the app's port.
var portNames = []string{"PORT", "AWS_LWA_PORT"}

// guardVariable turns a copy of this program into the guard. See guard_unix.go.
const guardVariable = "_LOCAL_LAMBDA_GUARD"

// streamVariable is also the mark by which the processes of an environment
// are recognised.
const streamVariable = "AWS_LAMBDA_LOG_STREAM_NAME"

func withheld(name string) bool {
	name = strings.ToUpper(name)
	return slices.Contains(withheldNames, name) ||
		slices.ContainsFunc(withheldPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) ||
		slices.ContainsFunc(secretParts, func(p string) bool { return strings.Contains(name, p) })
}

// variables returns the environment variables of a sandbox's processes. Later
// ones win, as os/exec has it.
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
func variables(inherited []string, c sandboxConfig, api string) []string {
	f := c.settings
	env := make([]string, 0, len(inherited)+len(f.Env)+20)
	for _, pair := range inherited {
		if name, _, ok := strings.Cut(pair, "="); ok && !withheld(name) {
			env = append(env, pair)
		}
	}
	env = append(env, "AWS_REGION="+region, "AWS_DEFAULT_REGION="+region)
	for _, pair := range f.Env {
		if name, value, ok := strings.Cut(pair, "="); ok {
			pair = name + "=" + inOpt(c.opt, value)
		}
		env = append(env, pair)
	}
	if c.opt != "" {
		env = appendPath(env, "PATH", filepath.Join(c.opt, "bin"))
		env = appendPath(env, "LD_LIBRARY_PATH", filepath.Join(c.opt, "lib"))
	}
	if f.managed() {
		env = append(env, "AWS_LAMBDA_MAX_CONCURRENCY="+strconv.Itoa(f.MaxConcurrency))
	}
	root := f.Dir
	if abs, err := filepath.Abs(root); err == nil { // an empty Dir is the service's own
		root = abs
	}
	for _, name := range portNames {
		env = append(env, name+"="+strconv.Itoa(c.port))
	}
	return append(env,
		"AWS_LAMBDA_RUNTIME_API="+api,
		"AWS_LAMBDA_FUNCTION_NAME="+c.ref.name,
		"AWS_LAMBDA_FUNCTION_VERSION="+latest,
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE="+strconv.FormatUint(max(1, f.Memory/mebibyte), 10),
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/"+c.ref.name,
		streamVariable+"="+c.id,
		"AWS_LAMBDA_INITIALIZATION_TYPE="+f.initialization(),
		"LAMBDA_TASK_ROOT="+root,
		"_HANDLER="+f.Handler,
		"PWD="+root,
	)
}

// lookup returns the value of a variable.
func lookup(env []string, name string) string {
	for _, pair := range slices.Backward(env) { // the last one wins
		if n, value, _ := strings.Cut(pair, "="); n == name {
			return value
		}
	}
	return ""
}

// appendPath adds a directory to the end of a list of directories.
func appendPath(env []string, name, dir string) []string {
	if list := lookup(env, name); list != "" {
		dir = list + string(filepath.ListSeparator) + dir
	}
	return append(env, name+"="+dir)
}

// runtimeCommand returns the command that starts the runtime.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
func runtimeCommand(c sandboxConfig) []string {
	command := slices.Clone(c.settings.Command)
	command[0] = inOpt(c.opt, command[0])
	if wrapper := inOpt(c.opt, lookup(c.settings.Env, "AWS_LAMBDA_EXEC_WRAPPER")); wrapper != "" {
		return slices.Insert(command, 0, wrapper)
	}
	return command
}

// supported reports whether environments can run on this system.
func supported() error {
	if !canRun {
		return unsupportedOn(runtime.GOOS)
	}
	return nil
}
