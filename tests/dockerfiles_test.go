package tests

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// dockerRun returns the RUN instruction of a Dockerfile that has a text in it, as
// a command of the shell: its variables have the values of the file's ARG lines, or
// those that are given.
func dockerRun(t *testing.T, file, with string, given map[string]string) string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.ReplaceAll(string(src), "\\\n", " ")
	args := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ARG (\w+)=(\S+)$`).FindAllStringSubmatch(lines, -1) {
		args[m[1]] = m[2]
	}
	for _, m := range regexp.MustCompile(`(?m)^RUN (.*)$`).FindAllStringSubmatch(lines, -1) {
		if !strings.Contains(m[1], with) {
			continue
		}
		return os.Expand(m[1], func(name string) string {
			value, ok := given[name]
			if !ok {
				value, ok = args[name]
			}
			if !ok {
				t.Fatalf("%s: %s has no value in %q", file, name, m[1])
			}
			return value
		})
	}
	t.Fatalf("%s has no RUN instruction with %q", file, with)
	return ""
}

// runInPlace runs such a command with the checkout in place of /src and a new
// directory in place of /out, which it returns.
func runInPlace(t *testing.T, command string, env ...string) string {
	t.Helper()
	out := t.TempDir()
	command = strings.NewReplacer("=/src", "="+root, "/out/", out+"/").Replace(command)
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, said)
	}
	return out
}

// The build line of the adapter's Dockerfile, run outside Docker, makes an
// adapter for both of Lambda's architectures, and the one for this machine
// serves a request.
func TestAdapterImageBuild(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			line := dockerRun(t, "lambdaadapter/Dockerfile", "go build", map[string]string{
				"TARGETOS": "linux", "TARGETARCH": arch, "VERSION": "v1.2.3",
			})
			bin := filepath.Join(runInPlace(t, line), "lambdaadapter")
			mustBeFor(t, bin, arch)
			if arch != runtime.GOARCH || runtime.GOOS != "linux" {
				return
			}
			r := startCaddy(t, dispatch("invoker local {\nadapter "+bin+"\ncommand "+demoBin+"\n}"))
			if status, body := r.get("/ping"); status != 200 || body != "pong" {
				t.Errorf("status %d, body %q", status, body)
			}
		})
	}
}

// mustBeFor checks the architecture of a binary, and that it needs no library.
func mustBeFor(t *testing.T, bin, arch string) {
	t.Helper()
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; f.Machine != want {
		t.Errorf("%s is for %v, not for %s", filepath.Base(bin), f.Machine, arch)
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("%s needs %v, %v", filepath.Base(bin), libs, err)
	}
}
