package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// alpn is the protocol that both ends must agree on: HTTP/2 with the roles
// reversed after TLS (draft-thomson-ptth-potato).
const alpn = "rh2"

// Identity is the key pair that a listener proves to the adapters. An adapter
// learns the hash of its public key with the dispatch event and accepts no
// other, so the certificate around it needs no authority and no renewal.
type Identity struct {
	cert tls.Certificate
	pin  string
}

// NewIdentity returns an identity with a fresh P-256 key and a certificate
// signed by itself.
func NewIdentity() (*Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	// Nobody checks names and dates here; they are filled in for those who
	// look at the connection with other tools.
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "lambda-dispatch callback listener"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"lambda-dispatch"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making certificate: %w", err)
	}
	return newIdentity(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

// LoadIdentity reads an identity from PEM files. The adapters pin the key, so
// those that were told of one before need that one ([Listener.ExpectAs]) unless
// a renewed certificate keeps the key.
func LoadIdentity(certFile, keyFile string) (*Identity, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("loading certificate and key: %w", err)
	}
	return newIdentity(cert)
}

func newIdentity(cert tls.Certificate) (*Identity, error) {
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	cert.Leaf = leaf
	return &Identity{cert: cert, pin: pinOf(leaf)}, nil
}

// Pin returns the hash that adapters accept the identity by: the SHA-256 of
// the DER-encoded SubjectPublicKeyInfo in unpadded base64url. That of no
// identity is "".
func (id *Identity) Pin() string {
	if id == nil {
		return ""
	}
	return id.pin
}

func pinOf(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// serverTLS is the listener's TLS configuration. Sessions are not resumed: an
// adapter connects once.
func (id *Identity) serverTLS() *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{id.cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true,
	}
}

var (
	errWrongKey = errors.New("the router's public key is not the pinned one")
	errNoALPN   = errors.New(`peer does not speak "` + alpn + `"`)
)

// clientTLS is the adapter's TLS configuration. The pin replaces the checks of
// names, dates and authorities.
func clientTLS(serverName, pin string) (*tls.Config, error) {
	want, err := base64.RawURLEncoding.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return nil, errors.New("pin is not a SHA-256 in base64url")
	}
	return &tls.Config{
		ServerName:         hintName(pin, serverName),
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpn},
		InsecureSkipVerify: true, // replaced by VerifyConnection, which also runs for resumed sessions
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errWrongKey
			}
			got := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(got[:], want) != 1 {
				return errWrongKey
			}
			return checkALPN(cs)
		},
	}, nil
}

// checkALPN is needed at both ends: TLS goes on without ALPN if the other end
// does not use it (RFC 7301 section 3.2).
func checkALPN(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != alpn {
		return errNoALPN
	}
	return nil
}

const exporterLabel = "EXPORTER-lambda-dispatch-hello"

// exporter returns the keying material that binds the hello to this very TLS
// connection (RFC 8446 section 7.5), so that it cannot be relayed over another.
func exporter(cs tls.ConnectionState) ([]byte, error) {
	b, err := cs.ExportKeyingMaterial(exporterLabel, nil, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("exporting keying material: %w", err)
	}
	return b, nil
}
