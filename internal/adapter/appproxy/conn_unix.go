//go:build unix

package appproxy

import (
	"io"
	"net"
	"syscall"
)

// rawRead reads from a socket without waiting, which net.Conn cannot.
type rawRead struct {
	raw syscall.RawConn
	f   func(fd uintptr) bool // attempt, as a value made once

	// The argument and the results of attempt.
	p   []byte
	n   int
	err error
}

func (rr *rawRead) init(nc net.Conn) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	rr.raw, rr.f = raw, rr.attempt
}

// attempt always says that it is done, so that RawConn.Read does not wait.
func (rr *rawRead) attempt(fd uintptr) bool {
	for {
		rr.n, rr.err = syscall.Read(int(fd), rr.p)
		if rr.err != syscall.EINTR { //nolint:errorlint // an errno
			return true
		}
	}
}

// try reads what is there. The error is errWouldWait when nothing is.
func (rr *rawRead) try(p []byte) (int, error) {
	if rr.raw == nil {
		return 0, errWouldWait
	}
	rr.p = p
	err := rr.raw.Read(rr.f)
	rr.p = nil
	if err != nil {
		return 0, err
	}
	switch {
	case rr.err == syscall.EAGAIN: //nolint:errorlint // an errno
		return 0, errWouldWait
	case rr.err != nil:
		return 0, rr.err
	case rr.n == 0:
		return 0, io.EOF
	}
	return rr.n, nil
}
