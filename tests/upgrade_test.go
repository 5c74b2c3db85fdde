package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// half is a connection that can end one direction.
type half interface {
	net.Conn
	CloseWrite() error
}

// upgrade switches protocols over HTTP/1.1 and returns both ends.
func (f *flow) upgrade(t *testing.T, tls bool, way, path, protocol string) (client, app half) {
	t.Helper()
	taken := make(chan half, 1)
	f.app.on(path, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Upgrade"); got != protocol || r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("the app was asked for %q", got)
		}
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijacking: %v", err)
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-App: here\r\n\r\nfirst word", protocol)
		taken <- &bufferedConn{c.(half), buffered.Reader}
	})
	addr, alpn := f.plain, ""
	if tls {
		addr, alpn = f.secure, "http/1.1"
	}
	c := (&fidelity{router: f.router, certificates: f.certificates}).dial(t, addr, "", alpn)
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", path, testHost, routeHeader, way, protocol)
	r := bufio.NewReader(c)
	start, fields, err := readHead(r)
	if err != nil || !strings.HasPrefix(start, "HTTP/1.1 101 ") || fieldValue(fields, "Upgrade") != protocol ||
		!strings.EqualFold(fieldValue(fields, "Connection"), "Upgrade") || fieldValue(fields, "X-App") != "here" {
		t.Fatalf("got %q, %q, %v", start, fields, err)
	}
	client, app = &bufferedConn{c.(half), r}, awaited(t, "the app", taken)
	t.Cleanup(func() { app.Close() })
	_ = app.SetDeadline(time.Now().Add(patience))
	expect(t, client, "first word")
	return client, app
}

type bufferedConn struct {
	half
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// frame is a WebSocket's (RFC 6455, section 5.2). A first byte below 0x80 says
// that more fragments follow. The client's are masked.
func frame(first byte, masked bool, payload string) string {
	mask, key := byte(0), ""
	if masked {
		mask, key = 0x80, "\x01\x02\x03\x04"
		b := []byte(payload)
		for i := range b {
			b[i] ^= key[i%4]
		}
		payload = string(b)
	}
	n := len(payload)
	size := string([]byte{mask | byte(n)})
	switch {
	case n > 65535:
		size = string([]byte{mask | 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	case n > 125:
		size = string([]byte{mask | 126, byte(n >> 8), byte(n)})
	}
	return string([]byte{first}) + size + key + payload
}

func TestUpgrades(t *testing.T) {
	f := startFlow(t, 10, variants...)
	each := func(t *testing.T, test func(t *testing.T, tls bool, way, path string)) {
		for _, way := range variants {
			for _, tls := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tls=%v", way, tls), func(t *testing.T) { test(t, tls, way, "/"+t.Name()) })
			}
		}
	}

	// Whatever the peers of a WebSocket say is passed on byte for byte:
	// fragments with pings in between, pongs nobody asked for, reserved bits and
	// opcodes, close frames with any code or none, and what follows nothing.
	t.Run("frames", func(t *testing.T) {
		each(t, func(t *testing.T, tls bool, way, path string) {
			say := func(masked bool) string {
				return frame(0x01, masked, "a fragment, ") + frame(0x89, masked, "ping") + frame(0x00, masked, strings.Repeat("another, ", 20_000)) +
					frame(0x8a, masked, "pong") + frame(0x80, masked, "and the last") + frame(0x82, masked, "") + frame(0xc1, masked, "compressed") +
					frame(0x8b, masked, "unknown") + frame(0x02, masked, strings.Repeat("x", 126)) + frame(0x80, masked, strings.Repeat("y", 65536)) +
					frame(0x88, masked, "\x10\xe1why not")
			}
			client, app := f.upgrade(t, tls, way, path, "websocket")
			var results [2]chan error
			for i, ends := range [][2]half{{client, app}, {app, client}} {
				want := say(i == 0)
				results[i] = make(chan error, 1)
				go func() {
					// A little at a time, so that frames are cut anywhere.
					for s := want; s != ""; s = s[min(len(s), 7001):] {
						if _, err := io.WriteString(ends[0], s[:min(len(s), 7001)]); err != nil {
							return
						}
					}
				}()
				go func() {
					got := make([]byte, len(want))
					n, err := io.ReadFull(ends[1], got)
					if !bytes.Equal(got, []byte(want)) {
						err = fmt.Errorf("differs in the first %d bytes: %w", n, err)
					}
					results[i] <- err
				}()
			}
			for i, name := range []string{"app", "client"} {
				if err := awaited(t, "the frames", results[i]); err != nil {
					t.Errorf("what the %s got: %v", name, err)
				}
			}
			// The server ends the connection (RFC 6455, section 7.1.1).
			_ = app.CloseWrite()
			if rest, err := io.ReadAll(client); len(rest) > 0 || err != nil {
				t.Errorf("the client got %q and %v at the end", rest, err)
			}
			_ = client.Close()
			if rest, err := io.ReadAll(app); len(rest) > 0 || err != nil {
				t.Errorf("the app got %q and %v at the end", rest, err)
			}
		})
	})

	// One direction ends and the other goes on.
	t.Run("half-close", func(t *testing.T) {
		each(t, func(t *testing.T, tls bool, way, path string) {
			for _, first := range []string{"client", "app"} {
				client, app := f.upgrade(t, tls, way, path, "odd/1")
				a, b := client, app
				if first == "app" {
					a, b = app, client
				}
				fmt.Fprint(a, "my last word")
				if err := a.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(b); string(got) != "my last word" || err != nil {
					t.Fatalf("the %s's end arrived as %q and %v", first, got, err)
				}
				const size = 1 << 20
				sent := make(chan error, 1)
				go func() {
					buf := make([]byte, size)
					fill(buf, 0)
					_, err := b.Write(buf)
					sent <- err
					_ = b.CloseWrite()
				}()
				if err := check(a, size); err != nil {
					t.Errorf("after the %s's end: %v", first, err)
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
			}
		})
		f.await("the slots to be free", func() bool { return f.inFlight() == 0 })
	})

	// A connection that is reset at one end does not look ended at the other.
	t.Run("reset", func(t *testing.T) {
		each(t, func(t *testing.T, tls bool, way, path string) {
			client, app := f.upgrade(t, tls, way, path, "odd/1")
			_ = app.(*bufferedConn).half.(*net.TCPConn).SetLinger(0)
			_ = app.Close()
			if got, err := io.ReadAll(client); len(got) > 0 {
				t.Errorf("the client got %q and %v", got, err)
			}
		})
		f.await("the slots to be free", func() bool { return f.inFlight() == 0 })
	})
}
