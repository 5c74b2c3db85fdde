package tunnel

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the wire format has changed; got\n%s\nwant\n%s", got, want)
	}
}

func TestWireFormat(t *testing.T) {
	routerNonce := bytes.Repeat([]byte{1}, nonceBytes)
	adapterNonce := bytes.Repeat([]byte{2}, nonceBytes)
	ekm := bytes.Repeat([]byte{3}, 32)
	now := time.Unix(1_800_000_000, 0)
	ready := Ready{
		MaxConcurrent: 10, Deadline: now.Add(900 * time.Second),
		FunctionVersion: "$LATEST", Environment: "2026/11/23/[$LATEST]0123", Adapter: "1.0.0", Zone: "euc1-az2",
	}
	var b bytes.Buffer
	for _, line := range []struct {
		name string
		v    any
	}{
		{"router hello", routerHello{1, routerNonce, 1 << 20}},
		{"adapter hello", adapterHello{1, testID, adapterNonce, helloMAC(testSecret, roleAdapter, testID, routerNonce, adapterNonce, ekm)}},
		{"adapter hello, tls off", adapterHello{1, testID, adapterNonce, helloMAC(testSecret, roleAdapter, testID, routerNonce, adapterNonce, nil)}},
		{"router proof", routerProof{helloMAC(testSecret, roleRouter, testID, routerNonce, adapterNonce, ekm)}},
		{"ready", readyMessage(ready, now)},
		{"ready, deadline unknown", readyMessage(Ready{MaxConcurrent: 1}, now)},
		{"ready, deadline over", readyMessage(Ready{MaxConcurrent: 1, Deadline: now.Add(-time.Hour)}, now)},
		{"draining", control{Type: msgDraining, Reason: "deadline"}},
		{"stats", control{Type: msgStats, InFlight: 3, Requests: 17}},
		{"drain", control{Type: msgDrain, Reason: "scale_down"}},
		{"idle", control{Type: msgIdle}},
		{"ping", control{Type: msgPing}},
		{"pong", control{Type: msgPong}},
	} {
		b.WriteString(line.name + ": ")
		b.Write(encodeLine(line.v))
	}
	b.WriteString("chunks: ")
	var wire bytes.Buffer
	w := &chunkWriter{w: &wire, flush: func() error { return nil }}
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := w.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b.WriteString(hex.EncodeToString(wire.Bytes()) + "\n")
	golden(t, "wire.golden", b.Bytes())
}

// Each part of the input must matter, and no byte may move from one to another.
func TestMACInput(t *testing.T) {
	macs := make(map[string]string)
	for name, mac := range map[string][]byte{
		"base":          helloMAC([]byte("s"), roleAdapter, "id", []byte("r"), []byte("a"), []byte("e")),
		"secret":        helloMAC([]byte("S"), roleAdapter, "id", []byte("r"), []byte("a"), []byte("e")),
		"role":          helloMAC([]byte("s"), roleRouter, "id", []byte("r"), []byte("a"), []byte("e")),
		"instance":      helloMAC([]byte("s"), roleAdapter, "ID", []byte("r"), []byte("a"), []byte("e")),
		"router nonce":  helloMAC([]byte("s"), roleAdapter, "id", []byte("R"), []byte("a"), []byte("e")),
		"adapter nonce": helloMAC([]byte("s"), roleAdapter, "id", []byte("r"), []byte("A"), []byte("e")),
		"exporter":      helloMAC([]byte("s"), roleAdapter, "id", []byte("r"), []byte("a"), []byte("E")),
		"no exporter":   helloMAC([]byte("s"), roleAdapter, "id", []byte("r"), []byte("a"), nil),
		"moved":         helloMAC([]byte("s"), roleAdapter, "idr", nil, []byte("a"), []byte("e")),
		"moved on":      helloMAC([]byte("s"), roleAdapter, "id", []byte("ra"), nil, []byte("e")),
	} {
		if other, ok := macs[string(mac)]; ok {
			t.Errorf("%s and %s have the same code", name, other)
		}
		macs[string(mac)] = name
	}
}

func FuzzHello(f *testing.F) {
	f.Add(encodeLine(routerHello{1, newNonce(), 1 << 20}))
	f.Add(encodeLine(adapterHello{1, testID, newNonce(), newNonce()}))
	f.Add(encodeLine(routerProof{newNonce()}))
	f.Add([]byte("GET / HTTP/1.1"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if h, err := parseRouterHello(line); err == nil {
			if len(h.Nonce) != nonceBytes || h.MaxHeaderBytes < 0 {
				t.Errorf("accepted %+v", h)
			}
		}
		if h, err := parseAdapterHello(line); err == nil {
			if len(h.Nonce) != nonceBytes || len(h.MAC) != macBytes || h.Instance == "" || len(h.Instance) > maxID {
				t.Errorf("accepted %+v", h)
			}
			again, err := parseAdapterHello(trimLine(encodeLine(h)))
			if err != nil || again.Instance != strings.ToValidUTF8(h.Instance, "\ufffd") {
				t.Errorf("%+v does not survive: %+v, %v", h, again, err)
			}
		}
		if p, err := parseRouterProof(line); err == nil && len(p.MAC) != macBytes {
			t.Errorf("accepted %+v", p)
		}
	})
}

func FuzzControl(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(encodeLine(readyMessage(Ready{MaxConcurrent: 10, Deadline: now.Add(time.Minute), Adapter: "1"}, now)))
	f.Add(encodeLine(control{Type: msgStats, InFlight: 3, Requests: 17}))
	f.Add(encodeLine(control{Type: "news", Reason: "x"}))
	f.Add([]byte(`{"type":"ready","max_concurrent":1,"remaining_ms":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := newLineReader(bytes.NewReader(data))
		for {
			c, err := lines.control()
			if err != nil {
				return
			}
			r := c.ready(now)
			if c.Type == msgReady && r.MaxConcurrent < 1 {
				t.Errorf("ready for %d requests", r.MaxConcurrent)
			}
			if !r.Deadline.IsZero() && r.Deadline.Before(now) {
				t.Errorf("deadline %v is in the past", r.Deadline)
			}
			if n := len(encodeLine(c)); n > maxLine {
				t.Errorf("a line of %d bytes came out", n)
			}
		}
	})
}

// What an app may put into an error must be a header value, and come back.
func FuzzAdapterError(f *testing.F) {
	f.Add("app_failed", "EOF")
	f.Add("x", "a\r\nb\x00")
	f.Fuzz(func(t *testing.T, code, msg string) {
		v := (&AdapterError{Code: CodeAppFailed, Message: msg}).encode()
		if hasControl(v) || len(v) > maxErrorMessage+50 {
			t.Errorf("encoded to %q", v)
		}
		if e := parseAdapterError(v); e.Code != CodeAppFailed || strings.TrimSpace(e.Message) != e.Message {
			t.Errorf("%q became %+v", v, e)
		}
		_ = parseAdapterError(code).Error()
	})
}

func TestLineLimits(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for name, tt := range map[string]struct {
		in   string
		want error
	}{
		"fits":     {long[:maxLine-1] + "\n", nil},
		"too long": {long + "\n", errLineLong},
		"no end":   {long + long, errLineLong},
	} {
		line, err := newLineReader(strings.NewReader(tt.in)).next()
		if err != tt.want {
			t.Errorf("%s: got %d bytes, %v", name, len(line), err)
		}
	}
}

// Part of a zone would be another zone, and anything else is none.
func TestZonesAreWholeOrNothing(t *testing.T) {
	for said, want := range map[string]string{
		"use1-az1": "use1-az1", "usw2-lax1-az1": "usw2-lax1-az1",
		strings.Repeat("a", maxZone): strings.Repeat("a", maxZone), strings.Repeat("a", maxZone+1): "",
		"us east": "", "<b>": "", "USE1-AZ1": "",
	} {
		c, err := parseControl(trimLine(encodeLine(control{Type: msgReady, MaxConcurrent: 1, Zone: said})))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ready(time.Now()).Zone; got != want {
			t.Errorf("%q became %q, want %q", said, got, want)
		}
		if got := readyMessage(Ready{MaxConcurrent: 1, Zone: said}, time.Now()).Zone; got != want {
			t.Errorf("%q is sent as %q, want %q", said, got, want)
		}
	}
}
