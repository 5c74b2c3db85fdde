package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// frame returns the bytes of a frame.
func frame(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	var b bytes.Buffer
	if err := http2.NewFramer(&b, nil).WriteRawFrame(kind, flags, stream, payload); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func windowUpdate(stream, n uint32) []byte {
	return frame(http2.FrameWindowUpdate, 0, stream, binary.BigEndian.AppendUint32(nil, n))
}

// bomb is a header block of one-byte references: each stands for a field of
// HPACK's static table, the longest of them.
func bomb(size int) []byte {
	b := bytes.Repeat([]byte{0x80 | 16}, size) // accept-encoding: gzip, deflate
	b[0] = 0x80 | 8                            // :status: 200
	return b
}

// floods are what a peer may send without end. The second is sent once for each
// request that is open, if there is any.
var floods = map[string][]byte{
	"ping":            frame(http2.FramePing, 0, 0, make([]byte, 8)),
	"ping ack":        frame(http2.FramePing, http2.FlagPingAck, 0, make([]byte, 8)),
	"settings":        frame(http2.FrameSettings, 0, 0, nil),
	"many settings":   frame(http2.FrameSettings, 0, 0, bytes.Repeat([]byte{0, 4, 0, 0, 255, 255}, 2000)),
	"window update":   windowUpdate(9999, 1),
	"reset":           frame(http2.FrameRSTStream, 0, 1, make([]byte, 4)),
	"goaway":          frame(http2.FrameGoAway, 0, 0, bytes.Repeat([]byte{0xff}, 1000)),
	"empty data":      frame(http2.FrameData, 0, 1, nil),
	"tiny data":       frame(http2.FrameData, 0, 1, []byte("x")),
	"headers":         frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte{0x80 | 8}),
	"header bomb":     frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, bomb(16<<10)),
	"never opened":    frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 8001, []byte{0x80 | 8}),
	"early hints":     frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, []byte{0x08, 3, '1', '0', '3'}),
	"continuation":    append(frame(http2.FrameHeaders, 0, 1, []byte{0x80 | 8}), bytes.Repeat(frame(http2.FrameContinuation, 0, 1, nil), 1<<20)...),
	"table evictions": frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, append([]byte{0x80 | 8}, bytes.Repeat([]byte("\x40\x01a\x01b"), 3000)...)),
}

// Whatever a peer sends without end, the router takes a bounded amount of it
// and then hangs up.
func TestGuardBoundsEveryFlood(t *testing.T) {
	for name, piece := range floods {
		t.Run(name, func(t *testing.T) {
			g := newGuard()
			g.trusted.Store(true)
			now := time.Second
			if err := g.look(frame(http2.FrameSettings, 0, 0, nil), now); err != nil {
				t.Fatal(err)
			}
			taken, start := 0, now
			cut, off := false, 0
			for now < 10*time.Second {
				n := min(len(piece)-off, 128<<10)
				err := g.look(piece[off:off+n], now)
				taken += n
				off = (off + n) % len(piece)
				if cut = errors.Is(err, errFlood); cut {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				now += g.pause() + time.Microsecond // a fast peer
			}
			took := now - start
			t.Logf("%d bytes in %v, cut off is %v", taken, took, cut)
			if name == "tiny data" {
				if frames := taken / 10; cut || frames > 12*piecesRate {
					t.Errorf("%d frames were taken, cut off is %v", frames, cut)
				}
				return // slowed down is enough: it may be an app that writes so
			}
			if !cut || took > guardPatience+3*time.Second {
				t.Errorf("cut off is %v after %v", cut, took)
			}
		})
	}
}

// What ordinary traffic needs is never in debt, however fast it is.
func TestGuardIsNotInTheWay(t *testing.T) {
	settings := frame(http2.FrameSettings, 0, 0, nil)
	section := frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, make([]byte, 300))
	large := frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, make([]byte, 16<<10))
	small := frame(http2.FrameData, 0, 1, make([]byte, 100))
	full := frame(http2.FrameData, 0, 1, make([]byte, FrameSize))
	end := frame(http2.FrameData, http2.FlagDataEndStream, 1, nil)
	reset := frame(http2.FrameRSTStream, 0, 1, make([]byte, 4))
	pong := frame(http2.FramePing, http2.FlagPingAck, 0, make([]byte, 8))
	for name, tt := range map[string]struct {
		pieces [][]byte
		wrote  int           // for each, in the request
		every  time.Duration // one comes
	}{
		"small answers":      {[][]byte{section, small, end}, 0, 20 * time.Microsecond},
		"trailers and hints": {[][]byte{section, section, small, section}, 0, 20 * time.Microsecond},
		"large headers":      {[][]byte{large}, 0, 100 * time.Microsecond},
		"refused":            {[][]byte{reset, pong}, 0, 50 * time.Microsecond},
		"a download":         {[][]byte{full}, 0, 50 * time.Microsecond},
		"a slow download":    {[][]byte{small}, 0, 10 * time.Microsecond},
		"an upload":          {[][]byte{windowUpdate(0, 4096), windowUpdate(1, 4096)}, 4096, 4 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard()
			g.trusted.Store(true)
			if err := g.look(settings, 0); err != nil {
				t.Fatal(err)
			}
			for now := time.Duration(0); now < 3*time.Second; now += tt.every {
				if tt.wrote > 0 {
					g.wrote(tt.wrote)
				} else {
					g.request()
				}
				for _, p := range tt.pieces {
					if err := g.look(p, now); err != nil || g.pause() > 0 {
						t.Fatalf("after %v: pause of %v, %v", now, g.pause(), err)
					}
				}
			}
		})
	}
}

// Bytes are the same however they are cut into pieces.
func FuzzGuard(f *testing.F) {
	for _, piece := range floods {
		f.Add(append(frame(http2.FrameSettings, 0, 0, nil), piece[:min(len(piece), 1000)]...), 3, true)
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"), 1, false)
	f.Fuzz(func(t *testing.T, data []byte, cut int, trusted bool) {
		whole, parts := newGuard(), newGuard()
		whole.trusted.Store(trusted)
		parts.trusted.Store(trusted)
		err := whole.look(data, 0)
		var partErr error
		cut = max(1, cut)
		for rest := data; len(rest) > 0 && partErr == nil; {
			n := min(cut, len(rest))
			partErr = parts.look(rest[:n], 0)
			rest = rest[n:]
		}
		if (err == nil) != (partErr == nil) {
			t.Errorf("whole %v, in parts %v", err, partErr)
		}
		if err == nil && (whole.work != parts.work || whole.pieces != parts.pieces || whole.skip != parts.skip) {
			t.Errorf("whole %d %d, in parts %d %d", whole.work.level, whole.skip, parts.work.level, parts.skip)
		}
	})
}

// The hello takes a fraction of what a stranger may send.
func TestGuardBeforeTheHello(t *testing.T) {
	settings := frame(http2.FrameSettings, 0, 0, nil)
	for name, tt := range map[string]struct {
		piece []byte
		times int
		want  error
	}{
		"HTTP/1.1":    {[]byte("HTTP/1.1 400 Bad Request\r\n"), 1, errNotHTTP2},
		"ping first":  {floods["ping"], 1, errNotHTTP2},
		"frames":      {settings, helloFrames + 1, errHelloFlood},
		"bytes":       {append(settings, frame(http2.FrameData, 0, 1, make([]byte, 30<<10))...), 2, errHelloFlood},
		"enough":      {settings, helloFrames, nil},
		"odd":         {append(settings, frame(http2.FramePriority, 0, 1, make([]byte, 5))...), 1, errOddFrame},
		"unknown":     {append(settings, frame(0xbe, 0, 0, nil)...), 1, errOddFrame},
		"no settings": {frame(0xbe, 0, 0, nil), 1, errNotHTTP2},
	} {
		g := newGuard()
		var err error
		for range tt.times {
			if err = g.look(tt.piece, 0); err != nil {
				break
			}
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Each flood at once, from adapters that have said a good hello: each loses its
// own tunnel, unless the machine is so busy that the flood is none, a tunnel
// beside them does not notice, and the memory is bounded.
func TestFloodsHarmNoOtherTunnel(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a flood is borne")
	}
	l := listen(t, ListenerConfig{})
	good := l.expect("good", testSecret)
	cfg := l.dialConfig(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") }))
	cfg.Instance = "good"
	s, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	neighbour := receive(t, good)
	defer func() { _ = s.Close(); wait(t, neighbour.Done()) }()

	var calm time.Duration
	for range 200 {
		at := time.Now()
		do(t, neighbour, request(t, "GET", "/"))
		calm = max(calm, time.Since(at))
	}

	type flooded struct {
		name   string
		tunnel Tunnel
	}
	var all []flooded
	var sent atomic.Int64
	for name, piece := range floods {
		id := strings.ReplaceAll(name, " ", "-")
		tunnels := l.expect(id, testSecret)
		a := dialRaw(t, l)
		a.id = id
		a.open()
		all = append(all, flooded{name, receive(t, tunnels)})
		go func() { _, _ = io.Copy(io.Discard, a.conn) }()
		go func() {
			many := bytes.Repeat(piece, max(1, 32<<10/len(piece)))
			_ = a.conn.SetDeadline(time.Now().Add(time.Minute))
			for {
				n, err := a.conn.Write(many)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	const enough = 4 * guardPatience
	var slowest time.Duration
	var mem runtime.MemStats
	var most uint64
	requests, lived := 0, 0
	begin := time.Now()
	for _, f := range all {
		if f.name == "tiny data" {
			defer func() { _ = f.tunnel.Close() }() // is only slowed down
			continue
		}
		for ended := false; !ended; {
			at := time.Now()
			do(t, neighbour, request(t, "GET", "/"))
			slowest = max(slowest, time.Since(at))
			requests++
			select {
			case <-f.tunnel.Done():
				ended = true
				t.Logf("%s: over after %v", f.name, time.Since(begin).Round(time.Millisecond))
				if !errors.Is(f.tunnel.Err(), ErrProtocol) {
					t.Errorf("%s: ended with %v", f.name, f.tunnel.Err())
				}
			default:
				if time.Since(begin) > enough {
					lived++
					_ = f.tunnel.Close()
					ended = true
				}
			}
			if requests%100 == 0 {
				runtime.ReadMemStats(&mem)
				most = max(most, mem.HeapInuse+mem.StackInuse)
			}
		}
	}
	t.Logf("%d floods, %d MB, over after %v, %d not cut off; %d requests beside them, the slowest took %v; at most %d MB of memory, the floods' own included",
		len(all), sent.Load()>>20, time.Since(begin).Round(time.Millisecond), lived, requests, slowest.Round(time.Millisecond), most>>20)
	if busy := slowest > 200*time.Millisecond; lived > 0 && !busy {
		t.Errorf("%d of %d floods were not cut off", lived, len(all))
	}
	if most > 200<<20 {
		t.Errorf("%d MB of memory", most>>20)
	}
	if slowest > max(2*time.Second, 20*calm) {
		t.Errorf("a request beside the floods took %v, before that %v at most", slowest, calm)
	}
}

func BenchmarkGuard(b *testing.B) {
	for _, size := range []int{100, 16 << 10, FrameSize} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			g := newGuard()
			g.trusted.Store(true)
			_ = g.look(frame(http2.FrameSettings, 0, 0, nil), 0)
			p := frame(http2.FrameData, 0, 1, make([]byte, size))
			for b.Loop() {
				_ = g.look(p, 0)
			}
		})
	}
}
