package tests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// protocols are what clients speak with Caddy.
var protocols = []string{"h1", "h1+tls", "h2", "h2c", "h3"}

// callTimeout is how long a response may take. None takes more than a moment.
const callTimeout = 30 * time.Second

// call is a request to be sent in any protocol.
type call struct {
	method, target string   // default: GET /
	fields         []string // "Name: value"; a Content-Length decides the framing
	body           string
	trailer        []string // "Name: value"
	announce       bool     // the trailer's names are sent first, in Trailer

	// raw is the whole request in HTTP/1.1 but for the lines that the tests
	// need, instead of the above. Lines end with \n.
	raw string

	source string // the client's address, "" for any
	server string // the server's address if it is not the protocol's usual one
}

func (c call) values(name string) (vv []string) {
	for _, f := range c.fields {
		if k, v, _ := strings.Cut(f, ": "); strings.EqualFold(k, name) {
			vv = append(vv, v)
		}
	}
	return vv
}

// send sends the call by the route and waits for the end of the response.
func (f *fidelity) send(t *testing.T, protocol, route, id string, c call) exchanged {
	t.Helper()
	if c.method == "" {
		c.method = http.MethodGet
	}
	if c.target == "" {
		c.target = "/"
	}
	own := []string{routeHeader + ": " + route, caseHeader + ": " + id}
	if c.announce {
		names := make([]string, 0, len(c.trailer))
		for _, line := range c.trailer {
			names = append(names, fieldName(line))
		}
		own = append(own, "Trailer: "+strings.Join(names, ", "))
	}
	c.fields = slices.Concat(own, c.fields)
	var x exchanged
	switch protocol {
	case "h1":
		x = f.sendHTTP1(f.dial(t, orElse(c.server, f.plain), c.source, ""), own, c)
	case "h1+tls":
		x = f.sendHTTP1(f.dial(t, f.secure, c.source, "http/1.1"), own, c)
	case "h2":
		x = f.sendHTTP2(f.dial(t, f.secure, c.source, "h2"), "https", c)
	case "h2c":
		x = f.sendHTTP2(f.dial(t, orElse(c.server, f.plain), c.source, ""), "http", c)
	case "h3":
		x = f.sendHTTP3(t, c)
	default:
		t.Fatalf("no protocol %q", protocol)
	}
	if seen := f.app.saw(id); len(seen) > 0 {
		x.request = &seen[len(seen)-1]
	}
	return x
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// dial connects to one of Caddy's servers, with TLS if a protocol is given.
func (f *fidelity) dial(t *testing.T, addr, source, protocol string) net.Conn {
	t.Helper()
	var d net.Dialer
	if source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(callTimeout))
	if protocol == "" {
		return c
	}
	tc := tls.Client(c, &tls.Config{ServerName: testHost, RootCAs: f.certificates, NextProtos: []string{protocol}})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	return tc
}

func (f *fidelity) sendHTTP1(conn net.Conn, own []string, c call) exchanged {
	defer conn.Close()
	sent := make(chan struct{})
	go func() { // the server may answer before it has read everything
		defer close(sent)
		_, _ = io.WriteString(conn, c.http1(own))
	}()
	defer func() { conn.Close(); <-sent }()
	return readHTTP1(bufio.NewReader(conn), c.isHead())
}

func (c call) isHead() bool {
	return c.method == http.MethodHead || strings.HasPrefix(c.raw, "HEAD ")
}

// http1 is the request as bytes.
func (c call) http1(own []string) string {
	if c.raw != "" {
		start, rest, _ := strings.Cut(c.raw, "\n")
		return strings.ReplaceAll(start+"\n"+strings.Join(own, "\n")+"\n"+rest, "\n", "\r\n")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", c.method, c.target, testHost)
	for _, line := range c.fields {
		b.WriteString(line + "\r\n")
	}
	switch {
	case len(c.values("Content-Length")) > 0:
		b.WriteString("\r\n" + c.body)
	case c.body != "" || len(c.trailer) > 0:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		if c.body != "" {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(c.body), c.body)
		}
		b.WriteString("0\r\n")
		for _, line := range c.trailer {
			b.WriteString(line + "\r\n")
		}
		b.WriteString("\r\n")
	default:
		b.WriteString("\r\n")
	}
	return b.String()
}

func readHTTP1(r *bufio.Reader, head bool) (x exchanged) {
	for {
		start, fields, err := readHead(r)
		if err != nil {
			x.err = err
			return x
		}
		version, status, _ := strings.Cut(start, " ")
		if version != "HTTP/1.1" && version != "HTTP/1.0" {
			x.err = fmt.Errorf("status line %q", start)
			return x
		}
		code, _, _ := strings.Cut(status, " ")
		if strings.HasPrefix(code, "1") && code != "101" {
			x.infos = append(x.infos, info(code, fields))
			continue
		}
		x.reply = message{Start: code, Fields: group(fields)}
		if head || code == "204" || code == "304" {
			return x
		}
		x.reply.Body, x.reply.Trailer, err = readBody(r, fields, true)
		x.reply.Cut = err != nil
		return x
	}
}

func info(code string, fields []string) string {
	return code + " " + strings.Join(group(fields), ", ")
}

// sendHTTP2 speaks HTTP/2 frame by frame.
func (f *fidelity) sendHTTP2(conn net.Conn, scheme string, c call) (x exchanged) {
	defer conn.Close()
	h := newH2(conn)
	if err := h.request(scheme, c); err != nil {
		x.err = err // the server may have said why
	}
	if got, err := h.response(); err == nil || x.err == nil {
		got.err = err
		x = got
	}
	return x
}

// h2Conn is a connection with one stream.
type h2Conn struct {
	fr  *http2.Framer
	out *bufio.Writer
	enc *hpack.Encoder
	buf bytes.Buffer
}

func newH2(conn net.Conn) *h2Conn {
	h := &h2Conn{out: bufio.NewWriter(conn)}
	h.fr = http2.NewFramer(h.out, bufio.NewReader(conn))
	h.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.fr.MaxHeaderListSize = 4 * largeHeads
	h.enc = hpack.NewEncoder(&h.buf)
	return h
}

func (h *h2Conn) headers(lines []string, pseudo [][2]string, end bool) error {
	h.buf.Reset()
	for _, p := range pseudo {
		_ = h.enc.WriteField(hpack.HeaderField{Name: p[0], Value: p[1]})
	}
	for _, line := range lines {
		k, v, _ := strings.Cut(line, ": ")
		_ = h.enc.WriteField(hpack.HeaderField{Name: strings.ToLower(k), Value: v})
	}
	const most = 16 << 10
	block := h.buf.Bytes()
	first := block[:min(len(block), most)]
	block = block[len(first):]
	err := h.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: end, EndHeaders: len(block) == 0})
	for len(block) > 0 && err == nil {
		part := block[:min(len(block), most)]
		block = block[len(part):]
		err = h.fr.WriteContinuation(1, len(block) == 0, part)
	}
	return err
}

func (h *h2Conn) request(scheme string, c call) error {
	_, _ = h.out.WriteString(http2.ClientPreface)
	_ = h.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	_ = h.fr.WriteWindowUpdate(0, 1<<30)
	pseudo := [][2]string{{":method", c.method}, {":scheme", scheme}, {":authority", testHost}, {":path", c.target}}
	if err := h.headers(c.fields, pseudo, c.body == "" && len(c.trailer) == 0); err != nil {
		return err
	}
	if c.body != "" {
		if err := h.fr.WriteData(1, len(c.trailer) == 0, []byte(c.body)); err != nil {
			return err
		}
	}
	if len(c.trailer) > 0 {
		if err := h.headers(c.trailer, nil, true); err != nil {
			return err
		}
	}
	return h.out.Flush()
}

func (h *h2Conn) response() (x exchanged, err error) {
	for {
		frame, err := h.fr.ReadFrame()
		if err != nil {
			if x.reply.Start == "" {
				return x, err
			}
			x.reply.Cut = true
			return x, nil
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = h.fr.WriteSettingsAck()
				_ = h.out.Flush()
			}
		case *http2.PingFrame:
			_ = h.fr.WritePing(true, frame.Data)
			_ = h.out.Flush()
		case *http2.GoAwayFrame:
			if frame.LastStreamID == 0 {
				return x, fmt.Errorf("GOAWAY %v %q", frame.ErrCode, frame.DebugData())
			}
		case *http2.RSTStreamFrame:
			if x.reply.Start == "" {
				return x, fmt.Errorf("RST_STREAM %v", frame.ErrCode)
			}
			x.reply.Cut = true
			return x, nil
		case *http2.DataFrame:
			x.reply.Body += string(frame.Data())
			if frame.StreamEnded() {
				return x, nil
			}
		case *http2.MetaHeadersFrame:
			var lines []string
			for _, hf := range frame.RegularFields() {
				lines = append(lines, hf.Name+": "+hf.Value)
			}
			switch code := frame.PseudoValue("status"); {
			case x.reply.Start != "":
				x.reply.Trailer = group(lines)
			case strings.HasPrefix(code, "1"):
				x.infos = append(x.infos, info(code, lines))
			default:
				x.reply.Start, x.reply.Fields = code, group(lines)
			}
			if frame.StreamEnded() {
				return x, nil
			}
		}
	}
}

// sendHTTP3 sends the call with quic-go's client.
func (f *fidelity) sendHTTP3(t *testing.T, c call) (x exchanged) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	cc := f.http3(t)
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		x.infos = append(x.infos, info(strconv.Itoa(code), linesOf(http.Header(h))))
		return nil
	}}
	resp, err := cc.RoundTrip(c.http3(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		x.err = err
		return x
	}
	defer resp.Body.Close()
	x.reply = message{Start: strconv.Itoa(resp.StatusCode), Fields: group(linesOf(resp.Header))}
	body, err := io.ReadAll(resp.Body)
	x.reply.Body, x.reply.Cut = string(body), err != nil
	x.reply.Trailer = group(linesOf(resp.Trailer))
	return x
}

// http3 returns the connection that all HTTP/3 requests share.
func (f *fidelity) http3(t *testing.T) *http3.ClientConn {
	t.Helper()
	f.quicOnce.Do(func() {
		conn, err := quic.DialAddr(context.Background(), f.secure, &tls.Config{
			ServerName: testHost, RootCAs: f.certificates, NextProtos: []string{http3.NextProtoH3},
		}, &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		transport := &http3.Transport{DisableCompression: true, MaxResponseHeaderBytes: largeHeads}
		f.quic = transport.NewClientConn(conn)
		f.t.Cleanup(func() {
			_ = f.quic.CloseWithError(0, "")
			_ = transport.Close()
		})
	})
	return f.quic
}

func (c call) http3(ctx context.Context) *http.Request {
	req := (&http.Request{
		Method: c.method, Host: testHost, ProtoMajor: 3, Header: make(http.Header),
		URL: &url.URL{Scheme: "https", Host: testHost, Opaque: "//" + testHost + c.target},
	}).WithContext(ctx)
	if c.target == "*" {
		req.URL.Opaque, req.URL.Path = "", "*"
	}
	for _, line := range c.fields {
		k, v, _ := strings.Cut(line, ": ")
		req.Header.Add(k, v)
	}
	if len(c.values("User-Agent")) == 0 {
		req.Header["User-Agent"] = []string{""} // or there would be quic-go's
	}
	req.Header.Del("Trailer")
	if c.body != "" || len(c.trailer) > 0 {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(c.body)), -1
	}
	if n := c.values("Content-Length"); len(n) > 0 {
		req.ContentLength, _ = strconv.ParseInt(n[0], 10, 64)
		req.Header.Del("Content-Length")
	}
	for _, line := range c.trailer {
		k, v, _ := strings.Cut(line, ": ")
		if req.Trailer == nil {
			req.Trailer = make(http.Header)
		}
		req.Trailer.Add(k, v)
	}
	return req
}

func linesOf(h http.Header) (lines []string) {
	for k, vv := range h {
		for _, v := range vv {
			lines = append(lines, k+": "+v)
		}
	}
	return lines
}
