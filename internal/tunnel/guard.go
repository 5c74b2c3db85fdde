package tunnel

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// A guard bounds what the frames of one peer may cost the router. The engine
// bounds the memory; but a PING that is answered, a SETTINGS, an empty frame or
// a header section that nobody asked for each cost time, and the engine takes
// them as fast as they come (RFC 9113 section 10.5).
//
// It looks at frame headers only. Before the hello is over it allows a few
// frames. After that it counts work: a peer in debt is read from more slowly,
// which slows its own requests and no others, and one that stays in debt is cut
// off. Only Read uses a guard, apart from the fields that are atomic.
type guard struct {
	trusted atomic.Bool  // the hello is over
	earned  atomic.Int64 // work that the router itself has asked for
	asked   atomic.Int64 // header sections that it has asked for, not taken yet

	head   [frameHeaderBytes]byte
	have   int // bytes of head
	skip   int // bytes left of the frame's payload
	begun  bool
	frames int // before the hello is over
	bytes  int // before the hello is over

	solicited int64 // header sections that may come at the ordinary price
	balance   int64
	last      time.Duration // when balance was right
	inDebt    time.Duration // since when, 0 = is not
}

// Work is counted in units of about a microsecond of the router's CPU, so a
// peer that does nothing but harm costs a fifth of a core, and for at most
// guardPatience. Ordinary traffic earns what it costs: a request its header
// sections and a few small frames, what is sent its WINDOW_UPDATEs.
const (
	guardRate     = 200_000 // per second
	guardBurst    = guardRate
	guardPatience = 5 * time.Second

	workPerRequest    = 4
	sectionsPerAnswer = 3    // early hints, the response, trailers
	maxSolicited      = 1000 // of requests that were answered with fewer
	bytesPerWork      = 1024 // written

	// Before the hello is over. It takes ten frames and less than 1 KB.
	helloFrames = 64
	helloBytes  = 32 << 10

	frameHeaderBytes = 9
)

var (
	errNotHTTP2   = errors.New("not HTTP/2")
	errHelloFlood = errors.New("hello has too many frames")
	errFlood      = errors.New("flood of frames")
	errOddFrame   = errors.New("frame of a type that is not used here")
)

func newGuard() *guard { return &guard{balance: guardBurst} }

// request counts a request that the router is about to send.
func (g *guard) request() {
	if g == nil {
		return // the peer is trusted
	}
	g.earned.Add(workPerRequest)
	g.asked.Add(sectionsPerAnswer)
}

// wrote counts bytes that the router has sent.
func (g *guard) wrote(n int) { g.earned.Add(int64(n+bytesPerWork/2) / bytesPerWork) }

// look accounts for bytes that have come. An error means that nothing after
// them should be read.
func (g *guard) look(p []byte, now time.Duration) error {
	trusted := g.trusted.Load()
	if !trusted {
		if g.bytes += len(p); g.bytes > helloBytes {
			return errHelloFlood
		}
	}
	var work int64
	for len(p) > 0 {
		if g.skip > 0 {
			n := min(g.skip, len(p))
			g.skip -= n
			p = p[n:]
			continue
		}
		n := copy(g.head[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have < frameHeaderBytes {
			break
		}
		g.have = 0
		w, err := g.frame(trusted)
		if err != nil {
			return err
		}
		work += w
	}
	return g.charge(work, now)
}

// frame returns the work of the frame whose header is in head.
func (g *guard) frame(trusted bool) (int64, error) {
	size := int(binary.BigEndian.Uint32(g.head[:4]) >> 8)
	kind, flags := http2.FrameType(g.head[3]), http2.Flags(g.head[4])
	g.skip = size
	if !g.begun {
		// net/http would write a line to the standard log about it.
		if kind != http2.FrameSettings {
			return 0, errNotHTTP2
		}
		g.begun = true
	}
	if !trusted {
		if g.frames++; g.frames > helloFrames {
			return 0, errHelloFlood
		}
	}
	length := int64(size)
	switch kind {
	case http2.FrameData:
		switch {
		case length == 0 && !flags.Has(http2.FlagDataEndStream):
			return 10, nil
		case length < 512:
			return 1, nil
		default:
			return 0, nil // flow control lets no more through than somebody reads
		}
	case http2.FrameHeaders:
		g.solicited = min(g.solicited+g.asked.Swap(0), maxSolicited)
		if g.solicited > 0 {
			g.solicited--
			return 1, nil
		}
		// One byte can stand for a field of HPACK's tables.
		return 20 + length/8, nil
	case http2.FrameContinuation:
		return 5 + length/64, nil
	case http2.FrameWindowUpdate:
		return 2, nil
	case http2.FrameRSTStream:
		return 5, nil
	case http2.FramePing:
		if flags.Has(http2.FlagPingAck) {
			return 2, nil
		}
		return 40, nil
	case http2.FrameSettings:
		return 40 + length/2, nil
	case http2.FrameGoAway:
		return 40 + length/16, nil
	default:
		// PRIORITY, PUSH_PROMISE and extensions: an adapter sends none, and
		// net/http writes a line to the standard log about each.
		return 0, errOddFrame
	}
}

// charge takes work from the balance.
func (g *guard) charge(work int64, now time.Duration) error {
	g.balance += g.earned.Swap(0) + int64(guardRate*(now-g.last).Seconds())
	g.last = now
	g.balance = min(g.balance, guardBurst) - work
	switch {
	case g.inDebt == 0:
		if g.balance < 0 {
			g.inDebt = max(now, 1)
		}
	case g.balance > guardBurst/2: // more than the moment's rest that a pause gives
		g.inDebt = 0
	case now-g.inDebt > guardPatience:
		return errFlood
	}
	return nil
}

// pause returns how long to wait before more is read.
func (g *guard) pause() time.Duration {
	if g.balance >= 0 {
		return 0
	}
	return time.Duration(-g.balance) * time.Second / guardRate
}
