package tunnel

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// The hello is three lines of JSON, the first two on stream 1 and the third on
// stream 3, which then stays open as the control stream:
//
//	router  → adapter  {"lambda_dispatch":1,"nonce":…,"max_header_bytes":…}
//	adapter → router   {"lambda_dispatch":1,"instance":…,"nonce":…,"mac":…}
//	router  → adapter  {"mac":…}
//
// Binary values are base64 with padding, as encoding/json writes them.

// protocolVersion is the version of the hello and of the control stream.
const protocolVersion = 1

const (
	nonceBytes = 32
	macBytes   = sha256.Size

	// maxLine is the longest line of the hello and of the control stream in
	// bytes, its newline included.
	maxLine = 4096
	// maxID is the longest instance ID in bytes.
	maxID = 128
)

var (
	errBadHello = errors.New("not a hello")
	errWrongMAC = errors.New("wrong authentication code")
	errLineLong = fmt.Errorf("line longer than %d bytes", maxLine)
)

// routerHello is the first line.
type routerHello struct {
	Version int    `json:"lambda_dispatch"`
	Nonce   []byte `json:"nonce"`
	// MaxHeaderBytes is the largest header section of a response that the
	// router reads. The adapter has to know it, because net/http answers a
	// larger one by closing the whole connection.
	MaxHeaderBytes int `json:"max_header_bytes"`
}

func parseRouterHello(line []byte) (routerHello, error) {
	var h routerHello
	if err := json.Unmarshal(line, &h); err != nil {
		return routerHello{}, errBadHello // the cause would quote the peer
	}
	if h.Version != protocolVersion {
		return routerHello{}, fmt.Errorf("router speaks version %d of the protocol, not %d", h.Version, protocolVersion)
	}
	if len(h.Nonce) != nonceBytes || h.MaxHeaderBytes < 0 {
		return routerHello{}, errBadHello
	}
	return h, nil
}

// adapterHello is the second line.
type adapterHello struct {
	Version  int    `json:"lambda_dispatch"`
	Instance string `json:"instance"`
	Nonce    []byte `json:"nonce"`
	MAC      []byte `json:"mac"`
}

func parseAdapterHello(line []byte) (adapterHello, error) {
	var h adapterHello
	if err := json.Unmarshal(line, &h); err != nil {
		return adapterHello{}, errBadHello
	}
	if h.Version != protocolVersion {
		return adapterHello{}, fmt.Errorf("adapter speaks version %d of the protocol, not %d", h.Version, protocolVersion)
	}
	if h.Instance == "" || len(h.Instance) > maxID || len(h.Nonce) != nonceBytes || len(h.MAC) != macBytes {
		return adapterHello{}, errBadHello
	}
	return h, nil
}

// routerProof is the third line.
type routerProof struct {
	MAC []byte `json:"mac"`
}

func parseRouterProof(line []byte) (routerProof, error) {
	var p routerProof
	if err := json.Unmarshal(line, &p); err != nil || len(p.MAC) != macBytes {
		return routerProof{}, errBadHello
	}
	return p, nil
}

// encodeLine returns v as one line.
func encodeLine(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only structs of this package come here, and they marshal
	}
	return append(b, '\n')
}

// The roles keep one end's MAC from being sent back as the other's.
const (
	roleAdapter = "lambda-dispatch 1 adapter"
	roleRouter  = "lambda-dispatch 1 router"
)

// helloMAC proves that the one who computed it knows the secret and speaks on
// this connection, now. Each part is preceded by its length, so that no two
// sets of parts make the same input. Exporter is empty when tls is off.
func helloMAC(secret []byte, role, instance string, routerNonce, adapterNonce, exporter []byte) []byte {
	h := hmac.New(sha256.New, secret)
	for _, part := range [][]byte{[]byte(role), []byte(instance), routerNonce, adapterNonce, exporter} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return h.Sum(nil)
}

// checkMAC compares in constant time.
func checkMAC(got, want []byte) error {
	if !hmac.Equal(got, want) {
		return errWrongMAC
	}
	return nil
}

func newNonce() []byte {
	b := make([]byte, nonceBytes)
	rand.Read(b) // never fails, see crypto/rand
	return b
}

// trimLine removes the end of a line.
func trimLine(b []byte) []byte { return bytes.TrimRight(b, "\r\n") }
