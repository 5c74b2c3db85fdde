package deploy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// root is the checkout.
const root = "../.."

// baseImages answers for the registry: every image exists and has a shell's PATH.
type baseImages struct{}

func (baseImages) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"config":{"Env":["PATH=/usr/bin"]}}`, opt.ImageOpt.Platform.Architecture)
	return ref, "", []byte(config), nil
}

// lint returns what BuildKit's own "docker build --check" would say.
func lint(t *testing.T, source []byte, arch string) []string {
	t.Helper()
	empty := llb.Scratch()
	definition, err := empty.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sources := llb.NewSourceMap(&empty, "Dockerfile", "Dockerfile", source)
	sources.Definition = definition
	results, err := dockerfile2llb.DockerfileLint(t.Context(), source, dockerfile2llb.ConvertOpt{
		MetaResolver:   baseImages{},
		SourceMap:      sources,
		TargetPlatform: &ocispecs.Platform{OS: "linux", Architecture: arch},
	})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, w := range results.Warnings {
		found = append(found, w.RuleName+": "+w.Detail)
	}
	if results.Error != nil {
		found = append(found, "error: "+results.Error.Message)
	}
	return found
}

// dockerfiles are those that git knows or would add, below the checkout.
func dockerfiles(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*Dockerfile")
	cmd.Dir = root
	out, err := cmd.Output()
	files := strings.Fields(string(out))
	if err != nil || len(files) < 4 {
		t.Fatalf("Dockerfiles: %v, %v", files, err)
	}
	return files
}

func stages(t *testing.T, file string) (all []instructions.Stage, final instructions.Stage) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(bytes.NewReader(source))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	all, _, err = instructions.Parse(parsed.AST, linter.New(&linter.Config{}))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return all, all[len(all)-1]
}

func TestDockerfilesHaveNothingToWarnOf(t *testing.T) {
	for _, file := range dockerfiles(t) {
		source, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, arch := range []string{"amd64", "arm64"} {
			for _, w := range lint(t, source, arch) {
				t.Errorf("%s for %s: %s", file, arch, w)
			}
		}
	}
}

// The linter is really asked.
func TestLintSeesMistakes(t *testing.T) {
	for source, want := range map[string]string{
		"FROM alpine\nRUN echo $NOBODY\nCMD echo hi\n":   "JSONArgsRecommended",
		"FROM alpine as build\n":                         "FromAsCasing",
		"FROM alpine\nENV PASSWORD=secret\n":             "SecretsUsedInArgOrEnv",
		"FROM alpine\nCOPY --from=nowhere:/x /x /y\n":    "error",
		"FROM --platform=linux/amd64 alpine\n":           "FromPlatformFlagConstDisallowed",
		"FROM alpine\nHEALTHCHECK --every=1s CMD true\n": "error",
	} {
		if found := strings.Join(lint(t, []byte(source), "arm64"), "\n"); !strings.Contains(found, want) {
			t.Errorf("%q: %q, want %s", source, found, want)
		}
	}
}

// An image for another architecture needs no emulation: what runs while it is
// built runs in stages for the machine's own.
func TestImagesAreCrossBuilt(t *testing.T) {
	for _, file := range dockerfiles(t) {
		all, _ := stages(t, file)
		for _, stage := range all {
			for _, c := range stage.Commands {
				if _, ok := c.(*instructions.RunCommand); ok && stage.Platform != "$BUILDPLATFORM" {
					t.Errorf("%s: something runs in a stage that is not for $BUILDPLATFORM: %v", file, stage.SourceCode)
				}
			}
		}
	}
}

// What a RUN line takes from BuildKit or from the head of its file is declared in its
// stage; else it is empty there, and an image for another architecture has binaries
// of this one.
func TestRunLinesHaveTheirVariables(t *testing.T) {
	variable := regexp.MustCompile(`\$\{([A-Z_]+)\}`)
	for _, file := range dockerfiles(t) {
		all, _ := stages(t, file)
		for _, stage := range all {
			declared := map[string]bool{}
			for _, c := range stage.Commands {
				switch c := c.(type) {
				case *instructions.ArgCommand:
					for _, a := range c.Args {
						declared[a.Key] = true
					}
				case *instructions.RunCommand:
					for _, m := range variable.FindAllStringSubmatch(strings.Join(c.CmdLine, " "), -1) {
						if !declared[m[1]] {
							t.Errorf("%s: %s is not declared before %q", file, m[1], c.CmdLine)
						}
					}
				}
			}
		}
	}
}

// contextOf is the directory that a Dockerfile is built in, empty for one that is built
// in a directory made for it.
func contextOf(file string) string {
	switch {
	case strings.HasPrefix(file, "examples/"):
		return filepath.Dir(file)
	case file == "cmd/dist/image.Dockerfile":
		return ""
	default:
		return "."
	}
}

// What a COPY line takes from the context is there, and .dockerignore leaves it in.
func TestImagesCopyWhatExists(t *testing.T) {
	for _, file := range dockerfiles(t) {
		dir := contextOf(file)
		if dir == "" {
			continue
		}
		ignored := ignores(t, dir)
		all, _ := stages(t, file)
		copies := 0
		for _, stage := range all {
			for _, c := range stage.Commands {
				c, ok := c.(*instructions.CopyCommand)
				if !ok || c.From != "" {
					continue
				}
				for _, source := range c.SourcePaths {
					copies++
					if _, err := os.Stat(filepath.Join(root, dir, source)); err != nil {
						t.Errorf("%s: %v", file, err)
					}
					if out, err := ignored.MatchesOrParentMatches(filepath.Clean(source)); err != nil || out {
						t.Errorf("%s: .dockerignore leaves %s out (%v)", file, source, err)
					}
				}
			}
		}
		if copies == 0 {
			t.Errorf("%s copies nothing", file)
		}
	}
}

// What is compiled into the images is in their context.
func TestContextHasTheSources(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", `{{if .Module}}{{if .Module.Main}}{{$dir := .Dir}}`+
		`{{range .GoFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{end}}{{end}}`, "./cmd/caddy", "./lambdaadapter")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	ignored := ignores(t, ".")
	files := strings.Fields(string(out))
	if len(files) < 100 {
		t.Fatalf("sources: %q", files)
	}
	for _, file := range files {
		name, err := filepath.Rel(top, file)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := ignored.MatchesOrParentMatches(name); err != nil || out {
			t.Errorf(".dockerignore leaves %s out (%v)", name, err)
		}
	}
}

// ignores reads the .dockerignore of a context, which need not have one.
func ignores(t *testing.T, dir string) *patternmatcher.PatternMatcher {
	t.Helper()
	var patterns []string
	f, err := os.Open(filepath.Join(root, dir, ".dockerignore"))
	if err == nil {
		defer f.Close()
		patterns, err = ignorefile.ReadAll(f)
	}
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return matcher
}

// Nothing that runs as a server runs as root.
func TestImagesRunAsNobody(t *testing.T) {
	for _, file := range dockerfiles(t) {
		_, final := stages(t, file)
		user := ""
		for _, c := range final.Commands {
			if u, ok := c.(*instructions.UserCommand); ok {
				user = u.User
			}
		}
		if final.BaseName == "scratch" { // one file, to be copied out of it
			continue
		}
		if user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") {
			t.Errorf("%s: the image runs as %q", file, user)
		}
	}
}

// Lambda wants the path of an entry point to be absolute.
// https://docs.aws.amazon.com/lambda/latest/dg/images-create.html#images-parms
func TestFunctionImagesHaveAbsoluteEntryPoints(t *testing.T) {
	for _, file := range []string{"examples/express/Dockerfile", "examples/fastapi/Dockerfile"} {
		_, final := stages(t, file)
		found := false
		for _, c := range final.Commands {
			if e, ok := c.(*instructions.EntrypointCommand); ok {
				found = true
				if !strings.HasPrefix(e.CmdLine[0], "/") {
					t.Errorf("%s: entry point %q", file, e.CmdLine)
				}
			}
		}
		if !found {
			t.Errorf("%s has no entry point", file)
		}
	}
}

func TestRouterImage(t *testing.T) {
	_, final := stages(t, "xcaddy.Dockerfile")
	env := map[string]string{}
	var check, entry, cmd []string
	for _, c := range final.Commands {
		switch c := c.(type) {
		case *instructions.EnvCommand:
			for _, kv := range c.Env {
				env[kv.Key] = kv.Value
			}
		case *instructions.HealthCheckCommand:
			check = c.Health.Test
		case *instructions.EntrypointCommand:
			entry = c.CmdLine
		case *instructions.CmdCommand:
			cmd = c.CmdLine
		}
	}
	if env["XDG_CONFIG_HOME"] != "/config" || env["XDG_DATA_HOME"] != "/data" {
		t.Errorf("environment %v", env)
	}
	if got, want := strings.Join(append(entry, cmd...), " "), "/usr/bin/caddy run --config /etc/caddy/Caddyfile --adapter caddyfile"; got != want {
		t.Errorf("it runs %q, want %q", got, want)
	}
	// TestRouter does what it does to a Caddy that runs.
	if got := strings.Join(check, " "); got != "CMD wget -q -T 2 -O /dev/null "+healthCheckURL {
		t.Errorf("health check %q", got)
	}
}
