package appproxy

import (
	"bytes"
	"errors"
	"strings"
)

// What net/http's parser takes and a proxy must not pass on.
var (
	errBareLF     = errors.New("its head has a line that ends without a carriage return")
	errTwoLengths = errors.New("its head has both Content-Length and Transfer-Encoding")
	errOldCoding  = errors.New("its head has a Transfer-Encoding, which HTTP/1.0 does not know")
)

// headCheck looks at the heads of an answer as they arrive, before net/http
// parses them. Its parser forgives what can be read in two ways (RFC 9112,
// sections 2.2 and 6.3), and forgets the options of a Connection field that
// has "close" among them.
type headCheck struct {
	line       []byte // the beginning of a line whose end has not come
	connection []byte // the options of the Connection fields, separated by commas
	over       bool   // the final head has ended
	fields     bool   // the status line is over
	interim    bool   // this head is informational, so another follows
	old        bool   // HTTP/1.0
	length     bool   // Content-Length
	coding     bool   // Transfer-Encoding
	folds      bool   // the line before this one was a Connection field
}

// begin prepares for the answer to another request.
func (h *headCheck) begin() {
	*h = headCheck{line: h.line[:0], connection: h.connection[:0]}
}

// feed takes the next bytes of the answer.
func (h *headCheck) feed(p []byte) error {
	for !h.over {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			h.line = append(h.line, p...)
			return nil
		}
		line := p[:i+1]
		p = p[i+1:]
		if len(h.line) > 0 {
			h.line = append(h.line, line...)
			line = h.line
		}
		if err := h.take(line); err != nil {
			return err
		}
		h.line = h.line[:0]
	}
	return nil
}

func (h *headCheck) take(line []byte) error {
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	switch {
	case !ok:
		return errBareLF
	case !h.fields:
		h.fields = true
		h.status(line)
		return nil
	case len(line) > 0:
		h.field(line)
		return nil
	case h.length && h.coding:
		return errTwoLengths
	case h.old && h.coding:
		return errOldCoding
	case h.interim:
		h.begin()
		return nil
	}
	h.over = true
	return nil
}

func (h *headCheck) status(line []byte) {
	version, rest, _ := bytes.Cut(line, []byte(" "))
	h.old = string(version) == "HTTP/1.0"
	h.interim = len(rest) >= 3 && rest[0] == '1' && string(rest[:3]) != "101"
}

func (h *headCheck) field(line []byte) {
	if line[0] == ' ' || line[0] == '\t' { // a fold (RFC 9112, section 5.2)
		if h.folds {
			h.connection = append(append(h.connection, ' '), line...)
		}
		return
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	h.folds = false
	switch len(name) {
	case len("Connection"):
		if strings.EqualFold(string(name), "Connection") {
			h.folds = true
			h.connection = append(append(h.connection, ','), value...)
		}
	case len("Content-Length"):
		h.length = h.length || strings.EqualFold(string(name), "Content-Length")
	case len("Transfer-Encoding"):
		h.coding = h.coding || strings.EqualFold(string(name), "Transfer-Encoding")
	}
}

// options returns the fields of Connection, as net/http should have left them.
func (h *headCheck) options() []string {
	if len(h.connection) == 0 {
		return nil
	}
	return []string{string(h.connection[1:])}
}
