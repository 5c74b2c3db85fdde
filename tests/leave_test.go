package tests

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"
)

// A client that leaves while its request is in the queue is out of it at once,
// however much of its body it has sent, and the app never sees the request.
func TestClientThatLeavesTheQueue(t *testing.T) {
	s := startLeaveSite(t)
	kinds := []struct {
		name string
		call leaveCall
	}{
		{"GET", leaveCall{method: "GET"}},
		{"small body", leaveCall{method: "POST", length: 1000, sent: 1000}},
		{"big body", leaveCall{method: "POST", length: 4_000_000, sent: 4_000_000}},
		{"part of a big body", leaveCall{method: "POST", length: 4_000_000, sent: 1_000_000}},
		{"nothing of a big body", leaveCall{method: "POST", length: 4_000_000}},
		{"chunked body", leaveCall{method: "POST", length: -1, sent: 100_000, ends: true}},
		{"part of a chunked body", leaveCall{method: "POST", length: -1, sent: 10}},
		{"body to be asked for", leaveCall{method: "POST", length: 1000, expect: true}},
	}
	free := s.hold()
	gone := 0
	worst := worstOf{}
	defer worst.log(t)
	for _, way := range ways() {
		for _, kind := range kinds {
			if way.name == "HTTP/2" && kind.call.expect {
				continue // Go's server does not tell, so the body is asked for before the queue
			}
			var took []time.Duration
			for range leaveTries {
				c := kind.call
				c.pool, c.path = "lean", "/hold"
				c = c.fresh()
				leave := way.send(t, s, c)
				s.take("the request to be queued", func() bool { return s.pools()["lean"].Queued == 1 })
				leave()
				took = append(took, s.take("the queue to be empty", func() bool { return s.pools()["lean"].Queued == 0 }))
				gone++
				defer func() {
					if s.app.of(c.id).got() {
						t.Errorf("%s, %s: the app got the request", way.name, kind.name)
					}
				}()
			}
			worst.add(way.name, kind.name, took)
			if m := medianOf(took); m > leaveLimit {
				t.Errorf("%s, %s: out of the queue after %v (median of %v)", way.name, kind.name, m, took)
			}
		}
	}
	if n := s.metrics()[`rejected_requests_total{pool="lean",reason="client_gone"}`]; n != float64(gone) {
		t.Errorf("%v requests counted as those of clients that left, want %d", n, gone)
	}
	free()
	s.await("the slot to be free", func() bool { return s.pools()["lean"].InFlight == 0 })
	s.await("the log", func() bool { return len(s.logged("lean")) == gone+1 })
	for _, status := range s.logged("lean") {
		if status != 499 {
			t.Errorf("a request is logged with status %v", status)
		}
	}
}

// A client that leaves while its request runs ends it in the app, and the slot
// is free.
func TestClientThatLeavesTheApp(t *testing.T) {
	s := startLeaveSite(t)
	kinds := []struct {
		name string
		call leaveCall
	}{
		{"no answer yet", leaveCall{method: "GET", path: "/hold"}},
		{"no answer yet to a small body", leaveCall{method: "POST", path: "/hold", length: 1000, sent: 1000}},
		{"half an answer", leaveCall{method: "GET", path: "/half"}},
		{"half a body", leaveCall{method: "POST", path: "/read", length: 1_000_000, sent: 500_000}},
		{"half a chunked body", leaveCall{method: "POST", path: "/read", length: -1, sent: 10}},
		{"half a body that the app does not read", leaveCall{method: "POST", path: "/unread", length: 1_000_000, sent: 500_000}},
		{"a chunked body that the app does not read", leaveCall{method: "POST", path: "/unread", length: -1, sent: 10}},
		{"half a body and half an answer", leaveCall{method: "POST", path: "/half", length: -1, sent: 10}},
	}
	worst := worstOf{}
	defer worst.log(t)
	for _, pool := range []string{"lean", "full"} {
		for _, way := range ways() {
			for _, kind := range kinds {
				var router, app []time.Duration
				for range leaveTries {
					c := kind.call
					c.pool = pool
					c = c.fresh()
					leave := way.send(t, s, c)
					seen := s.app.of(c.id)
					select {
					case <-seen.begun:
					case <-time.After(patience):
						t.Fatalf("%s, %s, %s: the app did not get the request", pool, way.name, kind.name)
					}
					begin := time.Now()
					leave()
					router = append(router, s.take("the slot to be free", func() bool { return s.pools()[pool].InFlight == 0 }))
					looked := time.Duration(0)
					if c.path == "/unread" {
						// Such an app looks at its connection some day. It is broken then.
						looked = time.Since(begin)
						close(seen.look)
					}
					select {
					case at := <-seen.left:
						app = append(app, at.Sub(begin)-looked)
					case <-time.After(5 * time.Second):
						app = append(app, 5*time.Second)
					}
				}
				worst.add(pool+", router", way.name+", "+kind.name, router)
				worst.add(pool+", app", way.name+", "+kind.name, app)
				if r, a := medianOf(router), medianOf(app); r > leaveLimit || a > leaveLimit {
					t.Errorf("%s, %s, %s: the slot was free after %v, the app was told after %v", pool, way.name, kind.name, router, app)
				}
			}
		}
	}

	s.await("the log", func() bool { return len(s.logged("full")) == len(ways())*len(kinds)*leaveTries })
	for _, pool := range []string{"lean", "full"} {
		// Half of an answer has a status already.
		for _, status := range s.logged(pool) {
			if status != 499 && status != 200 {
				t.Errorf("a request is logged with status %v", status)
			}
		}
	}
}

// hold takes the only slot of the pool "lean".
func (s *leaveSite) hold() (free func()) {
	s.t.Helper()
	c := leaveCall{method: "GET", path: "/hold", pool: "lean"}.fresh()
	free = ways()[0].send(s.t, s, c)
	<-s.app.of(c.id).begun
	return free
}

// What is read of a body while its request is in the queue goes to the app byte
// for byte, and so do the rest and the trailers.
func TestBodyThatWaitedInTheQueue(t *testing.T) {
	s := startLeaveSite(t)
	body := make([]byte, 20<<20) // more than is read ahead
	chaos := rand.NewChaCha8([32]byte{1})
	_, _ = chaos.Read(body)
	for _, size := range []int{1, 4095, 4097, 100_000, 1 << 20, len(body)} {
		for _, chunked := range []bool{false, true} {
			free := s.hold()
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				w := bufio.NewWriter(conn)
				defer w.Flush()
				fmt.Fprintf(w, "POST /sum HTTP/1.1\r\nHost: %s\r\nX-Pool: lean\r\nX-Id: sum\r\n", s.addr)
				if !chunked {
					fmt.Fprintf(w, "Content-Length: %d\r\n\r\n", size)
					_, _ = w.Write(body[:size])
					return
				}
				fmt.Fprint(w, "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
				for rest := body[:size]; len(rest) > 0; {
					n := min(1+rand.IntN(30_000), len(rest))
					fmt.Fprintf(w, "%x\r\n%s\r\n", n, rest[:n])
					rest = rest[n:]
				}
				fmt.Fprint(w, "0\r\nX-Sum: behind\r\n\r\n")
			}()
			s.await("the request to be queued", func() bool { return s.pools()["lean"].Queued == 1 })
			if size <= 1<<20 && size%2 == 0 {
				<-sent // all of it is ahead; otherwise the slot comes in the middle
			}
			free()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			want := fmt.Sprintf("%x ", sha256.Sum256(body[:size]))
			if chunked {
				want += "behind"
			}
			if string(got) != want || err != nil {
				t.Errorf("body of %d bytes, chunked %v: got %q and %v, want %q", size, chunked, got, err, want)
			}
			if resp.Close {
				t.Errorf("body of %d bytes, chunked %v: the connection ends", size, chunked)
			}
			conn.Close()
		}
	}
}

// A request that waited in the queue can send and receive at once.
func TestFullDuplexAfterTheQueue(t *testing.T) {
	s := startLeaveSite(t)
	free := s.hold()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST /duplex HTTP/1.1\r\nHost: %s\r\nX-Pool: lean\r\nX-Id: duplex\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nahead\r\n", s.addr)
	s.await("the request to be queued", func() bool { return s.pools()["lean"].Queued == 1 })
	free()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ahead", "first", "again", "final"} {
		if want != "ahead" {
			fmt.Fprintf(conn, "5\r\n%s\r\n", want)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("got %q and %v, want %q", got, err, want)
		}
	}
	fmt.Fprint(conn, "0\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("got %q and %v after the end", rest, err)
	}
}

// A body that cannot be read is the client's fault, and the log says which.
func TestBodyThatCannotBeRead(t *testing.T) {
	s := startLeaveSite(t)
	logged := 0
	next := func(what string) float64 {
		t.Helper()
		s.await(what+" in the log", func() bool { return len(s.statuses()) > logged })
		logged++
		return s.statuses()[logged-1]
	}
	for _, way := range ways() {
		leave := way.send(t, s, leaveCall{method: "POST", path: "/read", pool: "lean", length: 1000, sent: 10}.fresh())
		s.await("the request to arrive", func() bool { return s.openRequests() == 1 })
		leave()
		if status := next(way.name); status != 499 {
			t.Errorf("%s: a body cut short is logged with status %v", way.name, status)
		}
	}
	for _, pool := range []string{"lean", "full"} {
		for _, queued := range []bool{false, true} {
			if queued && pool == "full" {
				continue // there is no difference before the proxy
			}
			free := func() {}
			if queued {
				free = s.hold()
			}
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprintf(conn, "POST /read HTTP/1.1\r\nHost: %s\r\nX-Pool: %s\r\nX-Id: bad-%s-%v\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\nnonsense\r\n", s.addr, pool, pool, queued)
			answer, _ := io.ReadAll(conn)
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
				t.Errorf("%s, queued %v: the answer to what is not HTTP is %.100q", pool, queued, answer)
			}
			if status := next("malformed body"); status != 400 {
				t.Errorf("%s, queued %v: a malformed body is logged with status %v", pool, queued, status)
			}
			conn.Close()
			if free(); queued {
				next("what held the slot")
			}
		}
	}
}
