// Package invoke says how the router starts an instance: the dispatch event
// that an invocation carries into the execution environment, the result that
// it brings back, and the kinds of failure in between. It is the contract of
// the router and the adapter, so it knows neither of them, and it must not
// import the AWS SDK: the adapter links it. The invoker that calls AWS lives
// in the package awslambda below.
package invoke

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// EventVersion is the version of the dispatch event that this package writes
// and the only one it reads.
const EventVersion = 1

const (
	instanceBytes = 16 // 128 bits: an instance ID can be neither guessed nor met twice
	secretBytes   = 32 // 256 bits: the key of the hello's HMAC-SHA256
)

// ErrNotDispatch is returned by [ParseEvent] for a payload that is not a
// dispatch event at all, such as an event of API Gateway or SQS.
var ErrNotDispatch = errors.New("not a dispatch event")

// Event is the dispatch event: the payload of an invocation. It tells the
// adapter where to dial and lets both ends prove who they are. It reaches the
// environment through AWS's authenticated and encrypted Invoke API, which
// makes it the key exchange of the tunnel: treat it as a secret.
type Event struct {
	// Version marks the payload as a dispatch event. Always EventVersion.
	Version int `json:"lambda_dispatch"`

	// Instance is the ID of the instance, 128 random bits in hexadecimal.
	Instance string `json:"instance"`

	// Secret is the key of this instance's hello, 256 random bits. It never
	// crosses the tunnel and must not be logged.
	Secret Secret `json:"secret"`

	// Router is the host:port of the callback listener to dial.
	Router string `json:"router"`

	// TLSPin is the SHA-256 of the router's public key (its DER-encoded
	// SubjectPublicKeyInfo), in unpadded base64url. Empty means that the
	// tunnel is plain TCP.
	TLSPin string `json:"tls_pin,omitempty"`

	// Pool is the name of the pool that the instance belongs to, for logs.
	Pool string `json:"pool"`

	// MaxConcurrent is the most requests that the router will have in flight
	// on this instance at once.
	MaxConcurrent int `json:"max_concurrent"`
}

// NewEvent returns an event with a fresh instance ID and secret.
func NewEvent(pool, router, tlsPin string, maxConcurrent int) Event {
	id := make([]byte, instanceBytes)
	secret := make([]byte, secretBytes)
	rand.Read(id) // never fails, see crypto/rand
	rand.Read(secret)
	return Event{
		Version:       EventVersion,
		Instance:      hex.EncodeToString(id),
		Secret:        secret,
		Router:        router,
		TLSPin:        tlsPin,
		Pool:          pool,
		MaxConcurrent: maxConcurrent,
	}
}

// ParseEvent reads a dispatch event. The error is [ErrNotDispatch] when the
// payload is something else, and says in one line what is wrong with the
// event otherwise; it never contains the secret.
func ParseEvent(payload []byte) (Event, error) {
	var kind struct {
		Version *int `json:"lambda_dispatch"`
	}
	if err := json.Unmarshal(payload, &kind); err != nil || kind.Version == nil {
		return Event{}, ErrNotDispatch
	}
	if *kind.Version != EventVersion {
		return Event{}, fmt.Errorf("dispatch event has version %d, this adapter speaks version %d", *kind.Version, EventVersion)
	}
	var ev Event
	if err := json.Unmarshal(payload, &ev); err != nil {
		return Event{}, fmt.Errorf("reading dispatch event: %w", err)
	}
	return ev, ev.validate()
}

func (ev *Event) validate() error {
	if id, err := hex.DecodeString(ev.Instance); err != nil || len(id) != instanceBytes {
		return fmt.Errorf("dispatch event: instance must be %d hexadecimal digits", 2*instanceBytes)
	}
	if len(ev.Secret) != secretBytes {
		return fmt.Errorf("dispatch event: secret must be %d bits", 8*secretBytes)
	}
	if _, port, err := net.SplitHostPort(ev.Router); err != nil || port == "" {
		return fmt.Errorf("dispatch event: router %q is not host:port", ev.Router)
	}
	if ev.MaxConcurrent < 1 {
		return fmt.Errorf("dispatch event: max_concurrent is %d, must be at least 1", ev.MaxConcurrent)
	}
	return nil
}

// Secret is a key that formats as a placeholder, so that it cannot reach a log
// by accident. In JSON it is unpadded base64url.
type Secret []byte

// String hides the secret from fmt and from zap.
func (Secret) String() string { return "[secret]" }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText implements [encoding.TextMarshaler].
func (s Secret) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, s), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Secret) UnmarshalText(text []byte) error {
	b, err := base64.RawURLEncoding.AppendDecode(nil, text)
	if err != nil {
		return errors.New("secret is not base64url") // the cause would quote it
	}
	*s = b
	return nil
}
