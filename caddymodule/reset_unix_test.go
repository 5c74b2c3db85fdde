//go:build unix

package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
)

// A response that is cut off does not end like one that is whole, although
// HTTP/1.0 has no other end than that of the connection.
func TestCutResponseToHTTP10(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer resetWhenCut(r.Context())
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
	}))
	s.Config.ConnContext = rememberConn
	s.Start()
	defer s.Close()
	for path, want := range map[string]error{"/whole": nil, "/cut": syscall.ECONNRESET} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
		if _, err := io.ReadAll(conn); !errors.Is(err, want) {
			t.Errorf("%s ended with %v, want %v", path, err, want)
		}
		_ = conn.Close()
	}
}
