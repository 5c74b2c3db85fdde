package tunnel

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawAdapter is an adapter made by hand, which can break any rule.
type rawAdapter struct {
	t    testing.TB
	id   string // default testID
	conn net.Conn
	fr   *http2.Framer
	enc  *hpack.Encoder
	buf  bytes.Buffer
}

func dialRaw(t testing.TB, l *testListener) *rawAdapter {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patient))
	a := &rawAdapter{t: t, id: testID, conn: c, fr: http2.NewFramer(c, c)}
	a.enc = hpack.NewEncoder(&a.buf)
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		t.Fatal(err)
	}
	a.check(a.fr.WriteSettings())
	return a
}

func (a *rawAdapter) check(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// line reads frames until a stream has sent a line.
func (a *rawAdapter) line(stream uint32) []byte {
	a.t.Helper()
	var line []byte
	for {
		f, err := a.fr.ReadFrame()
		a.check(err)
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			a.check(a.fr.WriteSettingsAck())
		}
		d, ok := f.(*http2.DataFrame)
		if !ok || d.StreamID != stream {
			continue
		}
		line = append(line, d.Data()...)
		if bytes.HasSuffix(line, []byte("\n")) {
			return line
		}
	}
}

func (a *rawAdapter) headers(stream uint32, end bool, fields ...string) {
	a.t.Helper()
	a.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		a.check(a.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	a.check(a.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: a.buf.Bytes(), EndHeaders: true, EndStream: end,
	}))
}

func (a *rawAdapter) hello(nonce []byte) adapterHello {
	own := newNonce()
	return adapterHello{1, a.id, own, helloMAC(testSecret, roleAdapter, a.id, nonce, own, nil)}
}

func (a *rawAdapter) routerNonce() []byte {
	a.t.Helper()
	h, err := parseRouterHello(trimLine(a.line(1)))
	a.check(err)
	return h.Nonce
}

func (a *rawAdapter) answer(h adapterHello) {
	a.t.Helper()
	a.headers(1, false, ":status", "200")
	a.check(a.fr.WriteData(1, true, encodeLine(h)))
}

// open goes through the whole hello; stream 3 is the control stream then and
// 5 the first request.
func (a *rawAdapter) open() {
	a.t.Helper()
	h := a.hello(a.routerNonce())
	a.answer(h)
	a.line(3)
	a.headers(3, false, ":status", "200")
	a.check(a.fr.WriteData(3, false, encodeLine(readyMessage(Ready{MaxConcurrent: 5}, time.Now()))))
}

// awaitRequest reads frames until the headers of a stream have come.
func (a *rawAdapter) awaitRequest(stream uint32) {
	a.t.Helper()
	for {
		f, err := a.fr.ReadFrame()
		a.check(err)
		if h, ok := f.(*http2.HeadersFrame); ok && h.StreamID == stream {
			return
		}
	}
}

// lenient makes failed writes end an attack and not the test.
type lenient struct{ testing.TB }

func (l lenient) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (a *rawAdapter) body(stream uint32, s string) {
	a.routerNonce()
	a.headers(stream, false, ":status", "200")
	a.check(a.fr.WriteData(stream, false, []byte(s)))
}

// headersOpen writes a part of a header section that goes on.
func (a *rawAdapter) headersOpen(stream uint32, value string) {
	first := a.buf.Len() == 0
	a.buf.Reset()
	a.check(a.enc.WriteField(hpack.HeaderField{Name: "x", Value: value, Sensitive: true}))
	if first {
		a.check(a.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: a.buf.Bytes()}))
		return
	}
	a.check(a.fr.WriteContinuation(stream, false, a.buf.Bytes()))
}

func (a *rawAdapter) flood(line []byte) {
	for range 10 * controlBurst {
		a.check(a.fr.WriteData(3, false, line))
	}
}

// largeHeader writes a header section that is over the limit but not so much
// that net/http would end the connection.
func (a *rawAdapter) largeHeader(stream uint32) {
	fields := []string{":status", "200"}
	for i := range 12 {
		fields = append(fields, fmt.Sprint("x-", i), strings.Repeat("x", 1000))
	}
	a.headers(stream, true, fields...)
}
