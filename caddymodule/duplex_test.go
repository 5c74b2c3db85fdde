package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

// duplexServer serves requests with bodies that stay with their clients.
func duplexServer(t *testing.T, serve func(w http.ResponseWriter, r *http.Request, body *clientBody)) net.Addr {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dw, dr, body := fullDuplex(w, r)
		defer body.finish()
		serve(dw, dr, body)
	}))
	s.Config.ConnContext = rememberConn
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr()
}

// A client that is still sending when it is answered can go on for a moment,
// and reads the whole answer.
func TestEarlyAnswerReachesAClientThatSends(t *testing.T) {
	addr := duplexServer(t, func(w http.ResponseWriter, _ *http.Request, body *clientBody) {
		_ = body.Close() // as a tunnel whose app has answered
		_, _ = io.WriteString(w, "answer")
	})
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 1000))
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != "answer" || err != nil || !resp.Close {
		t.Errorf("%q, %v, close %t", body, err, resp.Close)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF { //nolint:errorlint // never wrapped
		t.Errorf("after the answer: %d bytes, %v", n, err)
	}
	// A socket that is closed and not only half closed would answer the first
	// write with a reset, and the second would fail.
	for range 2 {
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
}

// An answer may come just when the end of the body does. Neither its request
// nor the next one on the connection is then taken for one whose client left.
func TestAnswerAtTheEndOfTheBody(t *testing.T) {
	var left int
	reading := make(chan struct{})
	addr := duplexServer(t, func(w http.ResponseWriter, r *http.Request, body *clientBody) {
		if body == nil {
			if r.Context().Err() != nil {
				left++
			}
			return
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, body)
		}()
		reading <- struct{}{}
		for end := time.Now().Add(rand.N(50 * time.Microsecond)); time.Now().Before(end); {
			runtime.Gosched()
		}
		_ = body.Close()
		<-read
		if r.Context().Err() != nil {
			left++
		}
		w.WriteHeader(http.StatusNoContent)
	})
	for range 3000 {
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
		<-reading
		fmt.Fprint(conn, "body")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !resp.Close {
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if _, err := http.ReadResponse(r, nil); err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
	}
	if left > 0 {
		t.Errorf("%d requests of clients that stayed ended", left)
	}
}
