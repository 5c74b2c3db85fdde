package locallambda

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func TestAppPortRange(t *testing.T) {
	for _, c := range []struct{ ephemeralLow, ephemeralHigh, low, high int }{
		{32768, 60999, 20000, 32767}, // Linux
		{49152, 65535, 20000, 49151}, // IANA
		{10000, 60000, 60001, 65535}, // as in many tuning guides
		{1024, 65535, 10000, 19999},
	} {
		if low, high := appPortRange(c.ephemeralLow, c.ephemeralHigh); low != c.low || high != c.high {
			t.Errorf("ephemeral %d to %d: app ports %d to %d, want %d to %d", c.ephemeralLow, c.ephemeralHigh, low, high, c.low, c.high)
		}
	}
}

func TestPorts(t *testing.T) {
	p := newPortSet(100, 103)
	p.free = func(port int) bool { return port != 102 }
	got := make([]int, 3)
	for i := range got {
		port, err := p.take(0)
		if err != nil {
			t.Fatal(err)
		}
		got[i] = port
	}
	slices.Sort(got)
	if fmt.Sprint(got) != "[100 101 103]" {
		t.Errorf("took %v", got)
	}
	if _, err := p.take(0); !errors.Is(err, errNoPort) {
		t.Error(err)
	}
	if port, err := p.take(101); err != nil || port != 104 {
		t.Errorf("from 101 upwards: %d, %v", port, err)
	}
	p.release(101)
	if port, err := p.take(101); err != nil || port != 101 {
		t.Errorf("from 101 upwards: %d, %v", port, err)
	}
	if _, err := p.take(maxPort + 1); !errors.Is(err, errNoPort) {
		t.Error(err)
	}
}

func TestCanListen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", ":0"} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		if canListen(port) {
			t.Errorf("port of %s passes for free", ln.Addr())
		}
		_ = ln.Close()
		if !canListen(port) {
			t.Errorf("port %d passes for taken", port)
		}
	}
}

func TestReadLines(t *testing.T) {
	var got []string
	long := strings.Repeat("x", maxLine+10)
	readLines(strings.NewReader("one\n\ntwo\r\n"+long+"\nlast"), func(b []byte) { got = append(got, string(b)) })
	want := []string{"one\n", "\n", "two\r\n", long[:maxLine] + "\n", "xxxxxxxxxx\n", "last\n"}
	if !slices.Equal(got, want) {
		t.Errorf("got %d lines", len(got))
	}
}

// A writer that takes nothing costs lines, and stops nobody.
func TestOutputNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe() // unbuffered
		o := newOutput()
		o.add([]byte("before there is a writer\n"))
		o.set(w)
		o.add([]byte("first\n"))
		synctest.Wait() // the writer is stuck with it now
		line := []byte(strings.Repeat("x", 1023) + "\n")
		const tooMany = maxPending/1024 + 5
		for range tooMany {
			o.add(line)
		}
		o.close()
		o.add([]byte("after the end\n"))
		go func() {
			<-o.drained
			_ = w.Close()
		}()
		all, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(all), "\n"), "\n")
		if len(lines) != 1+maxPending/1024+1 || lines[0] != "first" || lines[len(lines)-1] != "local Lambda: 5 lines of output were dropped" {
			t.Errorf("%d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-1])
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"app", "app:live", "arn:aws:lambda:eu-west-1:123456789012:function:app:$LATEST", "123456789012:function:app", "a/b", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := parseReference(s)
		if err != nil {
			return
		}
		for _, again := range []string{ref.key(), ref.arn()} {
			if got, err := parseReference(again); err != nil || got != ref {
				t.Errorf("%q became %+v and then %+v, %v", s, ref, got, err)
			}
		}
	})
}
