package tunnel

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
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

	solicited int64         // header sections that may come at the ordinary price
	ordinary  bool          // the section that is coming has that price
	work      allowance     // of all frames but the pieces of bodies
	pieces    allowance     // of those: an app may well write one byte at a time
	inDebt    time.Duration // since when work is, 0 = is not
}

// allowance is work that may come before the next pause.
type allowance struct {
	rate  int64 // per second; it holds as much as comes in two
	level int64
	last  time.Duration // when level was right
}

// take takes units, which may leave a debt.
func (a *allowance) take(units, earned int64, now time.Duration) {
	unit := time.Second / time.Duration(a.rate)
	more := int64((now - a.last) / unit)
	a.last += time.Duration(more) * unit
	a.level = min(a.level+more+earned, 2*a.rate) - units
}

// debt returns how long it takes to be paid.
func (a *allowance) debt() time.Duration {
	return time.Duration(max(0, -a.level)) * (time.Second / time.Duration(a.rate))
}

// Work is counted in units of about a microsecond of the router's CPU, so a
// peer that does nothing but harm costs a fiftieth of a core, and for at most
// guardPatience. Ordinary traffic earns what it costs: a request its header
// sections and a few small frames, what is sent its WINDOW_UPDATEs.
const (
	workRate      = 20_000  // per second
	piecesRate    = 100_000 // per second
	guardPatience = 5 * time.Second

	workPerRequest    = 8
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

func newGuard() *guard {
	return &guard{
		work:   allowance{rate: workRate, level: 2 * workRate},
		pieces: allowance{rate: piecesRate, level: 2 * piecesRate},
	}
}

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
	var work, pieces int64
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
		w, piece, err := g.frame(trusted)
		if err != nil {
			return err
		}
		if piece {
			pieces += w
		} else {
			work += w
		}
	}
	return g.charge(work, pieces, now)
}

// frame returns the work of the frame whose header is in head, and whether it is
// a piece of a body.
func (g *guard) frame(trusted bool) (work int64, piece bool, err error) {
	size := int(binary.BigEndian.Uint32(g.head[:4]) >> 8)
	kind, flags := g.head[3], g.head[4]
	g.skip = size
	if !g.begun {
		// net/http would write a line to the standard log about it.
		if kind != httprules.FrameSettings {
			return 0, false, errNotHTTP2
		}
		g.begun = true
	}
	if !trusted {
		if g.frames++; g.frames > helloFrames {
			return 0, false, errHelloFlood
		}
	}
	length := int64(size)
	switch kind {
	case httprules.FrameData:
		switch {
		case length == 0 && flags&httprules.FlagEndStream == 0:
			return 10, false, nil
		case length < 512:
			return 1, true, nil
		default:
			return 0, true, nil // flow control lets no more through than somebody reads
		}
	case httprules.FrameHeaders:
		g.solicited = min(g.solicited+g.asked.Swap(0), maxSolicited)
		if g.ordinary = g.solicited > 0; g.ordinary {
			g.solicited--
			return 1, false, nil
		}
		// One byte can stand for a field of HPACK's tables.
		return 20 + length/8, false, nil
	case httprules.FrameContinuation:
		if g.ordinary {
			return 5, false, nil
		}
		return 5 + length/64, false, nil
	case httprules.FrameWindowUpdate:
		return 2, false, nil
	case httprules.FrameRSTStream:
		return 5, false, nil
	case httprules.FramePing:
		if flags&httprules.FlagAck != 0 {
			return 2, false, nil
		}
		return 40, false, nil
	case httprules.FrameSettings:
		return 40 + length/2, false, nil
	case httprules.FrameGoAway:
		return 40 + length/16, false, nil
	default:
		// PRIORITY, PUSH_PROMISE and extensions: an adapter sends none, and
		// net/http writes a line to the standard log about each.
		return 0, false, errOddFrame
	}
}

// charge takes work and that of pieces of bodies from what is allowed.
func (g *guard) charge(work, pieces int64, now time.Duration) error {
	g.work.take(work, g.earned.Swap(0), now)
	g.pieces.take(pieces, 0, now)
	switch {
	case g.inDebt == 0:
		if g.work.level < 0 {
			g.inDebt = max(now, 1)
		}
	case g.work.level > workRate: // more than the moment's rest that a pause gives
		g.inDebt = 0
	case now-g.inDebt > guardPatience:
		return errFlood
	}
	return nil
}

// pause returns how long to wait before more is read.
func (g *guard) pause() time.Duration { return max(g.work.debt(), g.pieces.debt()) }
