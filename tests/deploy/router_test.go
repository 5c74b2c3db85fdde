package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// healthCheckURL is what the image's health check asks, healthPath what the
	// load balancer does.
	healthCheckURL = "http://127.0.0.1:2019/metrics"
	healthPath     = "/lambda-dispatch/health"

	// patience is how long a test waits for something that should happen soon.
	patience = 60 * time.Second
)

// scratch is a directory for what the tests build.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "lambda-dispatch-deploy-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		scratch = dir
		return m.Run()
	}())
}

// caddy builds a Caddy with the module, and returns its path.
var caddy = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(scratch, "caddy")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/caddy")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return bin, nil
})

// process is a Caddy that runs.
type process struct {
	cmd    *exec.Cmd
	logs   *buffer
	exited chan struct{}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// command is Caddy in a task: a read-only file system, a region, a role.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	bin, err := caddy()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir = filepath.Join(root, "deploy")
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME=/dev/null/config", "XDG_DATA_HOME=/dev/null/data",
		"AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any")
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: command(t, env, args...), logs: &buffer{}, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.logs, p.logs
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() {
		p.terminate(t)
		if t.Failed() {
			t.Logf("caddy %s said:\n%s", args[0], p.logs)
		}
	})
	return p
}

// terminate is what ECS does, and waits for the end.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Error("Caddy does not exit")
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// get returns status and body, or 0 as long as nobody listens.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s: %v", url, err)
	}
	return resp.StatusCode, string(body)
}

func (p *process) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.exited:
			t.Fatalf("waiting for %s: Caddy exited", what)
		default:
		}
		if time.Now().After(limit) {
			t.Fatalf("%s: not for %v", what, patience)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// The Caddyfiles of the templates are valid, by way of the file in the image, and
// report to CloudWatch if that is asked for.
func TestCaddyfilesAreValid(t *testing.T) {
	both(t, func(t *testing.T, f *template) {
		for value, want := range map[string]string{"no": "null", "yes": `{"dimensions":{"service":"shop"}}`} {
			f := loadTemplate(t, f.name, with(f.given, "CloudWatchMetrics", value))
			if got := cloudWatchMetrics(t, adapted(t, f.caddyfile())); got != want {
				t.Errorf("CloudWatchMetrics=%s: %s", value, got)
			}
			if strings.Contains(f.caddyfile(), "${") {
				t.Errorf("something is not filled in:\n%s", f.caddyfile())
			}
		}
	})
	if out, err := command(t, []string{"CADDYFILE=:8080 { lambda_dispatch { nonsense } }"}, "validate",
		"--config", "Caddyfile", "--adapter", "caddyfile").CombinedOutput(); err == nil {
		t.Errorf("nonsense is valid:\n%s", out)
	}
}

// adapted is the JSON of a Caddyfile that is valid and formatted.
func adapted(t *testing.T, caddyfile string) []byte {
	t.Helper()
	var said, warned bytes.Buffer
	for _, what := range []string{"validate", "adapt"} {
		said.Reset()
		cmd := command(t, []string{"CADDYFILE=" + caddyfile}, what, "--config", "Caddyfile", "--adapter", "caddyfile")
		cmd.Stdout, cmd.Stderr = &said, &warned
		if err := cmd.Run(); err != nil || strings.Contains(warned.String(), "not formatted") {
			t.Fatalf("caddy %s: %v\n%s\n%s", what, err, warned.String(), caddyfile)
		}
	}
	return said.Bytes()
}

func cloudWatchMetrics(t *testing.T, config []byte) string {
	t.Helper()
	var c struct {
		Apps struct {
			LambdaDispatch struct {
				CloudWatchMetrics json.RawMessage `json:"cloudwatch_metrics"`
			} `json:"lambda_dispatch"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatalf("%v: %s", err, config)
	}
	if c.Apps.LambdaDispatch.CloudWatchMetrics == nil {
		return "null"
	}
	return string(c.Apps.LambdaDispatch.CloudWatchMetrics)
}

// A router with the very Caddyfile of the template, but for addresses and a shorter
// delay, serves a function; and from SIGTERM on it is unhealthy for the load
// balancer, yet serves what comes until that has noticed.
func TestRouter(t *testing.T) {
	lambda, site, callback, admin := freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	f := loadTemplate(t, "existing.yaml", with(forExisting, "Function", "shop", "CloudWatchMetrics", "yes"))
	caddyfile := f.caddyfile()
	for _, edit := range [][2]string{
		{"\n:8080 {", "\nhttp://" + site + " {"},
		{"listen :7443", "listen " + callback},
		{"advertise auto", "advertise " + callback},
		{"shutdown_delay 20s", "shutdown_delay 4s"},
	} {
		if strings.Count(caddyfile, edit[0]) != 1 {
			t.Fatalf("not once %q in\n%s", edit[0], caddyfile)
		}
		caddyfile = strings.Replace(caddyfile, edit[0], edit[1], 1)
	}
	function := start(t, nil, "lambda-dispatch", "local-lambda", "--listen", lambda, "--function", "shop")
	function.await(t, "the local Lambda", func() bool { return strings.Contains(function.logs.String(), "serves function shop") })
	router := start(t, []string{"CADDYFILE=" + caddyfile, "CADDY_ADMIN=" + admin, "AWS_ENDPOINT_URL_LAMBDA=http://" + lambda},
		"run", "--config", "Caddyfile", "--adapter", "caddyfile")
	health := "http://" + site + healthPath
	router.await(t, "health", func() bool { status, _ := get(t, health); return status == http.StatusOK })
	if status, body := get(t, strings.Replace(healthCheckURL, "127.0.0.1:2019", admin, 1)); status != http.StatusOK {
		t.Errorf("the image's health check: %d, %s", status, body)
	}
	router.await(t, "the function to answer", func() bool {
		status, body := get(t, "http://"+site+"/ping")
		return status == http.StatusOK && body == "pong"
	})

	if err := router.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	router.await(t, "the health check to fail", func() bool { status, _ := get(t, health); return status == http.StatusServiceUnavailable })
	long := make(chan string)
	go func() { // it outlasts the delay
		status, body := get(t, "http://"+site+"/delay?delay=6000")
		long <- fmt.Sprint(status, " ", body)
	}()
	if status, body := get(t, "http://"+site+"/ping"); status != http.StatusOK {
		t.Errorf("while the load balancer has not noticed: %d, %s", status, body)
	}
	if got := <-long; !strings.HasPrefix(got, "200 ") {
		t.Errorf("the long request: %s", got)
	}
	select {
	case <-router.exited:
	case <-time.After(patience):
		t.Fatal("the router does not exit")
	}
	if state := router.cmd.ProcessState; !state.Success() {
		t.Errorf("the router ended with %v", state)
	}
	reports := 0 // the last of them when the pool is closed
	for line := range strings.Lines(router.logs.String()) {
		var report struct {
			AWS           struct{ CloudWatchMetrics []any } `json:"_aws"`
			Pool, Service string
		}
		if json.Unmarshal([]byte(line), &report) == nil && len(report.AWS.CloudWatchMetrics) > 0 &&
			report.Pool == "shop" && report.Service == "shop" {
			reports++
		}
		if strings.Contains(line, `"level":"error"`) {
			t.Errorf("the router complains: %s", line)
		}
	}
	if reports == 0 {
		t.Error("nothing is reported to CloudWatch")
	}
}
