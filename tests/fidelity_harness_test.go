package tests

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// The fidelity tests send the same requests to the same app by several routes
// through one Caddy: its reverse_proxy, and lambda_dispatch in its variants.
// The app is a raw TCP server of the test, which records what it reads byte for
// byte and answers with bytes that the test gives. So neither net/http's ideas
// of a request nor those of a response are in the comparison.

// routes are the ways to the app. The first is what the others are compared to.
var routes = []string{"reference", "lean", "lean-plain", "full", "full-plain"}

// routeHeader and caseHeader are in every request, and in no comparison.
const (
	routeHeader = "X-Test-Route"
	caseHeader  = "X-Test-Case"
)

// message is one HTTP message as it was on the wire, with the fields grouped
// by name: in the order of the names, those of one name in their own order.
type message struct {
	Start   string   // the request line without the version, or the status
	Fields  []string // "Name: value"
	Body    string
	Trailer []string
	Cut     bool // it ended before its end
}

// exchanged is what both ends saw of one request.
type exchanged struct {
	request *message // nil: the app saw nothing
	infos   []string // informational responses, each a start and its fields
	reply   message
	err     error // there was no reply
}

// group sorts fields by name, keeping the order of those with the same.
func group(fields []string) []string {
	fields = slices.Clone(fields)
	slices.SortStableFunc(fields, func(a, b string) int {
		return strings.Compare(fieldName(a), fieldName(b))
	})
	return fields
}

func fieldName(field string) string {
	name, _, _ := strings.Cut(field, ":")
	return name
}

// rawApp is the app. It serves HTTP/1.1 as far as the tests need it.
type rawApp struct {
	t  *testing.T
	ln net.Listener

	mu      sync.Mutex
	scripts map[string]func(*appExchange) // guarded by mu, by case
	seen    map[string][]*message         // guarded by mu with all in it, by case
}

// appExchange is one request as the app has it. Its script may read and write
// the connection as it likes.
type appExchange struct {
	app  *rawApp
	conn net.Conn
	r    *bufio.Reader
	msg  *message
	keep bool // the connection can be used again
}

func startRawApp(t *testing.T) *rawApp {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &rawApp{t: t, ln: ln, scripts: make(map[string]func(*appExchange)), seen: make(map[string][]*message)}
	var conns sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { a.serve(c) })
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		conns.Wait()
	})
	return a
}

func (a *rawApp) port() int { return a.ln.Addr().(*net.TCPAddr).Port }

// on sets what answers the requests of a case.
func (a *rawApp) on(id string, script func(*appExchange)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scripts[id] = script
}

// saw returns the requests of a case so far, as far as the app has read them.
func (a *rawApp) saw(id string) (seen []message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.seen[id] {
		seen = append(seen, *m)
	}
	return seen
}

func (a *rawApp) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		start, fields, err := readHead(r)
		if err != nil {
			return
		}
		x := &appExchange{app: a, conn: c, r: r, keep: true}
		x.msg = &message{Start: strings.TrimSuffix(start, " HTTP/1.1"), Fields: fields}
		id := fieldValue(fields, caseHeader)
		a.mu.Lock()
		script := a.scripts[id]
		a.seen[id] = append(a.seen[id], x.msg)
		a.mu.Unlock()
		if script == nil { // the adapter asks whether the app is there
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			continue
		}
		script(x)
		if !x.keep {
			return
		}
	}
}

// readBody reads the request to its end.
func (x *appExchange) readBody() {
	body, trailer, err := readBody(x.r, x.msg.Fields, false)
	x.app.mu.Lock()
	x.msg.Body, x.msg.Trailer, x.msg.Cut = body, trailer, err != nil
	x.app.mu.Unlock()
	if err != nil {
		x.keep = false
	}
}

func (x *appExchange) write(s string) { _, _ = io.WriteString(x.conn, s) }

// reply returns a script that reads the whole request and writes the bytes.
// If they do not say where they end, the connection is closed.
func reply(raw string) func(*appExchange) {
	return func(x *appExchange) {
		x.readBody()
		x.write(raw)
		head, _, _ := strings.Cut(raw, "\r\n\r\n")
		head = strings.ToLower(head)
		x.keep = x.keep && !strings.Contains(head, "connection: close") &&
			(strings.Contains(head, "content-length:") || strings.Contains(head, "chunked") ||
				strings.HasPrefix(head, "http/1.1 1") || strings.Contains(head, " 204 ") || strings.Contains(head, " 304 "))
	}
}

// readHead reads a head in HTTP/1.1 and returns its lines.
func readHead(r *bufio.Reader) (start string, fields []string, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if line != "" || start != "" {
				err = io.ErrUnexpectedEOF
			}
			return start, fields, err
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		switch {
		case line == "" && start != "":
			return start, fields, nil
		case start == "":
			start = line
		default:
			fields = append(fields, line)
		}
	}
}

func fieldValue(fields []string, name string) string {
	for _, f := range fields {
		if k, v, _ := strings.Cut(f, ":"); strings.EqualFold(k, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// readBody reads a body as the fields say that it is framed. What has neither a
// length nor chunks is empty in a request; in a response it ends with the
// connection.
func readBody(r *bufio.Reader, fields []string, response bool) (body string, trailer []string, err error) {
	switch {
	case strings.EqualFold(fieldValue(fields, "Transfer-Encoding"), "chunked"):
		return readChunks(r)
	case fieldValue(fields, "Content-Length") != "":
		n, err := strconv.Atoi(fieldValue(fields, "Content-Length"))
		if err != nil {
			return "", nil, err
		}
		b := make([]byte, n)
		got, err := io.ReadFull(r, b)
		return string(b[:got]), nil, err
	case response:
		b, err := io.ReadAll(r)
		return string(b), nil, err
	}
	return "", nil, nil
}

func readChunks(r *bufio.Reader) (string, []string, error) {
	var body strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return body.String(), nil, io.ErrUnexpectedEOF
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil {
			return body.String(), nil, fmt.Errorf("chunk size %q: %w", line, err)
		}
		if n == 0 {
			break
		}
		if _, err := io.CopyN(&body, r, n); err != nil {
			return body.String(), nil, io.ErrUnexpectedEOF
		}
		if _, err := r.Discard(2); err != nil {
			return body.String(), nil, io.ErrUnexpectedEOF
		}
	}
	var trailer []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return body.String(), trailer, io.ErrUnexpectedEOF
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return body.String(), group(trailer), nil
		}
		trailer = append(trailer, line)
	}
}

// fidelity is a Caddy with all routes to a rawApp.
type fidelity struct {
	*router
	app          *rawApp
	caddyfile    string
	plain        string // host:port that speaks HTTP/1.1 and h2c
	secure       string // the same with TLS: HTTP/1.1, 2 and 3
	small        string // as plain, but with Caddy's default limit of a head
	certificates *x509.CertPool

	quicOnce sync.Once
	quic     *http3.ClientConn // see http3
}

// testHost is who the requests are for. The certificate is made out to it.
const testHost = "example.test"

// Without this, Caddy asks the app for gzip by itself when the client has not,
// and unpacks it. We never touch what a client asks for.
const compressionOff = "\t\ttransport http {\n\t\t\tcompression off\n\t\t}\n"

// largeHeads is the limit of the test's servers for a head, in bytes.
const largeHeads = 16 << 20

// startFidelity starts the app and Caddy; options are added to each proxy.
func startFidelity(t *testing.T) *fidelity {
	t.Helper()
	f := &fidelity{app: startRawApp(t)}
	f.plain, f.secure, f.small = freeAddress(t), freeAddress(t), freeAddress(t)
	dir := t.TempDir()
	f.certificates = writeCertificate(t, dir)
	upstream := func(tls, option string) string {
		// The app is not started by the adapter: it is there already.
		listen := map[string]string{"auto": "127.0.0.1:0", "off": "localhost:0"}[tls] // one address has one setting
		return fmt.Sprintf("\t\tmin_instances 1\n\t\tmax_concurrent 100\n\t\tcallback {\n\t\t\tlisten %s\n\t\t\ttls %s\n\t\t}\n\t\t%s\n\t\t%s\n", listen, tls, option,
			local("command sleep 1000000", fmt.Sprintf("env LAMBDA_DISPATCH_PORT %d", f.app.port())))
	}
	var site strings.Builder
	site.WriteString("\tlog_append status_code {rp.status_code}\n\tlog_append x_a {rp.header.X-A}\n" +
		"\tlog_append latency {rp.upstream.latency_ms}\n\tlog_append took {rp.upstream.duration_ms}\n")
	for _, name := range routes {
		fmt.Fprintf(&site, "\t@%[1]s header %[2]s %[1]s\n", name, routeHeader)
		switch name {
		case "reference":
			fmt.Fprintf(&site, "\treverse_proxy @%s 127.0.0.1:%d {\n%s\t}\n", name, f.app.port(), compressionOff)
		case "lean":
			fmt.Fprintf(&site, "\tlambda_dispatch @%[1]s %[1]s {\n%[2]s\t}\n", name, upstream("auto", ""))
		case "lean-plain":
			fmt.Fprintf(&site, "\tlambda_dispatch @%[1]s %[1]s {\n%[2]s\t}\n", name, upstream("off", ""))
		case "full": // any subdirective of reverse_proxy makes it Caddy's proxy
			fmt.Fprintf(&site, "\tlambda_dispatch @%[1]s %[1]s {\n%[2]s\t}\n", name, upstream("auto", "stream_timeout 1h"))
		case "full-plain":
			fmt.Fprintf(&site, "\tlambda_dispatch @%[1]s %[1]s {\n%[2]s\t}\n", name, upstream("off", "stream_timeout 1h"))
		}
	}
	for name, lines := range subdirectives {
		fmt.Fprintf(&site, "\t@ref-%[1]s header %[2]s ref-%[1]s\n\treverse_proxy @ref-%[1]s 127.0.0.1:%[3]d {\n%[4]s\n%[5]s\t}\n", name, routeHeader, f.app.port(), lines, compressionOff)
		fmt.Fprintf(&site, "\t@own-%[1]s header %[2]s own-%[1]s\n\tlambda_dispatch @own-%[1]s lean {\n%[3]s%[4]s\n\t}\n", name, routeHeader, upstream("auto", ""), lines)
	}
	servers := func(addr, limit string) string {
		_, port, _ := net.SplitHostPort(addr)
		return fmt.Sprintf("\tservers 127.0.0.1:%s {\n\t\tprotocols h1 h2 h2c h3\n\t\ttrusted_proxies static 127.0.0.2\n%s\t}\n", port, limit)
	}
	big := fmt.Sprintf("\t\tmax_header_size %d\n", largeHeads)
	site1 := func(scheme, addr, extra string) string {
		_, port, _ := net.SplitHostPort(addr)
		// Some of the heads are larger than anybody would like to read.
		return fmt.Sprintf("%s://:%s {\n\tbind 127.0.0.1\n\tlog {\n\t\tformat filter {\n\t\t\trequest>headers delete\n"+
			"\t\t\tresp_headers delete\n\t\t}\n\t}\n%s%s}\n", scheme, port, extra, site.String())
	}
	f.caddyfile = "{\n\tadmin unix//%DIR%/admin.sock\n\tauto_https off\n\tgrace_period 20s\n" +
		"\tlog {\n\t\tformat json\n\t\tlevel INFO\n\t}\n" +
		servers(f.plain, big) + servers(f.secure, big) + servers(f.small, "") + "}\n" +
		site1("http", f.plain, "") +
		site1("http", f.small, "") +
		site1("https", f.secure, fmt.Sprintf("\ttls %s/cert.pem %s/key.pem\n", dir, dir))
	f.router = startCaddy(t, f.caddyfile)
	f.await("all instances", func() bool {
		ready := 0
		for name, v := range f.metrics() {
			if strings.HasPrefix(name, "instances{") && strings.Contains(name, `state="ready"`) && v > 0 {
				ready++
			}
		}
		return ready == len(routes)-1
	})
	return f
}

// writeCertificate makes a certificate for testHost that signs itself.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: testHost}, DNSNames: []string{testHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

// reset ends the connection so that the peer sees an error.
func (x *appExchange) reset() {
	_ = x.conn.(*net.TCPConn).SetLinger(0)
	x.keep = false
}

func checksum(s string) uint32 { return crc32.ChecksumIEEE([]byte(s)) }
