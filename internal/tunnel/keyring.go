package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// A listener outlives the configurations that give it identities, and so do the
// instances that were told of one: they are starting when it changes. So an
// adapter says in the TLS handshake which key it was told, and the listener
// proves that one.

// firstByte is how long a connection may take for its first byte while some of
// the instances that are expected were told to use TLS and others plain TCP. A
// TLS client speaks at once. On plain TCP the router is the one who does, so an
// adapter there has to wait for as long.
const firstByte = 500 * time.Millisecond

// tlsHandshake is the first byte of a TLS connection (RFC 8446, section 5.1).
const tlsHandshake = 22

var errOtherKey = errors.New("instance was told another key than the one it came by")

// key is an identity that adapters may ask for.
type key struct {
	pin      string      // "" is plain TCP
	tls      *tls.Config // nil for plain TCP
	expected int         // instances that were told it
}

func newKey(id *Identity) *key {
	if id == nil {
		return new(key)
	}
	return &key{pin: id.Pin(), tls: id.serverTLS()}
}

// keyring holds the keys that expected instances were told, by what an adapter
// calls them. It is guarded by its listener's lock.
type keyring struct {
	byHint map[string]*key
	// latest is for connections that ask for none of them.
	latest *key
}

func (r *keyring) add(k *key) {
	hint := hintOf(k.pin)
	if prior := r.byHint[hint]; prior != nil {
		k.expected = prior.expected // the certificate around the key may be newer
	}
	k.expected++
	if r.byHint == nil {
		r.byHint = make(map[string]*key)
	}
	r.byHint[hint] = k
	r.latest = k
}

func (r *keyring) drop(pin string) {
	hint := hintOf(pin)
	k := r.byHint[hint]
	if k.expected--; k.expected == 0 {
		delete(r.byHint, hint)
	}
}

// find returns the key for an adapter that says nothing, or names a host. An
// adapter without a hint, or with one that nobody is expected with, gets the
// latest key that there is for TLS.
func (r *keyring) find(serverName string) *key {
	hint, _, _ := strings.Cut(serverName, ".")
	if k := r.byHint[hint]; k != nil && k.tls != nil {
		return k
	}
	if r.latest.tls != nil {
		return r.latest
	}
	for _, k := range r.byHint {
		if k.tls != nil {
			return k
		}
	}
	return nil
}

// kinds reports whether TLS and whether plain TCP are in use.
func (r *keyring) kinds() (withTLS, plain bool) {
	for _, k := range r.byHint {
		if k.tls != nil {
			withTLS = true
		} else {
			plain = true
		}
	}
	if !withTLS && !plain {
		return r.latest.tls != nil, r.latest.tls == nil
	}
	return withTLS, plain
}

// hintOf returns the name of a key in the TLS handshake: half of its hash, in a
// form that is good for a DNS label.
func hintOf(pin string) string {
	if pin == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(pin))
	return hex.EncodeToString(sum[:16])
}

// hintName puts the hint in front of the router's name. Networks that let TLS
// out by names see a name below the one that they know.
func hintName(pin, host string) string {
	if host == "" || net.ParseIP(host) != nil {
		host = "lambda-dispatch"
	}
	return hintOf(pin) + "." + host
}

// secure puts TLS on the connection if the adapter was told so, and returns the
// pin of the key that it has been shown.
func (l *Listener) secure(ctx context.Context, c *conn) (pin string, err error) {
	l.mu.Lock()
	withTLS, plain := l.keys.kinds()
	l.mu.Unlock()
	if withTLS && plain {
		if withTLS, err = c.speaksTLS(firstByte); err != nil {
			return "", err
		}
	}
	if !withTLS {
		return "", nil
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			l.mu.Lock()
			k := l.keys.find(hello.ServerName)
			l.mu.Unlock()
			if k == nil {
				return nil, errOtherKey
			}
			pin = k.pin
			return k.tls, nil
		},
	}
	err = c.startTLS(ctx, func(nc net.Conn) *tls.Conn { return tls.Server(nc, conf) })
	return pin, err
}

// speaksTLS waits for the peer's first byte and reports whether it begins a TLS
// handshake. A peer that says nothing waits for the router.
func (c *conn) speaksTLS(wait time.Duration) (bool, error) {
	if err := c.raw.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return false, err
	}
	first := make([]byte, 1)
	_, err := io.ReadFull(c.raw, first)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		first = nil
	case err != nil:
		return false, err
	default:
		c.Conn = &peekedConn{Conn: c.raw, r: io.MultiReader(bytes.NewReader(first), c.raw)}
	}
	return len(first) == 1 && first[0] == tlsHandshake, c.raw.SetReadDeadline(time.Time{})
}

// peekedConn is a connection of which the first byte has been read.
type peekedConn struct {
	net.Conn
	r io.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.r.Read(p) }
