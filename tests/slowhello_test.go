package tests

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Ten thousand connections from strangers that are slow to say hello, in four
// ways: running requests do not notice, an environment can call back meanwhile,
// the router's memory stays within 100 MB of what it was, and when the time for
// a hello is over they are all gone.
func TestTenThousandSlowHellos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a hello may take")
	}
	const crowd = 10_000
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Max < crowd+2000 {
		t.Skipf("NOT TESTED: only %d files can be open, %v", files.Max, err)
	}
	r := startCaddy(t, anotherPool("auto")+dispatch("callback {\n listen 127.0.0.1:0\n}", local("command "+demoBin)))
	checkAll(t, r.burst(20, "/ping"))
	address, _ := r.logs.lines("callback listener bound")[0]["address"].(string)
	before := r.timed("/ping", 500)

	clientHello := recordClientHello(t)
	idle := rss(t, r.cmd.Process.Pid)
	highest := peak(t, r.cmd.Process.Pid)
	during := r.latencies("/ping")
	begin := time.Now()
	gone := make(chan struct{}, crowd)
	var open atomic.Int64
	var wg sync.WaitGroup
	const diallers = 50
	for d := range diallers {
		wg.Go(func() {
			for i := range crowd / diallers {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					gone <- struct{}{}
					continue
				}
				open.Add(1)
				go func() {
					defer func() { _ = c.Close(); open.Add(-1); gone <- struct{}{} }()
					_ = c.SetDeadline(time.Now().Add(patience))
					slowHello(c, (d+i)%4, clientHello)
				}()
			}
		})
	}
	wg.Wait()
	connected := time.Since(begin)
	cold := time.Now()
	status, _ := r.get("/other/ping")
	coldStart := time.Since(cold)
	if status != 200 || coldStart > 5*time.Second {
		t.Errorf("a cold start in the crowd: status %d after %v, with %d strangers", status, coldStart, open.Load())
	}
	for range crowd {
		take(t, "the strangers to be gone", gone)
	}
	allGone := time.Since(begin)
	after := during()
	most := highest()
	t.Logf("%d connected in %v, all gone after %v; cold start %v; latency p50 %v p99 %v max %v, before p50 %v p99 %v max %v; memory %d MB, before %d MB; rejected %v",
		crowd, connected.Round(time.Millisecond), allGone.Round(time.Millisecond), coldStart.Round(time.Millisecond),
		quantile(after, 0.5), quantile(after, 0.99), quantile(after, 1), quantile(before, 0.5), quantile(before, 0.99), quantile(before, 1),
		most>>20, idle>>20, r.rejected())
	if most-idle > 100<<20 && !raceEnabled {
		t.Errorf("memory rose by %d MB", (most-idle)>>20)
	}
	if allGone > connected+10*time.Second {
		t.Errorf("the last was gone after %v", allGone)
	}
	if p99, calm := quantile(after, 0.99), quantile(before, 0.99); p99 > max(10*calm, 500*time.Millisecond) {
		t.Errorf("p99 is %v in the crowd, %v without", p99, calm)
	}
	if lines := strings.Count(r.logs.String(), `"level":"warn"`) + strings.Count(r.logs.String(), `"level":"error"`); lines > 10 {
		t.Errorf("strangers wrote %d warnings into the log", lines)
	}
}

// anotherPool is a directive for a pool below /other that shares the callback
// listener.
func anotherPool(tls string) string {
	return `route /other* {
	uri strip_prefix /other
	lambda_dispatch other {
		callback {
			listen 127.0.0.1:0
			tls ` + tls + `
		}
		` + local("command "+demoBin) + `
	}
}
`
}

// slowHello is one way to begin a hello and not to end it. It returns when the
// router has hung up.
func slowHello(c net.Conn, way int, clientHello []byte) {
	switch way {
	case 1: // drop by drop
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range clientHello {
			if _, err := c.Write(clientHello[i : i+1]); err != nil {
				return
			}
			<-tick.C
		}
	case 2: // half a handshake
		_, _ = c.Write(clientHello)
	case 3: // TLS and then nothing
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"rh2"}})
		if t.Handshake() != nil {
			return
		}
	}
	_, _ = io.Copy(io.Discard, c)
}

// recordClientHello returns the first thing that a TLS client says.
func recordClientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"rh2"}}).Handshake()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(far, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}
