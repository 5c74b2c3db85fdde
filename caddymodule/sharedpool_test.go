package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// poolConfig is a configuration whose invocations fail at once.
func poolConfig(t *testing.T, change func(*PoolConfig)) PoolConfig {
	t.Helper()
	c := PoolConfig{
		QueueSize: 1,
		Callback:  &CallbackConfig{Listen: "127.0.0.1:0"},
		Invoker:   &InvokerConfig{AWS: &AWSInvoker{Region: "eu-central-1", Endpoint: "http://127.0.0.1:1"}},
	}
	if change != nil {
		change(&c)
	}
	c.setDefaults()
	if err := c.Callback.provision(false); err != nil {
		t.Fatal(err)
	}
	return c
}

func testSharedPool(t *testing.T) *sharedPool {
	t.Helper()
	s, err := loadPool(t.Name(), nopLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := pools.Delete(t.Name()); err != nil {
			t.Error(err)
		}
		draining.Wait()
	})
	return s
}

func apply(t *testing.T, s *sharedPool, conf PoolConfig) *claim {
	t.Helper()
	c, err := s.stage(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.enforce(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func withdraw(t *testing.T, s *sharedPool, c *claim) {
	t.Helper()
	if err := s.withdraw(c); err != nil {
		t.Error(err)
	}
}

// A configuration that is withdrawn before the one that it was to replace has
// failed to start: what it changed must be as it was.
func TestTheSettingsBeforeAFailedReloadAreInForceAgain(t *testing.T) {
	s := testSharedPool(t)
	good := apply(t, s, poolConfig(t, nil))
	failed := apply(t, s, poolConfig(t, func(c *PoolConfig) { c.QueueSize = -1 }))
	if _, err := s.pool.Enter(); !errors.Is(err, pool.ErrQueueFull) {
		t.Errorf("without a queue a request got %v", err)
	}
	withdraw(t, s, failed)
	l, err := s.pool.Enter()
	if err != nil {
		t.Errorf("after the failed reload a request got %v", err)
	} else {
		l.Release()
	}
	withdraw(t, s, good)
	if err := s.withdraw(good); err == nil {
		t.Error("a claim was withdrawn twice")
	}
}

// A configuration that may still fail to start changes nothing.
func TestAConfigurationIsInForceWhenItHasBeenStarted(t *testing.T) {
	s := testSharedPool(t)
	good := apply(t, s, poolConfig(t, nil))
	failed, err := s.stage(t.Context(), poolConfig(t, func(c *PoolConfig) { c.QueueSize = -1 }))
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.pool.Enter()
	if err != nil {
		t.Fatalf("a request got %v", err)
	}
	withdraw(t, s, failed)
	l.Release()
	if l, err = s.pool.Enter(); err != nil {
		t.Fatalf("after the failed reload a request got %v", err)
	}
	l.Release()
	withdraw(t, s, good)
}

// The older of two configurations goes without a trace.
func TestTheNewestSettingsStayInForce(t *testing.T) {
	s := testSharedPool(t)
	older := apply(t, s, poolConfig(t, nil))
	newer := apply(t, s, poolConfig(t, func(c *PoolConfig) { c.QueueSize = -1 }))
	withdraw(t, s, older)
	if _, err := s.pool.Enter(); !errors.Is(err, pool.ErrQueueFull) {
		t.Errorf("without a queue a request got %v", err)
	}
	withdraw(t, s, newer)
}

// bound reports whether the address is in use.
func bound(t *testing.T, address string) bool {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// A callback address that is given up is free again when the last instance that
// was told it has come or gone, and not when the pool closes.
func TestACallbackAddressIsReleased(t *testing.T) {
	s := testSharedPool(t)
	first, second := freeAddress(t), freeAddress(t)
	at := func(address string) PoolConfig {
		return poolConfig(t, func(c *PoolConfig) { c.Callback.Listen = address })
	}
	older := apply(t, s, at(first))
	forget := older.callback.Expect("instance", []byte("secret"), func(tunnel.Tunnel) {})
	newer := apply(t, s, at(second))
	withdraw(t, s, older)
	if !bound(t, first) {
		t.Error("the address was released while an instance is expected there")
	}
	forget()
	forget()
	if bound(t, first) {
		t.Error("the address is still bound")
	}
	if !bound(t, second) {
		t.Error("the new address is not bound")
	}
	withdraw(t, s, newer)
	if !bound(t, second) {
		t.Error("a pool without a configuration has no way back for what its queue needs")
	}
}

// What cannot be started leaves nothing behind.
func TestAConfigurationThatFailsReleasesItsCallbackAddress(t *testing.T) {
	s := testSharedPool(t)
	address := freeAddress(t)
	_, err := s.stage(t.Context(), poolConfig(t, func(c *PoolConfig) {
		c.Callback.Listen = address
		c.Callback.TLS = &CallbackTLS{Certificate: "/does/not/exist", Key: "/does/not/exist"}
	}))
	if err == nil {
		t.Fatal("started without its certificate")
	}
	if bound(t, address) {
		t.Error("the address is still bound")
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der},
		keyFile:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// One address can be told with one key after the other, and a made key stays
// the same over reloads. A renewed certificate is read again.
func TestReloadsCanChangeTheKeyOfAnAddress(t *testing.T) {
	s := testSharedPool(t)
	address := freeAddress(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	with := func(conf *CallbackTLS) *claim {
		return apply(t, s, poolConfig(t, func(c *PoolConfig) { c.Callback.Listen, c.Callback.TLS = address, conf }))
	}
	writeCertificate(t, cert, key)
	made := with(nil)
	claims := []*claim{made, with(&CallbackTLS{Off: true}), with(&CallbackTLS{Certificate: cert, Key: key})}
	writeCertificate(t, cert, key)
	claims = append(claims, with(&CallbackTLS{Certificate: cert, Key: key}))
	pins := make(map[string]bool)
	for _, c := range claims {
		pins[c.callback.Pin()] = true
	}
	if len(pins) != len(claims) || !pins[""] {
		t.Errorf("%d pins of %d configurations: %v", len(pins), len(claims), pins)
	}
	again := with(nil)
	if got, want := again.callback.Pin(), made.callback.Pin(); got != want {
		t.Errorf("the made key was %s, now %s", want, got)
	}
	for _, c := range append(claims, again) {
		withdraw(t, s, c)
	}
}

var _ caddy.Destructor = (*callbackListener)(nil)

// A request that was accepted for a configuration which then fails to start is
// not held up by it: the pool of the one before serves it.
func TestRequestsOutliveAStartThatFails(t *testing.T) {
	a := &App{started: make(chan struct{}), ended: make(chan struct{})}
	waited := make(chan error, 1)
	go func() { waited <- a.awaitStart(t.Context()) }()
	if err := a.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}
