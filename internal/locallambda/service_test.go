//go:build unix

package locallambda

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// patience bounds every wait of these tests. It is never reached when they pass.
const patience = 20 * time.Second

// bench is a service with a client of it.
type bench struct {
	*Service
	t      *testing.T
	client *lambda.Client
	url    string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	s := New(zaptest.NewLogger(t))
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		if err := s.Close(t.Context()); err != nil { // its context is over: kills at once
			t.Error(err)
		}
		srv.Close()
	})
	return &bench{Service: s, t: t, url: srv.URL, client: newClient(srv)}
}

// newClient is the real SDK, without retries.
func newClient(srv *httptest.Server) *lambda.Client {
	return lambda.New(lambda.Options{
		Region:       region,
		BaseEndpoint: aws.String(srv.URL),
		Credentials:  credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "example", ""),
		HTTPClient:   srv.Client(),
		Retryer:      aws.NopRetryer{},
	})
}

// deploy deploys the test runtime as "app", with changes.
func (b *bench) deploy(change ...func(*Function)) {
	b.t.Helper()
	f := testFunction()
	for _, c := range change {
		c(&f)
	}
	if err := b.Deploy(f); err != nil {
		b.t.Fatal(err)
	}
}

func testFunction() Function {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Function{Name: "app", Command: []string{self}, Env: []string{
		roleVariable + "=runtime",
		"GORACE=atexit_sleep_ms=0", // processes of the race detector linger for a second
	}}
}

func env(pairs ...string) func(*Function) {
	return func(f *Function) { f.Env = append(f.Env, pairs...) }
}

func (b *bench) call(payload any) (*lambda.InvokeOutput, error) {
	body, ok := payload.([]byte)
	if !ok {
		body = marshal(payload)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return b.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("app"), Payload: body})
}

// invoke expects an answer of the test runtime.
func (b *bench) invoke(o order) answer {
	b.t.Helper()
	out, err := b.call(o)
	if err != nil {
		b.t.Fatal(err)
	}
	if out.FunctionError != nil {
		b.t.Fatalf("function error %s: %s", *out.FunctionError, out.Payload)
	}
	var a answer
	if err := json.Unmarshal(out.Payload, &a); err != nil {
		b.t.Fatalf("%v: %s", err, out.Payload)
	}
	return a
}

// fail expects a function error and returns its type and message.
func (b *bench) fail(o order) (kind, message string) {
	b.t.Helper()
	out, err := b.call(o)
	if err != nil {
		b.t.Fatal(err)
	}
	if out.StatusCode != 200 || aws.ToString(out.FunctionError) != "Unhandled" {
		b.t.Fatalf("%+v: status %d, function error %q: %.100s", o, out.StatusCode, aws.ToString(out.FunctionError), out.Payload)
	}
	var doc errorDocument
	if err := json.Unmarshal(out.Payload, &doc); err != nil {
		b.t.Fatalf("%v: %s", err, out.Payload)
	}
	return doc.Type, doc.Message
}

// only returns the one environment of "app".
func (b *bench) only() EnvironmentInfo {
	b.t.Helper()
	infos := b.Environments("app")
	if len(infos) != 1 {
		b.t.Fatalf("%d environments, want 1: %+v", len(infos), infos)
	}
	return infos[0]
}

// eventually waits for something that nothing tells about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// gate is a place where processes and the test meet.
type gate struct {
	t       *testing.T
	ln      net.Listener
	arrived chan visitor
}

// visitor is a process at the gate. Its connection ends with the process.
type visitor struct {
	line string
	conn net.Conn
}

func newGate(t *testing.T) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, ln: ln, arrived: make(chan visitor, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				_ = conn.Close()
				continue
			}
			g.arrived <- visitor{line: strings.TrimSpace(line), conn: conn}
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		for len(g.arrived) > 0 {
			_ = (<-g.arrived).conn.Close()
		}
	})
	return g
}

func (g *gate) address() string { return g.ln.Addr().String() }

// next waits for the next visitor.
func (g *gate) next() visitor {
	g.t.Helper()
	select {
	case v := <-g.arrived:
		g.t.Cleanup(func() { _ = v.conn.Close() })
		return v
	case <-time.After(patience):
		g.t.Fatal("nobody came to the gate")
		return visitor{}
	}
}

func (v visitor) name() string { return strings.Fields(v.line)[0] }

// let lets the visitor go on.
func (v visitor) let(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(v.conn, "go\n"); err != nil {
		t.Fatal(err)
	}
	_ = v.conn.Close()
}

// waitEnd waits for the process to end.
func (v visitor) waitEnd(t *testing.T) {
	t.Helper()
	_ = v.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := v.conn.Read(make([]byte, 1)); os.IsTimeout(err) {
		t.Fatalf("%s lives on", v.line)
	}
}

// extensions makes executables for external extensions.
func extensions(t *testing.T, names ...string) func(*Function) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	paths := make([]string, 0, len(names))
	for _, name := range names {
		path := filepath.Join(dir, extensionPrefix+name)
		if err := os.Symlink(self, path); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return func(f *Function) { f.Extensions = paths }
}

func TestInvokeReusesAWarmEnvironment(t *testing.T) {
	b := newBench(t)
	b.deploy()
	first := b.invoke(order{})
	for i := range 10 {
		if a := b.invoke(order{}); a.PID != first.PID || a.Count != i+2 {
			t.Fatalf("invocation %d ran in process %d as its %d., want process %d", i+2, a.PID, a.Count, first.PID)
		}
	}
	info := b.only()
	if info.State != StateIdle || info.PID != first.PID || info.Invocations != 11 || info.AppPort == 0 || info.Since.IsZero() {
		t.Errorf("environment is %+v", info)
	}
}

func TestDeployRefusesNonsense(t *testing.T) {
	b := newBench(t)
	for want, change := range map[string]func(*Function){
		"not a function name":    func(f *Function) { f.Name = "a b" },
		"command is missing":     func(f *Function) { f.Command = nil },
		"must not be negative":   func(f *Function) { f.Timeout = -1 },
		"variable PORT":          func(f *Function) { f.Env = []string{"A=b", "PORT=3000"} },
		"app port 65536":         func(f *Function) { f.AppPort = 65536 },
		"11 extensions":          func(f *Function) { f.Extensions = make([]string, 11) },
		"file names must be uni": func(f *Function) { f.Extensions = []string{"/a/x", "/b/x"} },
	} {
		f := testFunction()
		change(&f)
		if err := b.Deploy(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	b.Remove("unknown")
	b.Remove("a b")
	if b.Environments("unknown") != nil || b.Environments("a b") != nil {
		t.Error("unknown functions have environments")
	}
}

// BenchmarkWarmInvoke thaws, invokes and freezes one environment.
func BenchmarkWarmInvoke(b *testing.B) {
	s := New(zap.NewNop())
	defer func() { _ = s.Close(b.Context()) }()
	if err := s.Deploy(testFunction()); err != nil {
		b.Fatal(err)
	}
	invoke := func() {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", "/2015-03-31/functions/app/invocations", strings.NewReader("{}")))
		if w.Code != 200 || w.Header().Get("X-Amz-Function-Error") != "" {
			b.Fatal(w.Code, w.Body)
		}
	}
	invoke()
	b.ReportAllocs()
	for b.Loop() {
		invoke()
	}
}
