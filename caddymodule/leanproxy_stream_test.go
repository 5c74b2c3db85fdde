package caddymodule

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestPartsArriveAsTheyCome has an app that goes on only when the client has
// seen what there is so far.
func TestPartsArriveAsTheyCome(t *testing.T) {
	for name, header := range map[string]http.Header{
		"unknown length": {},
		"events":         {"Content-Type": {"Text/Event-Stream; charset=utf-8"}, "Content-Length": {"6"}},
		"incremental":    {"Incremental": {"?1"}, "Content-Length": {"6"}},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, f *front) {
				seen := make(chan struct{})
				f.th.play(func(w http.ResponseWriter, r *http.Request) {
					maps.Copy(w.Header(), header)
					w.WriteHeader(200)
					_ = http.NewResponseController(w).Flush()
					for _, part := range []string{"one", "two"} {
						select {
						case <-seen:
						case <-r.Context().Done():
							return
						}
						_, _ = io.WriteString(w, part)
						_ = http.NewResponseController(w).Flush()
					}
				})
				ctx, cancel := context.WithTimeout(t.Context(), patient)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
				resp, err := f.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				for _, want := range []string{"one", "two"} {
					seen <- struct{}{}
					got := make([]byte, 3)
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
						t.Fatalf("got %q and %v, want %q", got, err, want)
					}
				}
				if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("got %d bytes and %v after the end", n, err)
				}
			})
		})
	}
}

// TestBothDirectionsAtOnce sends a request and reads its response in turns,
// over HTTP/1.1 and HTTP/2.
func TestBothDirectionsAtOnce(t *testing.T) {
	for name, p := range proxies(t) {
		for _, proto := range []string{"1", "2"} {
			t.Run(name+" HTTP/"+proto, func(t *testing.T) {
				f := newFront(t, p)
				f.EnableHTTP2 = proto == "2"
				f.StartTLS()
				f.th.play(func(w http.ResponseWriter, r *http.Request) {
					_ = http.NewResponseController(w).Flush()
					buf := make([]byte, 100)
					for {
						n, err := r.Body.Read(buf)
						_, _ = w.Write(buf[:n])
						_ = http.NewResponseController(w).Flush()
						if err != nil {
							return
						}
					}
				})
				pr, pw := io.Pipe()
				ctx, cancel := context.WithTimeout(t.Context(), patient)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL, pr)
				resp, err := f.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got := resp.Proto[5:6]; got != proto {
					t.Fatalf("the client speaks HTTP/%s", got)
				}
				for _, s := range []string{"ping", "pong", strings.Repeat("x", 300_000)} {
					go func() { _, _ = io.WriteString(pw, s) }()
					got := make([]byte, len(s))
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != s {
						t.Fatalf("got %d bytes and %v", len(got), err)
					}
				}
				_ = pw.Close()
				if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
					t.Errorf("got %q and %v at the end", rest, err)
				}
			})
		}
	}
}

// TestClientGoesAway has clients that leave before the response and within it.
func TestClientGoesAway(t *testing.T) {
	for _, begun := range []bool{false, true} {
		t.Run(map[bool]string{false: "before", true: "within"}[begun], func(t *testing.T) {
			onBoth(t, func(t *testing.T, f *front) {
				came, left := make(chan struct{}), make(chan struct{})
				f.th.play(func(w http.ResponseWriter, r *http.Request) {
					if begun {
						w.WriteHeader(200)
						_ = http.NewResponseController(w).Flush()
					}
					close(came)
					<-r.Context().Done()
					close(left)
				})
				c := f.dial(t)
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
				<-came
				if begun {
					if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
						t.Fatal(err)
					}
				}
				_ = c.Close()
				select {
				case <-left:
				case <-time.After(patient):
					t.Fatal("the app's request was not cancelled")
				}
				status := f.await(t)
				if want := map[bool]int{false: statusClientGone, true: 200}[begun]; status != want {
					t.Errorf("status is %d, want %d", status, want)
				}
			})
		})
	}
}

// upgrader is an app that accepts every upgrade and then calls talk.
func upgrader(talk func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
		w.Header().Set("Sec-Websocket-Accept", "key")
		w.WriteHeader(101)
		talk(w, r)
	}
}

// echo sends back what comes, and last words after the end.
func echo(w http.ResponseWriter, r *http.Request) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(buf[:n])
		if err != nil {
			break
		}
	}
	_, _ = io.WriteString(w, "bye")
}

const upgradeRequest = "GET /up HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n"

// upgrade asks for an upgrade and reads the header of the answer.
func (f *front) upgrade(t *testing.T, raw string) (*net.TCPConn, *bufio.Reader, string) {
	t.Helper()
	c := f.dial(t)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, head.String())
		}
		if line == "\r\n" {
			return c, br, head.String()
		}
		head.WriteString(line)
	}
}

func TestUpgrade(t *testing.T) {
	onBoth(t, func(t *testing.T, f *front) {
		f.th.play(upgrader(echo))
		c, br, head := f.upgrade(t, upgradeRequest+"early")
		for _, want := range []string{"HTTP/1.1 101 Switching Protocols\r\n", "Connection: Upgrade\r\n", "Upgrade: websocket\r\n", "Sec-WebSocket-Accept: key\r\n"} {
			if !strings.Contains(head, want) {
				t.Errorf("no %q in\n%s", want, head)
			}
		}
		for _, s := range []string{"early", "ping", strings.Repeat("x", 1_000_000)} {
			if s != "early" {
				go func() { _, _ = io.WriteString(c, s) }()
			}
			got := make([]byte, len(s))
			if _, err := io.ReadFull(br, got); err != nil || string(got) != s {
				t.Fatalf("got %.20q and %v, want %.20q", got, err, s)
			}
		}
		_ = c.CloseWrite()
		if rest, err := io.ReadAll(br); string(rest) != "bye" || err != nil {
			t.Errorf("got %q and %v after the client's end", rest, err)
		}
		if status := f.await(t); status != 101 {
			t.Errorf("status is %d", status)
		}
	})
}

func TestUpgradeOfAClientThatLeaves(t *testing.T) {
	onBoth(t, func(t *testing.T, f *front) {
		ended := make(chan struct{})
		f.th.play(upgrader(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			close(ended)
		}))
		c, _, _ := f.upgrade(t, upgradeRequest)
		_ = c.SetLinger(0)
		_ = c.Close()
		select {
		case <-ended:
		case <-time.After(patient):
			t.Fatal("the app was not told")
		}
		f.await(t)
	})
}

func TestUpgradeOfAnAppThatDies(t *testing.T) {
	onBoth(t, func(t *testing.T, f *front) {
		f.th.play(upgrader(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "part")
			panic(http.ErrAbortHandler)
		}))
		_, br, _ := f.upgrade(t, upgradeRequest)
		if got, _ := io.ReadAll(br); string(got) != "part" {
			t.Errorf("got %q", got)
		}
		f.await(t)
	})
}

// TestExtendedConnect has a client that opens a WebSocket over HTTP/2. Go's
// server has that behind a setting of the process, so the request is made one
// on the way.
func TestExtendedConnect(t *testing.T) {
	for name, p := range proxies(t) {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, p)
			f.EnableHTTP2 = true
			f.prepare = func(_ http.ResponseWriter, r *http.Request) {
				r.Method = http.MethodConnect
				r.Header[":protocol"] = []string{"websocket"}
			}
			f.StartTLS()
			asked := make(chan http.Header, 1)
			f.th.play(func(w http.ResponseWriter, r *http.Request) {
				h := r.Header.Clone()
				h.Set("Method", r.Method)
				asked <- h
				upgrader(echo)(w, r)
			})
			pr, pw := io.Pipe()
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL, pr)
			resp, err := f.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			h := <-asked
			if h.Get("Method") != "GET" || h.Get("Upgrade") != "websocket" || h.Get("Connection") != "Upgrade" ||
				len(h.Get("Sec-Websocket-Key")) != 24 || len(h[":protocol"]) > 0 {
				t.Errorf("the app got %v", h)
			}
			if resp.StatusCode != 200 || resp.Header.Get("Upgrade")+resp.Header.Get("Connection")+resp.Header.Get("Sec-Websocket-Accept") != "" {
				t.Errorf("the client got %d and %v", resp.StatusCode, resp.Header)
			}
			go func() { _, _ = io.WriteString(pw, "ping") }()
			got := make([]byte, 4)
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "ping" {
				t.Fatalf("got %q and %v", got, err)
			}
			_ = pw.Close()
			if rest, err := io.ReadAll(resp.Body); string(rest) != "bye" || err != nil {
				t.Errorf("got %q and %v after the client's end", rest, err)
			}
			f.await(t)
		})
	}
}

// TestWrongUpgrade is where the two differ: Caddy's proxy answers with an
// empty 200.
func TestWrongUpgrade(t *testing.T) {
	f := newFront(t, newLeanProxy(nopLog))
	f.Start()
	f.th.play(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "other")
		w.WriteHeader(101)
	})
	if got := f.talk(t, "GET", upgradeRequest); !strings.Contains(got, "502 Bad Gateway") {
		t.Errorf("got %s", got)
	}
}

func TestEarlyData(t *testing.T) {
	onBoth(t, func(t *testing.T, f *front) {
		f.prepare = func(_ http.ResponseWriter, r *http.Request) { r.TLS = &tls.ConnectionState{} }
		f.th.play(report)
		got := f.talk(t, "GET", "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if !strings.Contains(got, `Early-Data: [\"1\"]`) || !strings.Contains(got, `X-Forwarded-Proto: [\"https\"]`) {
			t.Errorf("the app got %s", unquoted(got))
		}
	})
}
