package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestBadHellos(t *testing.T) {
	good := func(a *rawAdapter) adapterHello { return a.hello(a.routerNonce()) }
	for name, tt := range map[string]struct {
		attack func(a *rawAdapter)
		want   Reject
	}{
		"hang up":     {func(a *rawAdapter) { _ = a.conn.Close() }, RejectProtocol},
		"garbage":     {func(a *rawAdapter) { _, _ = io.CopyN(a.conn, rand.Reader, 64<<10) }, RejectProtocol},
		"HTTP/1.1":    {func(a *rawAdapter) { _, _ = io.WriteString(a.conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }, RejectProtocol},
		"status":      {func(a *rawAdapter) { good(a); a.headers(1, true, ":status", "404") }, RejectProtocol},
		"empty":       {func(a *rawAdapter) { good(a); a.headers(1, true, ":status", "200") }, RejectProtocol},
		"reset":       {func(a *rawAdapter) { good(a); _ = a.fr.WriteRSTStream(1, http2.ErrCodeCancel) }, RejectProtocol},
		"goaway":      {func(a *rawAdapter) { good(a); _ = a.fr.WriteGoAway(0, http2.ErrCodeNo, nil) }, RejectProtocol},
		"not JSON":    {func(a *rawAdapter) { a.body(1, "hello\n") }, RejectProtocol},
		"no end":      {func(a *rawAdapter) { a.body(1, "{") }, RejectTimeout},
		"endless":     {func(a *rawAdapter) { a.body(1, strings.Repeat("x", 16<<10)) }, RejectProtocol},
		"no MAC":      {func(a *rawAdapter) { h := good(a); h.MAC = nil; a.answer(h) }, RejectProtocol},
		"wrong MAC":   {func(a *rawAdapter) { h := good(a); h.MAC[31] ^= 1; a.answer(h) }, RejectMAC},
		"zero MAC":    {func(a *rawAdapter) { h := good(a); clear(h.MAC); a.answer(h) }, RejectMAC},
		"short nonce": {func(a *rawAdapter) { h := good(a); h.Nonce = h.Nonce[1:]; a.answer(h) }, RejectProtocol},
		"version":     {func(a *rawAdapter) { h := good(a); h.Version = 2; a.answer(h) }, RejectProtocol},
		"router's own MAC": {func(a *rawAdapter) {
			n := a.routerNonce()
			h := a.hello(n)
			h.MAC = helloMAC(testSecret, roleRouter, testID, n, h.Nonce, nil)
			a.answer(h)
		}, RejectMAC},
		"headers only": {func(a *rawAdapter) { good(a); a.headers(1, false, ":status", "200") }, RejectTimeout},
		"huge header": {func(a *rawAdapter) {
			good(a)
			for range 200 { // each is 16 KB of header without end
				a.headersOpen(1, strings.Repeat("x", 12<<10))
			}
		}, RejectProtocol},
		"early hints": {func(a *rawAdapter) {
			good(a)
			for range 1000 {
				a.headers(1, false, ":status", "103", "x", strings.Repeat("x", 4000))
			}
		}, RejectProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := patient
			if tt.want == RejectTimeout {
				timeout = 300 * time.Millisecond
			}
			l := listen(t, ListenerConfig{HelloTimeout: timeout})
			l.Expect(testID, testSecret, func(Tunnel) { t.Error("accepted") })
			a := dialRaw(t, l)
			a.t = lenient{t} // the router hangs up in the middle of it
			func() {
				defer func() { _ = recover() }()
				tt.attack(a)
			}()
			if rej := l.rejection(t); rej.Reject != tt.want {
				t.Errorf("rejected with %v, want %s", rej, tt.want)
			}
		})
	}
}

func TestReplay(t *testing.T) {
	first, second := listen(t, ListenerConfig{}), listen(t, ListenerConfig{})
	tunnels := first.expect(testID, testSecret)
	second.Expect(testID, testSecret, func(Tunnel) { t.Error("accepted a replay") })

	a := dialRaw(t, first)
	recorded := a.hello(a.routerNonce())
	b := dialRaw(t, second)
	b.routerNonce()
	b.answer(recorded) // right secret, other nonce
	if rej := second.rejection(t); rej.Reject != RejectMAC {
		t.Errorf("rejected with %v", rej)
	}
	a.answer(recorded)
	a.line(3)
	c := dialRaw(t, first)
	c.routerNonce()
	c.answer(recorded) // the instance has been claimed, tunnel or not
	if rej := first.rejection(t); rej.Reject != RejectInstance {
		t.Errorf("rejected with %v", rej)
	}
	_ = a.conn.Close()
	first.rejection(t)
	if len(tunnels) != 0 {
		t.Error("accepted without ready")
	}
}

// After the hello, an adapter that breaks the rules loses its own tunnel.
func TestHostileAdapter(t *testing.T) {
	for name, tt := range map[string]struct {
		attack func(a *rawAdapter)
		want   error
	}{
		"control: garbage": {func(a *rawAdapter) { _ = a.fr.WriteData(3, false, []byte("x\n")) }, ErrProtocol},
		"control: no end":  {func(a *rawAdapter) { _ = a.fr.WriteData(3, false, bytes.Repeat([]byte("x"), 16<<10)) }, ErrProtocol},
		"control: ended":   {func(a *rawAdapter) { _ = a.fr.WriteData(3, true, nil) }, ErrPeerClosed},
		"control: reset":   {func(a *rawAdapter) { _ = a.fr.WriteRSTStream(3, http2.ErrCodeCancel) }, ErrProtocol},
		"control: flood":   {func(a *rawAdapter) { a.flood(encodeLine(control{Type: "news"})) }, ErrProtocol},
		"frame too large":  {func(a *rawAdapter) { _ = a.fr.WriteRawFrame(http2.FrameData, 0, 3, make([]byte, FrameSize+1)) }, ErrProtocol},
		"data on stream 0": {func(a *rawAdapter) { _ = a.fr.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }, ErrProtocol},
		"unasked data":     {func(a *rawAdapter) { _ = a.fr.WriteRawFrame(http2.FrameData, 0, 99, []byte("x")) }, ErrProtocol},
		"push": {func(a *rawAdapter) {
			_ = a.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 3, PromiseID: 2, EndHeaders: true})
		}, ErrProtocol},
		"bad HPACK": {func(a *rawAdapter) {
			_ = a.fr.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, []byte{0xff, 0xff, 0xff, 0xff, 0xff})
		}, ErrProtocol},
		"window overflow":   {func(a *rawAdapter) { _ = a.fr.WriteWindowUpdate(0, 1<<31-1); _ = a.fr.WriteWindowUpdate(0, 1<<31-1) }, ErrProtocol},
		"bad settings":      {func(a *rawAdapter) { _ = a.fr.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{0, 5, 0, 0, 0, 1}) }, ErrProtocol},
		"gone":              {func(a *rawAdapter) { _ = a.conn.Close() }, ErrPeerClosed},
		"gone with a reset": {func(a *rawAdapter) { _ = a.conn.(*net.TCPConn).SetLinger(0); _ = a.conn.Close() }, ErrPeerClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, ListenerConfig{})
			tunnels := l.expect(testID, testSecret)
			a := dialRaw(t, l)
			a.open()
			tunnel := receive(t, tunnels)
			a.t = lenient{t}
			func() {
				defer func() { _ = recover() }()
				tt.attack(a)
			}()
			if name != "gone" {
				go func() { _, _ = io.Copy(io.Discard, a.conn) }()
			}
			wait(t, tunnel.Done())
			if err := tunnel.Err(); !errors.Is(err, tt.want) {
				t.Errorf("ended with %v, want %v", err, tt.want)
			}
		})
	}
}

// What a hostile adapter answers to a request harms that request only.
func TestHostileAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		answer    func(a *rawAdapter)
		processed bool
		usable    bool // the tunnel takes requests after it
	}{
		"refused":          {func(a *rawAdapter) { _ = a.fr.WriteRSTStream(5, http2.ErrCodeRefusedStream) }, false, true},
		"reset":            {func(a *rawAdapter) { _ = a.fr.WriteRSTStream(5, http2.ErrCodeInternal) }, true, true},
		"protocol error":   {func(a *rawAdapter) { _ = a.fr.WriteRSTStream(5, http2.ErrCodeProtocol) }, true, false},
		"goaway before it": {func(a *rawAdapter) { _ = a.fr.WriteGoAway(3, http2.ErrCodeNo, nil) }, false, false},
		"unasked upgrade":  {func(a *rawAdapter) { a.headers(5, false, ":status", "200", "lambda-dispatch-upgrade", "x") }, true, true},
		"odd status":       {func(a *rawAdapter) { a.headers(5, false, ":status", "200", "lambda-dispatch-status", "99999") }, true, true},
		"bad field":        {func(a *rawAdapter) { a.headers(5, true, ":status", "200", "a b", "x") }, true, true},
		"no status":        {func(a *rawAdapter) { a.headers(5, true, "x", "x") }, true, true},
		"real 101":         {func(a *rawAdapter) { a.headers(5, false, ":status", "101"); a.headers(5, true, ":status", "x") }, true, true},
		"large header":     {func(a *rawAdapter) { a.largeHeader(5) }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, ListenerConfig{MaxHeaderBytes: 8 << 10})
			tunnels := l.expect(testID, testSecret)
			a := dialRaw(t, l)
			a.open()
			tunnel := receive(t, tunnels)
			defer wait(t, tunnel.Done())
			defer func() { _ = tunnel.Close() }()
			errs := make(chan error, 1)
			go func() {
				_, err := tunnel.RoundTrip(request(t, "POST", "/"))
				errs <- err
			}()
			a.awaitRequest(5)
			tt.answer(a)
			err := receive(t, errs)
			if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed != tt.processed {
				t.Fatalf("got %v, processed is %v", err, ok && rt.Processed)
			}
			if name == "large header" && !errors.Is(err, ErrHeadersTooLarge) {
				t.Errorf("got %v", err)
			}

			go func() {
				resp, err := tunnel.RoundTrip(request(t, "POST", "/next"))
				if err == nil {
					_ = resp.Body.Close()
				}
				errs <- err
			}()
			if !tt.usable {
				err := receive(t, errs)
				if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed {
					t.Errorf("next request: %v", err)
				}
				wait(t, tunnel.Draining()) // nobody is given a slot here any more
				return
			}
			a.awaitRequest(7)
			a.headers(7, true, ":status", "204")
			if err := receive(t, errs); err != nil {
				t.Errorf("next request: %v", err)
			}
		})
	}
}

// A router that breaks the hello is refused, and nothing is served to it.
func TestHostileRouter(t *testing.T) {
	for name, tt := range map[string]struct {
		send []string // the bodies of the streams, one after the other
		path string
	}{
		"not a hello":    {[]string{"hello\n"}, "/"},
		"no nonce":       {[]string{`{"lambda_dispatch":1}` + "\n"}, "/"},
		"version":        {[]string{`{"lambda_dispatch":9,"nonce":""}` + "\n"}, "/"},
		"oversize line":  {[]string{strings.Repeat("x", 2*maxLine) + "\n"}, "/"},
		"a request":      {[]string{""}, "/admin"},
		"no proof":       {[]string{"", "{}\n"}, "/"},
		"request second": {[]string{"", ""}, "/admin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ln.Close() }()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				engine, err := stockTransport(engineConfig{FrameSize: FrameSize})(nc)
				if err != nil {
					return
				}
				defer func() { _ = engine.Close() }()
				for i, body := range tt.send {
					if body == "" && i < len(tt.send)-1 {
						body = string(encodeLine(routerHello{1, newNonce(), 0}))
					}
					req, _ := helloRequest(context.Background(), tt.path, strings.NewReader(body), int64(len(body)))
					resp, err := engine.RoundTrip(req)
					if err != nil {
						return
					}
					b, err := io.ReadAll(resp.Body)
					if err == nil && i == len(tt.send)-1 {
						t.Errorf("got %q", b)
					}
					_ = resp.Body.Close()
				}
			}()
			dialRefused(t, DialConfig{
				Address: ln.Addr().String(), Instance: testID, Secret: testSecret, Ready: Ready{MaxConcurrent: 1},
				Handler:      http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("served") }),
				HelloTimeout: patient,
			})
			wait(t, ended)
		})
	}
}

// net/http's errors are told apart by their text; this holds the texts.
func TestStockErrors(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.NotFoundHandler())
	e := p.Tunnel.(*tunnel).engine
	_ = e.Close()
	_, err := e.RoundTrip(request(t, "GET", "/"))
	if err == nil || !e.NotSent(err) || !e.Unusable(err) {
		t.Errorf("after Close: %v", err)
	}
	if e.NotSent(io.ErrUnexpectedEOF) || e.Unusable(io.ErrUnexpectedEOF) {
		t.Error("a cut connection counts as not sent")
	}
}

// The hello and the control stream are read by people who debug.
func TestLinesAreJSON(t *testing.T) {
	l := listen(t, ListenerConfig{})
	l.expect(testID, testSecret)
	a := dialRaw(t, l)
	if line := a.line(1); !json.Valid(line) {
		t.Errorf("router said %q", line)
	}
	_ = a.conn.Close()
	l.rejection(t)
}
