package deploy

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// awsCommands returns the lines of the bash blocks of docs/deploy.md: commands that
// need an account. Other shell blocks are the concern of the tests in tests.
func awsCommands(t *testing.T) []string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(root, "docs", "deploy.md"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	inside := false
	for line := range strings.Lines(string(src)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "```bash":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case inside:
			found = append(found, line)
		}
	}
	if len(found) < 10 {
		t.Fatalf("commands: %q", found)
	}
	return found
}

// deployment is a stack after one of the docs' commands: what is not named keeps its
// value.
type deployment struct {
	file  string
	given map[string]string
}

var (
	stackName    = regexp.MustCompile(`--stack-name (\S+)`)
	templateFile = regexp.MustCompile(`--template-file (\S+)`)
)

// deploy does what a command does to the stacks. It returns no stack if that is none.
func deploy(t *testing.T, stacks map[string]deployment, line string) (stack string, d deployment) {
	t.Helper()
	_, args, ok := strings.Cut(line, "aws cloudformation deploy ")
	if !ok {
		return "", d
	}
	name, file := stackName.FindStringSubmatch(args), templateFile.FindStringSubmatch(args)
	if file == nil || name == nil {
		t.Errorf("no template or stack in %q", line)
		return "", d
	}
	d = deployment{file: file[1], given: with(stacks[name[1]].given)}
	_, overrides, _ := strings.Cut(args, "--parameter-overrides ")
	for o := range strings.FieldsSeq(overrides) {
		name, value, _ := strings.Cut(o, "=")
		d.given[name] = value
	}
	stacks[name[1]] = d
	return name[1], d
}

// What is given to a template is what it asks for, with values that it accepts.
func TestDocsGiveParametersThatExist(t *testing.T) {
	seen, stacks := map[string]bool{}, map[string]deployment{}
	for _, line := range awsCommands(t) {
		stack, d := deploy(t, stacks, line)
		if stack == "" {
			continue
		}
		name := filepath.Base(d.file)
		seen[name] = true
		f := loadTemplate(t, name, d.given) // fails for unknown and missing ones
		for p, value := range d.given {
			about := f.parameters[p].(map[string]any)
			if allowed, ok := about["AllowedValues"].([]any); ok && !slices.Contains(allowed, any(value)) {
				t.Errorf("%s=%s: one of %v", p, value, allowed)
			}
			if pattern, ok := about["AllowedPattern"].(string); ok && !regexp.MustCompile("^(?:"+pattern+")$").MatchString(value) {
				t.Errorf("%s=%s does not match %s", p, value, pattern)
			}
		}
		if roles := len(f.ofType("AWS::IAM::Role")); (roles > 0) != strings.Contains(line, "--capabilities CAPABILITY_IAM") {
			t.Errorf("%d roles, and %q", roles, line)
		}
		// Larger ones have to be uploaded to S3 first.
		if info, err := os.Stat(filepath.Join(root, d.file)); err != nil || info.Size() > 51200 {
			t.Errorf("%s: %v, more than 51200 bytes", d.file, err)
		}
	}
	if names := slices.Sorted(maps.Keys(seen)); !slices.Equal(names, []string{"existing.yaml", "images.yaml", "service.yaml"}) {
		t.Errorf("the docs deploy %v", names)
	}
}

// The outputs that the docs ask for are those of the stack, as it is by then.
func TestDocsAskForOutputsThatExist(t *testing.T) {
	asked, stacks := 0, map[string]deployment{}
	for _, line := range awsCommands(t) {
		deploy(t, stacks, line)
		key := regexp.MustCompile(`OutputKey=='(\w+)'`).FindStringSubmatch(line)
		if key == nil {
			continue
		}
		asked++
		d, ok := stacks[stackName.FindStringSubmatch(line)[1]]
		if !ok {
			t.Errorf("%q asks a stack that is not there", line)
			continue
		}
		if _, ok := loadTemplate(t, filepath.Base(d.file), d.given).output(key[1]); !ok {
			t.Errorf("%q asks for what is not there then", line)
		}
	}
	if asked < 3 {
		t.Errorf("%d outputs", asked)
	}
}

// The Dockerfiles and directories that the docs build are there.
func TestDocsBuildWhatExists(t *testing.T) {
	builds := 0
	for _, line := range awsCommands(t) {
		if !strings.HasPrefix(line, "docker build ") {
			continue
		}
		builds++
		fields := strings.Fields(line)
		dir := fields[len(fields)-1]
		file := filepath.Join(dir, "Dockerfile")
		if i := slices.Index(fields, "-f"); i > 0 {
			file = fields[i+1]
		}
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if builds < 3 {
		t.Errorf("%d builds", builds)
	}
}

// The AWS CLI knows every command and option, and sends a request for each; what
// answers is not AWS, so that is where it ends.
func TestDocsSayWhatTheCLIUnderstands(t *testing.T) {
	cli := os.Getenv("LAMBDA_DISPATCH_TEST_AWS")
	if cli == "" {
		t.Skip("NOT TESTED: LAMBDA_DISPATCH_TEST_AWS is not set, see .ci/run")
	}
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `<Response><Errors><Error><Code>NotAWS</Code></Error></Errors></Response>`, http.StatusBadRequest)
	}))
	defer aws.Close()
	run := func(command string) (sent bool, said string) {
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(cli)+string(os.PathListSeparator)+os.Getenv("PATH"),
			"AWS_ENDPOINT_URL="+aws.URL, "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=eu-central-1",
			"AWS_CONFIG_FILE=/dev/null", "AWS_MAX_ATTEMPTS=1")
		out, _ := cmd.CombinedOutput()
		return strings.Contains(string(out), "(400)") || strings.Contains(string(out), "NotAWS"), string(out)
	}
	// This one asks nobody.
	configured := func(command string) {
		cmd := exec.Command("sh", "-c", command+" && aws configure get region")
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(cli)+string(os.PathListSeparator)+os.Getenv("PATH"),
			"AWS_CONFIG_FILE="+filepath.Join(t.TempDir(), "config"))
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "eu-central-1" {
			t.Errorf("%s: %v, the region is %q", command, err, out)
		}
	}
	commands := regexp.MustCompile(`aws [^|()]*(?:\([^)]*\))?[^|()]*`)
	ran := 0
	for _, line := range awsCommands(t) {
		if strings.HasPrefix(line, "docker") {
			continue
		}
		for _, command := range commands.FindAllString(line, -1) {
			if strings.HasPrefix(command, "aws configure ") {
				configured(command)
				continue
			}
			ran++
			if sent, said := run(command); !sent {
				t.Errorf("%s\n%s", command, said)
			}
		}
	}
	if ran < 10 {
		t.Errorf("only %d commands were run", ran)
	}
	for _, wrong := range []string{"aws ecs nonsense", "aws cloudformation deploy --stack-name x --template-file nowhere.yaml",
		"aws cloudformation describe-stacks --stack x y"} {
		if sent, said := run(wrong); sent {
			t.Errorf("%s was sent: %s", wrong, said)
		}
	}
}
