package locallambda

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

const (
	maxPort = 65535
	// firstPort keeps clear of the ports that people give their services.
	firstPort = 20000
	// fewestPorts is what a range must offer to be of use.
	fewestPorts = 1000
)

var errNoPort = errors.New("there is no free app port")

// appPorts hands out the app ports of all services in this process: between
// the check that a port is free and the moment when the app listens on it,
// only this knows that it is taken.
var appPorts = newPortSet(appPortRange(ephemeralPorts()))

// portSet hands out ports between low and high, both included.
type portSet struct {
	low, high int
	free      func(port int) bool // asks the system

	mu    sync.Mutex // guards what follows; not held while asking the system
	taken map[int]bool
	next  int
}

func newPortSet(low, high int) *portSet {
	return &portSet{
		low: low, high: high, free: canListen, taken: make(map[int]bool),
		// Other services of this kind may be about to do the same.
		next: low + rand.IntN(high-low+1),
	}
}

// appPortRange returns a range outside the one from which the kernel takes
// the ports of outgoing connections: such a connection could take an app's
// port while the app starts.
func appPortRange(ephemeralLow, ephemeralHigh int) (low, high int) {
	switch {
	case ephemeralLow-firstPort >= fewestPorts:
		return firstPort, ephemeralLow - 1
	case maxPort-ephemeralHigh >= fewestPorts:
		return ephemeralHigh + 1, maxPort
	default: // the kernel takes nearly everything: do without its promise
		return firstPort / 2, firstPort - 1
	}
}

// take returns a free port: the first one from first upwards or, if first is
// 0, any from the range, a different one each time so that one that has just
// been let go can rest.
func (p *portSet) take(first int) (int, error) {
	low, high := p.low, p.high
	if first > 0 {
		low, high = first, maxPort
	}
	for i := range high - low + 1 {
		port, ok := p.reserve(low+i, first > 0)
		if !ok {
			continue
		}
		if p.free(port) {
			return port, nil
		}
		p.release(port)
	}
	if first > 0 {
		return 0, fmt.Errorf("%w from %d upwards", errNoPort, first)
	}
	return 0, fmt.Errorf("%w between %d and %d", errNoPort, low, high)
}

// reserve takes the given port, or the next one of the range.
func (p *portSet) reserve(port int, exact bool) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !exact {
		port = p.next
		if p.next++; p.next > p.high {
			p.next = p.low
		}
	}
	if p.taken[port] {
		return 0, false
	}
	p.taken[port] = true
	return port, true
}

func (p *portSet) release(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, port)
}

// canListen reports whether an app could listen on the port, whichever
// address it chooses: some systems let the wildcard and a single address have
// the same port.
func canListen(port int) bool {
	var lc net.ListenConfig
	for _, host := range []string{"", "127.0.0.1"} {
		ln, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return false
		}
		if ln.Close() != nil {
			return false
		}
	}
	return true
}
