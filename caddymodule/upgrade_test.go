package caddymodule

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"pgregory.net/rapid"
)

// text makes a text frame, masked if a client sends it.
func text(payload string, masked bool) []byte {
	f := []byte{0x81}
	mask := byte(0)
	if masked {
		mask = maskBit
	}
	switch n := len(payload); {
	case n < lengthIn16:
		f = append(f, mask|byte(n))
	case n < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, mask|lengthIn16), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, mask|lengthIn64), uint64(n))
	}
	if masked {
		f = append(f, 0, 0, 0, 0)
	}
	return append(f, payload...)
}

// However frames come in pieces, what is said comes between two of them, once,
// and nothing follows it.
func TestAWordIsSaidBetweenFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []byte
		ends := []int{0}
		masked := rapid.Bool().Draw(t, "masked")
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			n := rapid.OneOf(rapid.IntRange(0, 130), rapid.Just(65535), rapid.Just(65536)).Draw(t, "size")
			all = append(all, text(string(make([]byte, n)), masked)...)
			ends = append(ends, len(all))
		}
		var got bytes.Buffer
		l := newLane(&got, true)
		before := rapid.IntRange(0, len(all)).Draw(t, "before")
		write := func(p []byte) {
			for len(p) > 0 {
				n := rapid.IntRange(1, len(p)).Draw(t, "piece")
				if m, err := l.Write(p[:n]); m != n || err != nil {
					t.Fatalf("wrote %d of %d, %v", m, n, err)
				}
				p = p[n:]
			}
		}
		write(all[:before])
		l.word.Store(&serviceRestart)
		l.say()
		write(all[before:])
		at, _ := slices.BinarySearch(ends, before)
		want := append(slices.Clone(all[:ends[at]]), serviceRestart...)
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%d bytes and the word were passed on, want %d and the word", got.Len()-len(serviceRestart), ends[at])
		}
	})
}

// A peer that has closed the connection itself has said the last word.
func TestNothingFollowsACloseFrame(t *testing.T) {
	var got bytes.Buffer
	l := newLane(&got, true)
	_, _ = l.Write(goingAway)
	l.word.Store(&serviceRestart)
	l.say()
	if !bytes.Equal(got.Bytes(), goingAway) {
		t.Errorf("passed on % x", got.Bytes())
	}
	select {
	case <-l.heard:
	default:
		t.Error("the Close frame was not noticed")
	}
}

// An app that hears first that the client leaves says goodbye with that status;
// the client still gets the word that is meant for it.
func TestTheWordComesBeforeTheAppsGoodbye(t *testing.T) {
	var got bytes.Buffer
	l := newLane(&got, true)
	hello := text("hello", false)
	_, _ = l.Write(hello)
	l.word.Store(&serviceRestart)
	_, _ = l.Write(slices.Concat(hello, goingAway))
	l.say()
	if want := slices.Concat(hello, serviceRestart); !bytes.Equal(got.Bytes(), want) {
		t.Errorf("passed on % x, want % x", got.Bytes(), want)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(text("hello", true), 3)
	f.Add(text(string(make([]byte, 70000)), false), 9)
	f.Add([]byte{0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5}, 1)
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		var whole, parts frames
		for rest := p; len(rest) > 0; {
			n := whole.next(rest)
			if n <= 0 || n > len(rest) {
				t.Fatalf("took %d of %d bytes", n, len(rest))
			}
			rest = rest[n:]
		}
		piece = max(1, piece%17)
		for chunk := range slices.Chunk(p, piece) {
			for len(chunk) > 0 {
				chunk = chunk[parts.next(chunk):]
			}
		}
		if whole.between() != parts.between() || whole.ended != parts.ended || whole.left != parts.left {
			t.Fatalf("in pieces of %d: %+v, whole: %+v", piece, parts, whole)
		}
	})
}

// talker is an app that echoes and keeps what it got last.
func talker(last chan<- []byte) http.HandlerFunc {
	return upgrader(func(w http.ResponseWriter, r *http.Request) {
		var got bytes.Buffer
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			got.Write(buf[:n])
			if err != nil {
				last <- got.Bytes()
				return
			}
			if bytes.Contains(buf[:n], clientLeaves) {
				_, _ = w.Write(goingAway) // its goodbye
				continue
			}
			_, _ = w.Write(buf[:n])
		}
	})
}

func exchangeBytes(t *testing.T, c net.Conn, br *bufio.Reader, s []byte) {
	t.Helper()
	if _, err := c.Write(s); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(s))
	if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, s) {
		t.Fatalf("got %q and %v, want %q", got, err, s)
	}
}

// A WebSocket goes on when its configuration does not. When its pool ends, both
// peers are told.
func TestUpgradesAreTheirPools(t *testing.T) {
	onBoth(t, func(t *testing.T, f *front) {
		last := make(chan []byte, 1)
		f.th.play(talker(last))
		c, br, _ := f.upgrade(t, upgradeRequest)
		exchangeBytes(t, c, br, text("before", true))
		if err := f.proxy.Cleanup(); err != nil {
			t.Error(err)
		}
		exchangeBytes(t, c, br, text("after", true))
		f.th.pool.Quiesce()
		got := make([]byte, 4)
		if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, goingAway) {
			t.Errorf("the client got % x and %v", got, err)
		}
		_, _ = c.Write(clientLeaves) // its goodbye
		if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
			t.Errorf("then the client got % x and %v", rest, err)
		}
		_ = c.Close()
		want := slices.Concat(text("before", true), text("after", true), clientLeaves)
		if got := <-last; !bytes.Equal(got, want) {
			t.Errorf("the app got % x, want % x", got, want)
		}
		f.await(t)
	})
}

// A peer that never lets its frame end gets nothing into it.
func TestNothingIsSaidWithinAFrame(t *testing.T) {
	onBoth(t, func(t *testing.T, f *front) {
		last := make(chan []byte, 1)
		f.th.play(talker(last))
		c, br, _ := f.upgrade(t, upgradeRequest)
		half := text("a message that is cut", true)[:12]
		exchangeBytes(t, c, br, half)
		f.th.pool.Quiesce()
		if rest, _ := io.ReadAll(br); len(rest) > 0 {
			t.Errorf("then the client got % x", rest)
		}
		if got := <-last; !bytes.Equal(got, half) {
			t.Errorf("the app got % x, want % x", got, half)
		}
		f.await(t)
	})
}

// Who asks for it gets WebSockets that end some time after their configuration.
func TestStreamCloseDelayAndTimeout(t *testing.T) {
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	for name, conf := range map[string]*reverseproxy.Handler{
		"delay":   {StreamCloseDelay: caddy.Duration(50 * time.Millisecond)},
		"timeout": {StreamTimeout: caddy.Duration(50 * time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := newProxy(ctx, conf, nopLog)
			if err != nil {
				t.Fatal(err)
			}
			f := newFront(t, p)
			f.Start()
			last := make(chan []byte, 1)
			f.th.play(talker(last))
			_, br, _ := f.upgrade(t, upgradeRequest)
			if conf.StreamCloseDelay > 0 {
				_ = p.Cleanup()
			}
			if got, err := io.ReadAll(br); err != nil || !bytes.Equal(got, goingAway) {
				t.Errorf("the client got % x and %v", got, err)
			}
			f.await(t)
		})
	}
}

// Peers that do not read hold up the end of their pool for a moment only.
func TestPeersThatDoNotReadAreCut(t *testing.T) {
	onBoth(t, func(t *testing.T, f *front) {
		stuck := make(chan struct{})
		f.th.play(upgrader(func(w http.ResponseWriter, r *http.Request) {
			close(stuck)
			chunk := make([]byte, 1<<20)
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}))
		f.upgrade(t, upgradeRequest)
		<-stuck
		f.th.pool.Quiesce()
		f.await(t)
	})
}
