package tests

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// The tests of streams, large bodies and WebSockets hold both ends of a
// request: the app is a handler of the test's own process, reached through
// Caddy and an adapter. So they wait for what one end did before the other goes
// on, and need no clock.

// variants are the ways through lambda_dispatch: by our proxy or by Caddy's,
// with TLS on the tunnel or without.
var variants = []string{"lean", "lean-plain", "full", "full-plain"}

// flow is a Caddy with all variants to one app.
type flow struct {
	*router
	app           *flowApp
	plain, secure string // addresses: HTTP/1.1 and h2c; HTTP/1.1, 2 and 3 with TLS
	certificates  *x509.CertPool
	clients       map[string]http.RoundTripper // by protocol
}

// flowApp is an app whose answers the test gives.
type flowApp struct {
	*httptest.Server
	mu       sync.Mutex
	handlers map[string]http.HandlerFunc // guarded by mu, by path
}

func (a *flowApp) on(path string, h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handlers[path] = h
}

func (a *flowApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	h := a.handlers[r.URL.Path]
	a.mu.Unlock()
	if h != nil {
		h(w, r)
	}
}

// startFlow starts the app and Caddy. Each of the variants has one instance
// with the given number of slots.
func startFlow(t *testing.T, slots int, ways ...string) *flow {
	t.Helper()
	f := &flow{app: &flowApp{handlers: make(map[string]http.HandlerFunc)}, clients: make(map[string]http.RoundTripper)}
	f.app.Server = httptest.NewServer(f.app)
	t.Cleanup(f.app.Close)
	port := f.app.Listener.Addr().(*net.TCPAddr).Port
	f.plain, f.secure = freeAddress(t), freeAddress(t)
	dir := t.TempDir()
	f.certificates = writeCertificate(t, dir)
	var site strings.Builder
	for _, name := range ways {
		listen, secured, option := "127.0.0.1:0", "auto", ""
		if strings.HasSuffix(name, "-plain") {
			listen, secured = "localhost:0", "off" // one address has one setting
		}
		if strings.HasPrefix(name, "full") {
			option = "stream_timeout 1h" // any subdirective of reverse_proxy makes it Caddy's proxy
		}
		fmt.Fprintf(&site, "@%[1]s header %[2]s %[1]s\nlambda_dispatch @%[1]s %[1]s {\n"+
			"min_instances 1\nmax_instances 1\nmax_concurrent %[3]d\ntarget_concurrent %[3]d\ncallback {\nlisten %[4]s\ntls %[5]s\n}\n%[6]s\n%[7]s\n}\n",
			name, routeHeader, slots, listen, secured, option,
			local("command sleep 1000000", fmt.Sprintf("env LAMBDA_DISPATCH_PORT %d", port)))
	}
	server := func(addr string) string {
		return fmt.Sprintf("servers %s {\nprotocols h1 h2 h2c h3\n}\n", addr)
	}
	block := func(scheme, addr, extra string) string {
		_, port, _ := net.SplitHostPort(addr)
		return fmt.Sprintf("%s://:%s {\nbind 127.0.0.1\n%s%s}\n", scheme, port, extra, site.String())
	}
	// Go's HTTP/2 server takes extended CONNECTs (RFC 8441) only if asked to.
	f.router = startCaddyWith(t, []string{"env", "GODEBUG=http2xconnect=1"},
		"{\nadmin unix//%DIR%/admin.sock\nauto_https off\ngrace_period 20s\nlog {\nformat json\nlevel INFO\n}\n"+
			server(f.plain)+server(f.secure)+"}\n"+
			block("http", f.plain, "")+
			block("https", f.secure, fmt.Sprintf("tls %s/cert.pem %s/key.pem\n", dir, dir)))
	f.await("all instances", func() bool {
		ready := 0
		for name, v := range f.metrics() {
			if strings.HasPrefix(name, "instances{") && strings.Contains(name, `state="ready"`) && v > 0 {
				ready++
			}
		}
		return ready == len(ways)
	})
	return f
}

// client returns what speaks the protocol. It is shared, so that connections
// are.
func (f *flow) client(protocol string) http.RoundTripper {
	if c, ok := f.clients[protocol]; ok {
		return c
	}
	f.clients[protocol] = f.newClient(protocol)
	return f.clients[protocol]
}

// newClient returns a client that tells of each TCP connection that it opens.
func (f *flow) newClient(protocol string, dialed ...func(net.Conn)) http.RoundTripper {
	f.t.Helper()
	config := &tls.Config{ServerName: testHost, RootCAs: f.certificates}
	if protocol == "h3" {
		tr := &http3.Transport{
			TLSClientConfig: config, DisableCompression: true,
			Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
				return quic.DialAddr(ctx, f.secure, tc, qc)
			},
		}
		f.t.Cleanup(func() { tr.Close() })
		return tr
	}
	addr, protocols := f.secure, new(http.Protocols)
	switch protocol {
	case "h1":
		addr = f.plain
		protocols.SetHTTP1(true)
	case "h1+tls":
		protocols.SetHTTP1(true)
	case "h2":
		protocols.SetHTTP2(true)
	case "h2c":
		addr = f.plain
		protocols.SetUnencryptedHTTP2(true)
	default:
		f.t.Fatalf("no protocol %q", protocol)
	}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			for _, tell := range dialed {
				tell(c)
			}
			return c, err
		},
		TLSClientConfig: config, Protocols: protocols, DisableCompression: true, MaxIdleConnsPerHost: 1000,
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// request makes a request that goes by the way. A body is of unknown length.
func (f *flow) request(t *testing.T, protocol, way, method, path string, body io.Reader) *http.Request {
	t.Helper()
	scheme := "https"
	if protocol == "h1" || protocol == "h2c" {
		scheme = "http"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://"+testHost+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(routeHeader, way)
	return req
}

// each runs a test for all protocols and variants.
func (f *flow) each(t *testing.T, test func(t *testing.T, protocol, way, path string)) {
	for _, protocol := range protocols {
		for _, way := range variants {
			t.Run(protocol+"/"+way, func(t *testing.T) {
				test(t, protocol, way, "/"+t.Name())
			})
		}
	}
}

// adapter returns the process ID of the only adapter.
func (f *flow) adapter(t *testing.T) int {
	t.Helper()
	for _, pid := range descendants(t, f.cmd.Process.Pid) {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe == adapterBin {
			return pid
		}
	}
	t.Fatal("no adapter found")
	return 0
}

// memory reads a value in bytes, such as VmHWM, of a process.
func memory(t *testing.T, pid int, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no %s in /proc/%d/status", name, pid)
	return 0
}

// footprint is the memory that an idle process has.
type footprint struct {
	name string
	pid  int
	idle int64
}

type footprints []footprint

// footprints begins to look at router and adapter, which are idle.
func (f *flow) footprints(t *testing.T) footprints {
	t.Helper()
	fp := footprints{{name: "router", pid: f.cmd.Process.Pid}, {name: "adapter", pid: f.adapter(t)}}
	for i, p := range fp {
		// 5 sets the peak back to what is there now (proc_pid_clear_refs(5)).
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte("5"), 0); err != nil {
			t.Fatal(err)
		}
		fp[i].idle = memory(t, p.pid, "VmRSS")
	}
	return fp
}

// grown returns by how much the process was larger than at the beginning.
func (p footprint) grown(t *testing.T) int64 { return memory(t, p.pid, "VmHWM") - p.idle }

// stuck waits until none of the counters, which something drives forward, moves
// any more. It is the one thing that can only be seen by looking for a while.
func stuck(t *testing.T, what string, counters []atomic.Int64) {
	t.Helper()
	const still = 400 * time.Millisecond
	last, since := int64(-1), time.Now()
	await(t, what, func() bool {
		sum := int64(0)
		for i := range counters {
			n := counters[i].Load()
			sum += n
			if n == 0 {
				since = time.Now() // it has not even begun
			}
		}
		if sum != last {
			last, since = sum, time.Now()
		}
		return time.Since(since) > still
	})
}

func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
