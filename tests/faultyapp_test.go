package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// appRoleVar makes this test binary an app that the tests start in an
// environment: "faulty" or "grpc".
const appRoleVar = "TEST_APP_ROLE"

func init() { //nolint:gochecknoinits // before any test, and beside the other apps in TestMain
	var err error
	switch os.Getenv(appRoleVar) {
	case "":
		return
	case "grpc":
		err = runGRPC()
	default:
		err = runFaulty()
	}
	os.Exit(fail(err))
}

// appInRole are the lines of an "invoker local" block for such an app.
func appInRole(t *testing.T, role string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"command " + self, "env " + appRoleVar + " " + role}
}

// cr makes the lines of an answer to HTTP's.
func cr(lines ...string) string { return strings.Join(lines, "\r\n") }

// faultyAnswers are what the faulty app writes before it closes the
// connection.
var faultyAnswers = map[string]string{
	"/nothing":        "",
	"/half-head":      "HTTP/1.1 200 OK\r\nContent-",
	"/garbage":        "220 smtp.example ESMTP\r\n",
	"/bad-status":     cr("HTTP/1.1 two OK", "", ""),
	"/two-lengths":    cr("HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 2", "", "xx"),
	"/length-coding":  cr("HTTP/1.1 200 OK", "Content-Length: 1", "Transfer-Encoding: chunked", "", "1", "x", "0", "", ""),
	"/nul":            cr("HTTP/1.1 200 OK", "X: a\x00b", "Content-Length: 1", "", "x"),
	"/bare-lf":        "HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
	"/huge-head":      cr("HTTP/1.1 200 OK", "X: "+strings.Repeat("x", 2<<20), "", ""),
	"/cut-length":     cr("HTTP/1.1 200 OK", "Content-Length: 100", "", "part"),
	"/cut-chunked":    cr("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", ""),
	"/no-last-chunk":  cr("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "0"),
	"/negative-chunk": cr("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "-4", "part", ""),
	"/huge-chunk":     cr("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", "fffffffffffffffff", "part", ""),
	"/named-field":    cr("HTTP/1.1 200 OK", "Connection: close, X-Foo", "X-Foo: 1", "X-Bar: 2", "Content-Length: 2", "", "ok"),
	// Before the body has been read. They say that they close: otherwise the
	// next POST could meet the close, and must not be sent twice.
	"/early":           cr("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 2", "", "ok"),
	"/early-garbage":   cr("this is not HTTP", ""),
	"/early-end":       "",
	"/early-too-large": cr("HTTP/1.1 413 Content Too Large", "Connection: close", "Content-Length: 2", "", "no"),
}

// runFaulty is an app that does to each path what its name says.
func runFaulty() error {
	ln, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	var hangs atomic.Bool
	for {
		nc, err := ln.Accept()
		if err != nil {
			select {} // it goes on with the connections that it has
		}
		go func() {
			defer nc.Close()
			for serveFaulty(ln, nc.(*net.TCPConn), &hangs) {
			}
		}()
	}
}

// serveFaulty serves one request and reports whether another may follow.
func serveFaulty(ln net.Listener, c *net.TCPConn, hangs *atomic.Bool) bool {
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	if hangs.Load() {
		select {}
	}
	if answer, ok := faultyAnswers[req.URL.Path]; ok {
		if !strings.HasPrefix(req.URL.Path, "/early") {
			_, _ = io.Copy(io.Discard, req.Body)
		}
		_, _ = io.WriteString(c, answer)
		if strings.HasPrefix(req.URL.Path, "/early") {
			// Closing with bytes unread would reset the connection, and the
			// answer with it.
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}
		return false
	}
	_, _ = io.Copy(io.Discard, req.Body)
	switch req.URL.Path {
	case "/reset":
		_ = c.SetLinger(0)
		return false
	case "/crash":
		os.Exit(3)
	case "/hang":
		hangs.Store(true)
		select {}
	case "/wait":
		_, _ = io.Copy(io.Discard, c)
		return false
	case "/began":
		_, _ = io.WriteString(c, cr("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "4", "part", ""))
		_, _ = io.Copy(io.Discard, c)
		return false
	case "/refuse": // from now on, and this connection ends
		_ = ln.Close()
		_, _ = io.WriteString(c, cr("HTTP/1.1 200 OK", "Connection: close", "Content-Length: 0", "", ""))
		return false
	}
	body := strconv.Itoa(os.Getpid())
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return err == nil
}
