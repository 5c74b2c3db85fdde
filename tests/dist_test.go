package tests

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// adapterCommand is the command of docs/adapter.md that begins so.
func adapterCommand(t *testing.T, prefix string) string {
	t.Helper()
	for _, c := range commands(t, filepath.Join(root, "docs", "adapter.md")) {
		if strings.HasPrefix(c, prefix) {
			return c
		}
	}
	t.Fatalf("docs/adapter.md has no command %q", prefix)
	return ""
}

// The commands of docs/adapter.md, one after the other and as they are written.
// What they build is checked in cmd/dist.
func TestAdapterIsBuiltAndPublished(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("sh", "-c", adapterCommand(t, "go run ./cmd/dist")+" -o "+filepath.Join(dir, "dist"))
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("docker", func(t *testing.T) { buildImage(t, dir) })
	t.Run("aws", func(t *testing.T) { publishLayer(t, dir) })
}

// buildImage runs docker's command with a stand-in for docker, which needs a
// daemon: it says what it was asked for.
func buildImage(t *testing.T, dir string) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", adapterCommand(t, "docker buildx build"))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	args := strings.Fields(string(out))
	if !slices.Contains(args, "linux/amd64,linux/arm64") {
		t.Errorf("not both architectures: %q", args)
	}
	context := filepath.Join(dir, args[len(args)-1])
	for _, file := range []string{"Dockerfile", "amd64/lambdaadapter", "arm64/lambdaadapter"} {
		if _, err := os.Stat(filepath.Join(context, file)); err != nil {
			t.Error(err)
		}
	}
}

// publishLayer runs the real AWS CLI against a Lambda that takes down what it
// is told.
func publishLayer(t *testing.T, dir string) {
	aws := os.Getenv("LAMBDA_DISPATCH_TEST_AWS")
	if aws == "" {
		var err error
		if aws, err = exec.LookPath("aws"); err != nil {
			t.Skip("NOT TESTED: no AWS CLI here; LAMBDA_DISPATCH_TEST_AWS can name it, see .ci/run")
		}
	}
	bin := t.TempDir()
	if err := os.Symlink(aws, filepath.Join(bin, "aws")); err != nil {
		t.Fatal(err)
	}
	asked := make(map[string]json.RawMessage)
	mux := http.NewServeMux()
	for _, api := range []string{
		"POST /2018-10-31/layers/lambda-dispatch-adapter/versions",
		"PUT /2015-03-31/functions/shop/configuration",
	} {
		mux.HandleFunc(api, func(w http.ResponseWriter, r *http.Request) {
			var body json.RawMessage
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Errorf("%s: %v", api, err)
			}
			asked[r.Method] = body
			if r.Method == http.MethodPost {
				w.WriteHeader(http.StatusCreated)
			}
			_, _ = w.Write([]byte("{}"))
		})
	}
	lambda := httptest.NewServer(mux)
	defer lambda.Close()
	for _, line := range []string{adapterCommand(t, "aws lambda publish-layer-version"), adapterCommand(t, "aws lambda update-function-configuration")} {
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "AWS_ENDPOINT_URL="+lambda.URL, "AWS_REGION=eu-central-1",
			"AWS_DEFAULT_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test",
			"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_PAGER=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}

	var layer struct {
		Content                 struct{ ZipFile []byte }
		CompatibleArchitectures []string
	}
	if err := json.Unmarshal(asked[http.MethodPost], &layer); err != nil {
		t.Fatal(err)
	}
	zr, err := zip.NewReader(bytes.NewReader(layer.Content.ZipFile), int64(len(layer.Content.ZipFile)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range zr.File {
		names = append(names, f.Name)
	}
	if !slices.Equal(names, []string{"bootstrap", "extensions/lambdaadapter"}) || !slices.Equal(layer.CompatibleArchitectures, []string{"arm64"}) {
		t.Errorf("layer for %q with %q", layer.CompatibleArchitectures, names)
	}
	var function struct {
		Handler     string
		Layers      []string
		Environment struct{ Variables map[string]string }
	}
	if err := json.Unmarshal(asked[http.MethodPut], &function); err != nil {
		t.Fatal(err)
	}
	if function.Handler != "run.sh" || len(function.Layers) != 1 || function.Environment.Variables["AWS_LAMBDA_EXEC_WRAPPER"] != "/opt/bootstrap" {
		t.Errorf("function %+v", function)
	}
}
