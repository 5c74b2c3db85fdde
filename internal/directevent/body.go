package directevent

import (
	"bytes"
	"encoding/base64"
	"errors"
)

var errBody = errors.New("not a string")

// body returns the bytes of the request's body.
func (e *envelope) body(source Source) ([]byte, error) {
	t := e.members[keyBody]
	if t.isNull() {
		return nil, nil
	}
	if t.kind() != '"' {
		return nil, errBody
	}
	encoded := e.members[keyBase64]
	if source == VPCLatticeV1 {
		encoded = e.members[keyLatticeBase64]
	}
	if !isTrue(encoded) {
		return t.text(), nil
	}
	text := t[1 : len(t)-1]
	if bytes.IndexByte(text, '\\') >= 0 { // some encoders write \/ for /
		text = appendText(make([]byte, 0, len(text)), text)
	}
	body := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(body, text)
	return body[:n], err
}
