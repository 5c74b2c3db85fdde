//go:build !unix

package appproxy

import "net"

// rawRead cannot read without waiting here: every read is preceded by a
// flush, and a connection that the app has closed is noticed when it is used.
type rawRead struct{}

func (*rawRead) init(net.Conn) {}

func (*rawRead) try([]byte) (int, error) { return 0, errWouldWait }
