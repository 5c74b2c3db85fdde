package layer

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The app says what it was given, and its process ID.
const app = "#!/bin/sh\n" +
	`echo "app arguments=$# PORT=$PORT endpoint=$AWS_LAMBDA_HTTP_ENDPOINT chain=${LAMBDA_DISPATCH_EXEC_WRAPPER-unset} seen=$SEEN pid=$$"` + "\n"

// wrapper is another layer's: it changes the environment and runs its
// arguments, as those of OpenTelemetry and Datadog do.
const wrapper = "#!/bin/sh\n" + `SEEN="$SEEN+wrapped($#)" exec "$@"` + "\n"

// file is a file of the function or of another layer.
type file struct {
	content string
	mode    os.FileMode
}

// run runs the script as Lambda does, in a directory with the given files,
// which env and the results name TASK.
func run(t *testing.T, shell []string, files map[string]file, env string) (stdout, stderr string, status int) {
	t.Helper()
	task := t.TempDir()
	for name, f := range files {
		path := filepath.Join(task, name)
		if f.mode.IsDir() {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(f.content), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	script, err := filepath.Abs("bootstrap")
	if err != nil {
		t.Fatal(err)
	}
	args := append(slices.Clip(shell), script, "/var/lang/bin/node", "--expose-gc", "index.mjs")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one that starts itself for ever
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LAMBDA_TASK_ROOT=" + task, "AWS_LAMBDA_EXEC_WRAPPER=/opt/bootstrap"}
	for kv := range strings.FieldsSeq(env) {
		cmd.Env = append(cmd.Env, strings.NewReplacer("TASK", task, "SPACE", " ", "SCRIPT", script).Replace(kv))
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	pid := "pid=" + strconv.Itoa(cmd.Process.Pid)
	clean := strings.NewReplacer(task, "TASK", pid, "pid=same")
	return clean.Replace(out.String()), clean.Replace(errs.String()), cmd.ProcessState.ExitCode()
}

func TestBootstrap(t *testing.T) {
	const started = "app arguments=0 PORT=8080 endpoint=127.0.0.1:8080 chain=unset seen= pid=same\n"
	runSh := map[string]file{"run.sh": {app, 0o755}}
	with := func(name, content string, mode os.FileMode) map[string]file {
		return map[string]file{"run.sh": {app, 0o755}, name: {content, mode}}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		self = []byte("\x7fELF")
	}

	tests := map[string]struct {
		files  map[string]file
		env    string
		stdout string
		stderr []string // in one line; none: stderr is empty
		status int
	}{
		"handler":              {runSh, "_HANDLER=run.sh", started, nil, 0},
		"handler in a folder":  {runSh, "_HANDLER=./run.sh", started, nil, 0},
		"absolute handler":     {runSh, "_HANDLER=TASK/run.sh LAMBDA_TASK_ROOT=/nowhere", started, nil, 0},
		"name with a blank":    {with("my run.sh", app, 0o755), "_HANDLER=mySPACErun.sh", started, nil, 0},
		"no first line":        {map[string]file{"run.sh": {`echo plain $PORT`, 0o755}}, "_HANDLER=run.sh", "plain 8080\n", nil, 0},
		"blanks in first line": {map[string]file{"run.sh": {"#! \t/bin/sh -e\nfalse\necho no\n", 0o755}}, "_HANDLER=run.sh", "", nil, 1},
		"the app's status":     {map[string]file{"run.sh": {"#!/bin/sh\nexit 7\n", 0o755}}, "_HANDLER=run.sh", "", nil, 7},
		"empty variables":      {runSh, "_HANDLER=run.sh PORT= AWS_LWA_PORT= LAMBDA_DISPATCH_PORT= AWS_LAMBDA_HTTP_ENDPOINT= LAMBDA_DISPATCH_EXEC_WRAPPER=", started, nil, 0},

		"PORT": {runSh, "_HANDLER=run.sh PORT=3000",
			"app arguments=0 PORT=3000 endpoint=127.0.0.1:3000 chain=unset seen= pid=same\n", nil, 0},
		"AWS_LWA_PORT": {runSh, "_HANDLER=run.sh AWS_LWA_PORT=4000",
			"app arguments=0 PORT=4000 endpoint=127.0.0.1:4000 chain=unset seen= pid=same\n", nil, 0},
		"our port wins, and PORT stays": {runSh, "_HANDLER=run.sh PORT=3000 AWS_LWA_PORT=4000 LAMBDA_DISPATCH_PORT=5000",
			"app arguments=0 PORT=3000 endpoint=127.0.0.1:5000 chain=unset seen= pid=same\n", nil, 0},
		"endpoint": {runSh, "_HANDLER=run.sh AWS_LAMBDA_HTTP_ENDPOINT=0.0.0.0:6000",
			"app arguments=0 PORT=6000 endpoint=0.0.0.0:6000 chain=unset seen= pid=same\n", nil, 0},
		"endpoint with a scheme": {runSh, "_HANDLER=run.sh AWS_LAMBDA_HTTP_ENDPOINT=http://[::]:6000/",
			"app arguments=0 PORT=6000 endpoint=http://[::]:6000/ chain=unset seen= pid=same\n", nil, 0},
		"endpoint without a port": {runSh, "_HANDLER=run.sh AWS_LAMBDA_HTTP_ENDPOINT=0.0.0.0",
			"app arguments=0 PORT=8080 endpoint=0.0.0.0 chain=unset seen= pid=same\n", nil, 0},

		"socket": {runSh, "_HANDLER=run.sh LAMBDA_DISPATCH_APP_SOCKET=/tmp/app.sock",
			"app arguments=0 PORT= endpoint= chain=unset seen= pid=same\n", nil, 0},

		"wrapper": {with("wrap", wrapper, 0o755), "_HANDLER=run.sh LAMBDA_DISPATCH_EXEC_WRAPPER=TASK/wrap",
			"app arguments=0 PORT=8080 endpoint=127.0.0.1:8080 chain=unset seen=+wrapped(1) pid=same\n", nil, 0},
		"wrapper in the zip": {with("wrap", wrapper, 0o755), "_HANDLER=run.sh LAMBDA_DISPATCH_EXEC_WRAPPER=wrap",
			"app arguments=0 PORT=8080 endpoint=127.0.0.1:8080 chain=unset seen=+wrapped(1) pid=same\n", nil, 0},
		"wrapper that is this script": {runSh, "_HANDLER=run.sh LAMBDA_DISPATCH_EXEC_WRAPPER=SCRIPT", started, nil, 0},
		"no such wrapper": {runSh, "_HANDLER=run.sh LAMBDA_DISPATCH_EXEC_WRAPPER=/opt/otel-handler", "",
			[]string{"/opt/otel-handler does not exist", "LAMBDA_DISPATCH_EXEC_WRAPPER"}, 127},
		"wrapper that is not executable": {with("wrap", wrapper, 0o644), "_HANDLER=run.sh LAMBDA_DISPATCH_EXEC_WRAPPER=TASK/wrap", "",
			[]string{"TASK/wrap is not executable", "chmod +x"}, 126},

		"no handler":                {runSh, "", "", []string{"no handler", "run.sh"}, 127},
		"a runtime's handler":       {runSh, "_HANDLER=index.handler", "", []string{"TASK/index.handler does not exist", "run.sh"}, 127},
		"handler with arguments":    {runSh, "_HANDLER=run.shSPACE--port", "", []string{"TASK/run.sh --port does not exist", "without arguments"}, 127},
		"handler that is a folder":  {map[string]file{"run": {"", os.ModeDir}}, "_HANDLER=run", "", []string{"TASK/run is a directory"}, 126},
		"not executable":            {map[string]file{"run.sh": {app, 0o644}}, "_HANDLER=run.sh", "", []string{"TASK/run.sh is not executable", "chmod +x"}, 126},
		"Windows line ends":         {map[string]file{"run.sh": {strings.ReplaceAll(app, "\n", "\r\n"), 0o755}}, "_HANDLER=run.sh", "", []string{"TASK/run.sh", "CRLF"}, 126},
		"interpreter not there":     {map[string]file{"run.sh": {"#!/usr/bin/no-such-shell -e\n", 0o755}}, "_HANDLER=run.sh", "", []string{"TASK/run.sh", "there is no /usr/bin/no-such-shell"}, 127},
		"Windows ends and no shell": {map[string]file{"run.sh": {"#!/no/shell\r\n", 0o755}}, "_HANDLER=run.sh", "", []string{"CRLF"}, 126},
		"a program": {map[string]file{"run": {string(self), 0o755}}, "_HANDLER=run LAYER_TEST_APP=1",
			"program PORT=8080\n", nil, 0},
	}
	for _, shell := range [][]string{{"sh"}, {"dash"}, {"bash", "--posix"}, {"bash"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(shell[0]); err != nil {
			t.Logf("NOT TESTED with %s, which is not here", shell[0])
			continue
		}
		for name, tt := range tests {
			t.Run(strings.Join(shell, " ")+"/"+name, func(t *testing.T) {
				t.Parallel()
				stdout, stderr, status := run(t, shell, tt.files, tt.env)
				if stdout != tt.stdout || status != tt.status {
					t.Errorf("status %d and %q, want %d and %q; stderr: %s", status, stdout, tt.status, tt.stdout, stderr)
				}
				if tt.stderr == nil && stderr != "" {
					t.Errorf("stderr: %s", stderr)
				}
				for _, want := range tt.stderr {
					if !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "lambdaadapter: ") {
						t.Errorf("stderr %q, want one line with %q", stderr, want)
					}
				}
			})
		}
	}
}

// A handler may be a program; this binary is one.
func TestMain(m *testing.M) {
	if os.Getenv("LAYER_TEST_APP") != "" {
		_, _ = os.Stdout.WriteString("program PORT=" + os.Getenv("PORT") + "\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestBootstrapIsAScriptForLambda(t *testing.T) {
	if !bytes.HasPrefix(Bootstrap, []byte("#!/bin/sh\n")) || bytes.ContainsRune(Bootstrap, '\r') {
		t.Errorf("it begins with %q, or has Windows line ends", Bootstrap[:min(20, len(Bootstrap))])
	}
	info, err := os.Stat("bootstrap")
	if err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("it cannot be run from the checkout: %v, %v", info.Mode(), err)
	}
}
