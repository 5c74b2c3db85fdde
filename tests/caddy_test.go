package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for something that should happen soon. It
// is generous because it only matters when the test fails.
const patience = 60 * time.Second

// router is a running Caddy. Its site and its admin API listen on Unix
// sockets, so that tests need no free ports.
type router struct {
	t       *testing.T
	cmd     *exec.Cmd
	dir     string
	client  *http.Client // for the site
	admin   *http.Client
	logs    *logBuffer
	exited  chan struct{}
	exitErr error
}

// startCaddy runs Caddy with one site whose body is given, and waits until it
// serves.
func startCaddy(t *testing.T, site string) *router {
	t.Helper()
	return startCaddyWith(t, nil, site)
}

// startCaddyWith is startCaddy with a command in front that Caddy is run by.
func startCaddyWith(t *testing.T, prefix []string, site string) *router {
	t.Helper()
	dir := shortTempDir(t)
	r := &router{t: t, dir: dir, logs: &logBuffer{}, exited: make(chan struct{})}
	r.client = unixClient(filepath.Join(dir, "site.sock"))
	r.admin = unixClient(filepath.Join(dir, "admin.sock"))
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(r.caddyfile(site)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(slices.Clone(prefix), caddyBin, "run", "--config", file)
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Dir = dir
	r.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "GORACE=halt_on_error=1",
		"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any") // for a local Lambda
	r.cmd.Stderr = r.logs
	r.cmd.Stdout = r.logs
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.exitErr = r.cmd.Wait()
		close(r.exited)
	}()
	t.Cleanup(r.stop)
	r.await("Caddy to serve", func() bool {
		select {
		case <-r.exited:
			t.Fatalf("caddy exited: %v\n%s", r.exitErr, r.logs)
		default:
		}
		return strings.Contains(r.logs.String(), "serving initial configuration")
	})
	return r
}

// caddyfile wraps the body of the site in what every test needs. What begins
// with a block of global options is a whole Caddyfile already, and only has
// %DIR% replaced.
func (r *router) caddyfile(site string) string {
	if strings.HasPrefix(site, "{") {
		return strings.ReplaceAll(site, "%DIR%", r.dir)
	}
	return fmt.Sprintf(`{
	admin unix//%[1]s/admin.sock
	auto_https off
	grace_period 20s
	servers {
		protocols h1 h2c
	}
	log {
		format json
		level DEBUG
	}
}
http://localhost {
	bind unix//%[1]s/site.sock
	log
%[2]s
}
`, r.dir, site)
}

// local is the body of an "invoker local" block for an app.
func local(lines ...string) string {
	return "invoker local {\n\tadapter " + adapterBin + "\n\t" + strings.Join(lines, "\n\t") + "\n}"
}

// dispatch is a lambda_dispatch directive.
func dispatch(lines ...string) string {
	return "lambda_dispatch app {\n" + strings.Join(lines, "\n") + "\n}"
}

// stop ends Caddy the way an orchestrator does, and checks that it went well.
func (r *router) stop() {
	select {
	case <-r.exited:
	default:
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.exited:
		case <-time.After(patience):
			r.t.Errorf("caddy did not exit after SIGTERM")
			_ = r.cmd.Process.Signal(syscall.SIGQUIT)
			<-r.exited
		}
	}
	if r.t.Failed() {
		r.t.Logf("caddy said:\n%s", r.logs.tail(200))
	}
	if strings.Contains(r.logs.String(), "DATA RACE") {
		r.t.Errorf("data race:\n%s", r.logs)
	}
}

// load gives Caddy a new configuration and returns the admin API's answer.
func (r *router) load(site string) (int, string) {
	r.t.Helper()
	resp, err := r.admin.Post("http://localhost/load", "text/caddyfile", strings.NewReader(r.caddyfile(site)))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// get sends a GET request to the site and returns status and body.
func (r *router) get(path string) (int, string) {
	r.t.Helper()
	resp, body, err := r.do(http.MethodGet, path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, body
}

func (r *router) do(method, path string, body io.Reader) (*http.Response, string, error) {
	req, err := http.NewRequest(method, "http://localhost"+path, body)
	if err != nil {
		return nil, "", err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// poolState is a pool as the admin API shows it.
type poolState struct {
	Name       string `json:"name"`
	Queued     int    `json:"queued"`
	InFlight   int    `json:"in_flight"`
	Desired    int    `json:"desired_instances"`
	PerRequest bool   `json:"chosen_per_request"`

	Instances []instanceState `json:"instances"`
}

type instanceState struct {
	ID          string `json:"id"`
	State       string `json:"state"`
	Environment string `json:"environment"`
	Requests    int    `json:"requests"`
}

// in counts the instances in a state.
func (p poolState) in(state string) (n int) {
	for _, i := range p.Instances {
		if i.State == state {
			n++
		}
	}
	return n
}

// pool returns the pool of the function "app".
func (r *router) pool() poolState {
	r.t.Helper()
	return r.pools()["app"]
}

// pools returns all pools by name.
func (r *router) pools() map[string]poolState {
	r.t.Helper()
	resp, err := r.admin.Get("http://localhost/lambda_dispatch/pools")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []poolState
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		r.t.Fatal(err)
	}
	byName := make(map[string]poolState)
	for _, p := range all {
		byName[p.Name] = p
	}
	return byName
}

// metrics returns every sample of the lambda_dispatch metrics, by its name and
// labels as they are written.
func (r *router) metrics() map[string]float64 {
	r.t.Helper()
	resp, err := r.admin.Get("http://localhost/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	samples := make(map[string]float64)
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		name, value, ok := strings.Cut(sc.Text(), "} ")
		if !ok {
			name, value, _ = strings.Cut(sc.Text(), " ")
		} else {
			name += "}"
		}
		if !strings.HasPrefix(name, "caddy_lambda_dispatch_") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			r.t.Fatalf("metric %q: %v", sc.Text(), err)
		}
		samples[strings.TrimPrefix(name, "caddy_lambda_dispatch_")] = v
	}
	return samples
}

// invocations returns how many invocations were started and how many ended.
func (r *router) invocations() (started, ended int) {
	for name, v := range r.metrics() {
		switch {
		case strings.HasPrefix(name, "invocations_total"):
			started += int(v)
		case strings.HasPrefix(name, "invocation_results_total"):
			ended += int(v)
		}
	}
	return started, ended
}

// await polls until the condition holds.
func (r *router) await(what string, cond func() bool) {
	r.t.Helper()
	await(r.t, what, cond)
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); ; {
		if cond() {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// logBuffer collects what a process says.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// count is how often a text was logged.
func (b *logBuffer) count(text string) int { return strings.Count(b.String(), text) }

func (b *logBuffer) tail(lines int) string {
	all := strings.Split(b.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// lines returns the log entries with the message, decoded.
func (b *logBuffer) lines(msg string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(b.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == msg {
			found = append(found, entry)
		}
	}
	return found
}

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		MaxIdleConnsPerHost: 1000,
		DisableCompression:  true,
	}}
}

// shortTempDir is t.TempDir with a path that leaves room for the name of a
// Unix socket, which may have 107 bytes.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ld-") //nolint:usetesting // t.TempDir has the test's name in its path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	return dir
}

// descendants returns the process IDs of all processes that descend from the
// process.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := make(map[int][]int)
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		// The name, in parentheses, may hold anything; state and parent follow.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	var all []int
	for todo := children[pid]; len(todo) > 0; {
		p := todo[0]
		todo = append(todo[1:], children[p]...)
		all = append(all, p)
	}
	return all
}

// givenAddresses are those that freeAddress has returned: the kernel may name a
// port again that nobody has bound yet.
var givenAddresses sync.Map

// freeAddress returns an address that is free for TCP and UDP, and another one
// each time.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		pc, err := net.ListenPacket("udp", addr)
		ln.Close()
		if err != nil {
			continue
		}
		pc.Close()
		if _, given := givenAddresses.LoadOrStore(addr, true); given {
			continue
		}
		return addr
	}
	t.Fatal("no address is free for TCP and UDP")
	return ""
}
