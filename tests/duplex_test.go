package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An app may answer before it has read the body. The client gets the whole
// answer, and the connection ends in order.
func TestAnswerBeforeTheEndOfTheBody(t *testing.T) {
	for _, proxy := range []string{"", "flush_interval 100ms"} { // our proxy, and Caddy's
		t.Run("with "+proxy, func(t *testing.T) {
			r := startCaddy(t, dispatch(proxy, "min_instances 1", local("command "+demoBin)))
			r.await("the instance", func() bool { return r.pool().in("ready") == 1 })
			for i := range 20 {
				conn, err := net.Dial("unix", filepath.Join(r.dir, "site.sock"))
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				// /ping wants no body. The app's server skips 256 KB of it and
				// then answers; the rest never comes.
				go fmt.Fprintf(conn, "POST /ping HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n",
					400<<10, strings.Repeat("x", 400<<10))
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
				if _, err := io.ReadAll(resp.Body); err != nil {
					t.Errorf("request %d: reading the answer: %v", i, err)
				}
				resp.Body.Close()
				if !resp.Close {
					t.Errorf("request %d: the connection cannot be used again, but the answer does not say so", i)
				}
				conn.Close()
			}
			checkAll(t, r.burst(5, "/ping"))
			r.await("the slots to be free", func() bool { return r.pool().InFlight == 0 })
			if log := r.logs.String(); strings.Contains(log, "panic") {
				t.Errorf("something panicked:\n%s", log)
			}
		})
	}
}

// Both directions flow at once, over HTTP/1.1.
func TestFullDuplex(t *testing.T) {
	r := startCaddy(t, dispatch(local("command "+demoBin)))
	pr, pw := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, "http://localhost/echo", pr)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = pw.Write([]byte("first")) }()
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 64)
	for i := range 5 {
		n, err := resp.Body.Read(buf)
		if err != nil || n == 0 {
			t.Fatalf("part %d: %v", i, err)
		}
		if _, err := fmt.Fprintf(pw, "part %d", i); err != nil {
			t.Fatal(err)
		}
	}
	pw.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Error(err)
	}
}
