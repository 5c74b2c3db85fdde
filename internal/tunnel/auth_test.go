package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dialRefused dials, wants to be refused, and returns the error's text.
func dialRefused(t *testing.T, cfg DialConfig) string {
	t.Helper()
	s, err := Dial(t.Context(), cfg)
	if err == nil {
		_ = s.Close()
		t.Fatal("dialled")
	}
	if !errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	if strings.Contains(err.Error(), string(testSecret)) {
		t.Errorf("secret in %q", err)
	}
	return err.Error()
}

func TestWhoMayConnect(t *testing.T) {
	other := []byte("another secret, of another instance")
	tests := []struct {
		name   string
		change func(*DialConfig)
		want   Reject
	}{
		{"unknown instance", func(c *DialConfig) { c.Instance = "ffffffffffffffffffffffffffffffff" }, RejectInstance},
		{"wrong secret", func(c *DialConfig) { c.Secret = other }, RejectMAC},
		{"no secret", func(c *DialConfig) { c.Secret = nil }, RejectMAC},
		{"another instance's ID", func(c *DialConfig) { c.Instance, c.Secret = "other", testSecret }, RejectMAC},
		{"ID too long", func(c *DialConfig) { c.Instance = strings.Repeat("x", maxID+1) }, RejectProtocol},
		{"ID beyond the line", func(c *DialConfig) { c.Instance = strings.Repeat("x", maxLine) }, RejectProtocol},
	}
	variants(t, func(t *testing.T, lc ListenerConfig) {
		l := listen(t, lc)
		tunnels := l.expect(testID, testSecret)
		l.expect("other", other)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				cfg := l.dialConfig(http.NotFoundHandler())
				tt.change(&cfg)
				dialRefused(t, cfg)
				if rej := l.rejection(t); rej.Reject != tt.want {
					t.Errorf("rejected with %v, want %s", rej, tt.want)
				} else if strings.Contains(rej.Error(), string(testSecret)) {
					t.Errorf("secret in %q", rej)
				}
			})
		}
		// None of that has harmed the instance.
		s, err := Dial(t.Context(), l.dialConfig(http.NotFoundHandler()))
		if err != nil {
			t.Fatal(err)
		}
		tunnel := receive(t, tunnels)

		t.Run("second tunnel", func(t *testing.T) {
			dialRefused(t, l.dialConfig(http.NotFoundHandler()))
			if rej := l.rejection(t); rej.Reject != RejectInstance {
				t.Errorf("rejected with %v", rej)
			}
			do(t, tunnel, request(t, "GET", "/")) // the first one lives
		})
		_ = s.Close()
		wait(t, tunnel.Done())
		t.Run("finished instance", func(t *testing.T) {
			dialRefused(t, l.dialConfig(http.NotFoundHandler()))
			if rej := l.rejection(t); rej.Reject != RejectInstance {
				t.Errorf("rejected with %v", rej)
			}
		})
		t.Run("cancelled instance", func(t *testing.T) {
			l.Expect(testID, testSecret, func(Tunnel) { t.Error("accepted") })()
			dialRefused(t, l.dialConfig(http.NotFoundHandler()))
			l.rejection(t)
		})
	})
}

// Of many connections with the same good hello, one wins.
func TestOneTunnelPerInstance(t *testing.T) {
	l := listen(t, ListenerConfig{})
	tunnels := l.expect(testID, testSecret)
	const n = 10
	won := make(chan *Session, n)
	for range n {
		go func() {
			s, _ := Dial(t.Context(), l.dialConfig(http.NotFoundHandler()))
			won <- s
		}()
	}
	winners := 0
	for range n {
		if s := receive(t, won); s != nil {
			winners++
			defer func() { _ = s.Close() }()
		}
	}
	tunnel := receive(t, tunnels)
	if winners != 1 || len(tunnels) != 0 {
		t.Errorf("%d adapters have a tunnel, the router has %d more", winners, len(tunnels))
	}
	_ = tunnel.Close()
	wait(t, tunnel.Done())
}

func TestWrongKey(t *testing.T) {
	l := listen(t, ListenerConfig{Identity: testIdentity})
	l.expect(testID, testSecret)
	other, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ pin, want string }{
		"other":   {other.Pin(), "public key"},
		"garbage": {"???", "base64url"},
		"short":   {"AAAA", "base64url"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := l.dialConfig(http.NotFoundHandler())
			cfg.Pin = tt.pin
			if msg := dialRefused(t, cfg); !strings.Contains(msg, tt.want) {
				t.Errorf("message is %q", msg)
			}
			if rej := l.rejection(t); rej.Reject != RejectTLS {
				t.Errorf("rejected with %v", rej)
			}
		})
	}
}

func TestTLSMismatch(t *testing.T) {
	t.Run("TLS to plain", func(t *testing.T) {
		l := listen(t, ListenerConfig{})
		cfg := l.dialConfig(http.NotFoundHandler())
		cfg.Pin = testIdentity.Pin()
		if msg := dialRefused(t, cfg); !strings.Contains(msg, "does not speak TLS") {
			t.Errorf("message is %q", msg)
		}
		l.rejection(t)
	})
	t.Run("plain to TLS", func(t *testing.T) {
		l := listen(t, ListenerConfig{Identity: testIdentity, HelloTimeout: 100 * time.Millisecond})
		cfg := l.dialConfig(http.NotFoundHandler())
		cfg.Pin = ""
		if _, err := Dial(t.Context(), cfg); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), askTLS) {
			t.Errorf("got %v", err)
		}
		if rej := l.rejection(t); rej.Reject != RejectTimeout {
			t.Errorf("rejected with %v", rej)
		}
		cfg.HelloTimeout = 50 * time.Millisecond
		if msg := dialRefused(t, cfg); !strings.Contains(msg, "does the router expect TLS") {
			t.Errorf("message is %q", msg)
		}
	})
	for name, conf := range map[string]*tls.Config{
		"no ALPN":    {InsecureSkipVerify: true},
		"other ALPN": {InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}},
		"TLS 1.2":    {InsecureSkipVerify: true, NextProtos: []string{alpn}, MaxVersion: tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, ListenerConfig{Identity: testIdentity})
			c, err := tls.Dial("tcp", l.Addr().String(), conf)
			if err == nil {
				_, err = c.Read(make([]byte, 1))
				_ = c.Close()
			}
			if err == nil {
				t.Error("the listener spoke")
			}
			if rej := l.rejection(t); rej.Reject != RejectTLS {
				t.Errorf("rejected with %v", rej)
			}
		})
	}
}

// A router that hangs up before its hello, as one with too many callers does, may
// be dialled again; nothing was used up.
func TestHungUpBeforeTheHello(t *testing.T) {
	variants(t, func(t *testing.T, lc ListenerConfig) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
		cfg := DialConfig{Address: ln.Addr().String(), Pin: lc.Identity.Pin(), Instance: testID, Secret: testSecret, Ready: Ready{MaxConcurrent: 1}}
		if _, err := Dial(t.Context(), cfg); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	})
}

// A router that does not know the secret gets no request served, not even with
// the right key or without TLS.
func TestFalseRouter(t *testing.T) {
	l := listen(t, ListenerConfig{})
	// It accepts any hello, as one would that only wants to be believed.
	cfg := l.dialConfig(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("served a request") }))
	cfg.Secret = []byte("what the adapter knows")
	e := &expectation{secret: []byte("what the router guesses"), accept: func(Tunnel) { t.Error("accepted") }}
	ctx := t.Context()
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			c := newConn(far)
			defer c.closeWith(ErrClosed)
			engine, err := l.start(c)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = engine.Close() }()
			nonce := newNonce()
			req, _ := helloRequest(ctx, "/", bytes.NewReader(encodeLine(routerHello{1, nonce, 0})), -1)
			h, err := readAdapterHello(engine, req)
			if err != nil {
				t.Error(err)
				return
			}
			tun := newTunnel(c, engine)
			defer func() { _ = tun.out.Close() }()
			mac := helloMAC(e.secret, roleRouter, h.Instance, nonce, h.Nonce, nil)
			if err := tun.openControl(ctx, encodeLine(routerProof{mac})); err == nil {
				t.Error("the adapter believed it")
			}
		}()
		return near, nil
	}
	if msg := dialRefused(t, cfg); !strings.Contains(msg, errWrongMAC.Error()) {
		t.Errorf("message is %q", msg)
	}
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	cfg := DialConfig{Address: addr, Ready: Ready{MaxConcurrent: 1}}
	if _, err := Dial(t.Context(), cfg); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := Dial(t.Context(), DialConfig{Address: addr}); err == nil {
		t.Error("dialled with no concurrency")
	}
}

func TestLoadIdentity(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	der, err := x509.MarshalPKCS8PrivateKey(testIdentity.cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: testIdentity.cert.Certificate[0]},
		key:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id, err := LoadIdentity(cert, key)
	if err != nil || id.Pin() != testIdentity.Pin() {
		t.Fatalf("got %v, %v", id, err)
	}
	p := connectPair(t, ListenerConfig{Identity: id}, http.NotFoundHandler())
	do(t, p, request(t, "GET", "/"))
	if _, err := LoadIdentity(key, cert); err == nil {
		t.Error("loaded nonsense")
	}
}
