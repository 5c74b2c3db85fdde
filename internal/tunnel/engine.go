package tunnel

import (
	"log"
	"net"
	"net/http"
	"time"
)

// routerEngine is the router's end of an HTTP/2 connection: the client.
type routerEngine interface {
	// RoundTrip sends a request whose URL has a scheme and a host. The
	// response is as [http.RoundTripper] promises, with two things more: a
	// body that was cut ends with an error, and nothing is added to or taken
	// from either header section. It closes the request's body in any case.
	RoundTrip(*http.Request) (*http.Response, error)

	// NotSent reports whether an error of RoundTrip means that the request was
	// certainly not processed by the peer.
	NotSent(error) bool

	// Unusable reports whether an error of RoundTrip means that the connection
	// takes no new requests any more.
	Unusable(error) bool

	// Streams is how many streams have not ended in both directions. A
	// response counts until its last byte has arrived, read or not.
	Streams() int

	// Notify makes the engine call f, which must not block, after Streams has
	// become smaller.
	Notify(f func())

	// Close ends the connection and every stream.
	Close() error
}

// routerEngines prepares the router's engine; what it returns starts one on an
// authenticated or plain connection.
type routerEngines func(engineConfig) func(net.Conn) (routerEngine, error)

// adapterEngine is the adapter's end: it serves requests on the connection
// until that is closed, and returns after that. Handlers whose requests are
// cancelled by the end may still be running. A handler that panics with
// [http.ErrAbortHandler] resets its stream.
type adapterEngine func(*conn, engineConfig, http.Handler)

// engineConfig is what both engines are told.
type engineConfig struct {
	FrameSize      int // largest DATA frame read
	StreamWindow   int // flow-control window of each stream
	ConnWindow     int // of all streams together; 0 = the engine's default
	MaxStreams     int // adapter only
	MaxHeaderBytes int

	PingInterval time.Duration // silence before a PING
	PingTimeout  time.Duration // silence after it
	WriteTimeout time.Duration // without a byte written

	ErrorLog *log.Logger // adapter only: panics of handlers
}

// Defaults of both ends.
const (
	// FrameSize is the frame and copy-buffer size that costs the least per
	// byte: a Write of this size becomes one frame (measured: -35 % CPU on a
	// body of 168 KB against 32 KB).
	FrameSize = 128 << 10

	// uploadFrameSize is the largest frame that the adapter reads. net/http's
	// client keeps a buffer of this size for every request whose body it is
	// still sending, also for an idle upgrade and for the control stream. Half
	// of FrameSize costs no more CPU per byte, a quarter of it 30 % more.
	uploadFrameSize = FrameSize / 2

	defaultHelloTimeout = 5 * time.Second
	defaultDialTimeout  = 5 * time.Second
	// A peer that vanishes is noticed after the sum of the two.
	defaultPingInterval = 5 * time.Second
	defaultPingTimeout  = 5 * time.Second

	// streamWindow is what may be under way per stream and what a slow reader
	// can make this end keep in memory. At 1 ms of round-trip time it allows
	// 1 GB/s, more than a Lambda environment's network.
	streamWindow = 1 << 20

	defaultMaxHeaderBytes = 1 << 20
)

func (c *engineConfig) liveness(interval, timeout time.Duration) {
	c.PingInterval, c.PingTimeout = interval, timeout
	c.WriteTimeout = interval + timeout
}

// silence is how long nothing comes from a peer that is lost. The margin is
// for timers that fire a little early against each other.
func (c *engineConfig) silence() time.Duration {
	return c.PingTimeout - c.PingTimeout/10
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
