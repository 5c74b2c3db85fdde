package tunnel

import (
	"net/http"
	"strings"
	"testing"
)

// Instances that were told one key, another one, and to use plain TCP, all of
// them while the others are expected, find the way that they were told.
func TestInstancesFindTheKeyThatTheyWereTold(t *testing.T) {
	newer, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, ListenerConfig{Identity: testIdentity})
	told := map[string]*Identity{"first": testIdentity, "second": newer, "plain": nil}
	tunnels := make(map[string]chan Tunnel)
	for id, identity := range told {
		ch := make(chan Tunnel, 1)
		tunnels[id] = ch
		l.ExpectAs(identity, id, testSecret, func(t Tunnel) { ch <- t })
	}
	for _, id := range []string{"second", "plain", "first"} {
		cfg := l.dialConfig(http.NotFoundHandler())
		cfg.Instance, cfg.Pin = id, told[id].Pin()
		s, err := Dial(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		tunnel := receive(t, tunnels[id])
		do(t, tunnel, request(t, "GET", "/"))
		_ = s.Close()
		wait(t, tunnel.Done())
	}
}

// An instance that comes otherwise than it was told is not the one that was
// told: TLS must not be taken off it on the way.
func TestAnInstanceComesAsItWasTold(t *testing.T) {
	newer, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, ListenerConfig{Identity: testIdentity})
	l.expect(testID, testSecret)
	l.ExpectAs(newer, "another", testSecret, func(Tunnel) {})
	l.ExpectAs(nil, "plain", testSecret, func(Tunnel) {})
	for name, pin := range map[string]string{"another key": newer.Pin(), "plain TCP": ""} {
		cfg := l.dialConfig(http.NotFoundHandler())
		cfg.Pin = pin
		dialRefused(t, cfg)
		if rej := l.rejection(t); rej.Reject != RejectTLS {
			t.Errorf("%s: rejected with %v, want %s", name, rej, RejectTLS)
		}
	}
}

// A key that nobody was told any more is proved to nobody.
func TestAKeyGoesWithTheInstancesThatWereToldIt(t *testing.T) {
	newer, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, ListenerConfig{Identity: testIdentity})
	cancel := l.ExpectAs(testIdentity, "old", testSecret, func(Tunnel) {})
	l.ExpectAs(newer, "new", testSecret, func(Tunnel) {})
	cancel()
	cancel() // counts once
	cfg := l.dialConfig(http.NotFoundHandler())
	if msg := dialRefused(t, cfg); !strings.Contains(msg, errWrongKey.Error()) {
		t.Errorf("refused with %q", msg)
	}
}
