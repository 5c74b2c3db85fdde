package tests

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tally counts what became of the requests of one kind.
type tally struct {
	mu sync.Mutex // guards the following
	// whole: the right answer. cut: the response had begun and ended in an
	// error. failed: no response, or another status.
	whole, cut, failed int
	slowest            time.Duration
	firstFailure       string
	wrong              string // a response that looked complete and was not
}

func (c *tally) String() string {
	return fmt.Sprintf("%d whole, %d cut, %d failed, slowest %v", c.whole, c.cut, c.failed, c.slowest.Round(time.Millisecond))
}

// work sends one request to the ledger and counts what comes of it.
func (c *tally) work(client *http.Client, method, id string, chunked bool, size, delay int) {
	begin := time.Now()
	target := fmt.Sprintf("http://localhost/work?id=%s&size=%d&delay=%d", id, size, delay)
	if chunked {
		target += "&chunked=1"
	}
	var content io.Reader
	if method == http.MethodPost {
		content = strings.NewReader("something to do")
	}
	req, err := http.NewRequest(method, target, content)
	if err != nil {
		panic(err)
	}
	resp, err := client.Do(req)
	var body []byte
	var bodyErr error
	if err == nil {
		body, bodyErr = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slowest = max(c.slowest, time.Since(begin))
	switch {
	case err != nil || resp.StatusCode != http.StatusOK:
		c.failed++
		if c.firstFailure == "" {
			c.firstFailure = fmt.Sprintf("%s after %v: %v, %v, %q", target, time.Since(begin), resp, err, body)
		}
	case bodyErr != nil:
		c.cut++
	case !bytes.Equal(body, workOf(id, size)):
		c.wrong = fmt.Sprintf("%s (%v): %d bytes instead of %d", target, resp.Proto, len(body), size)
	default:
		c.whole++
	}
}

// h2cClient speaks HTTP/2 without TLS to a Unix socket.
func h2cClient(path string) *http.Client {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		Protocols: h2c,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}

// Whatever adapters and apps die of, a client gets its answer. Only a response
// that had begun is cut, and is seen to be cut. What is not idempotent is not
// executed twice.
func TestNothingIsLostWhenProcessesDie(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than 30 s")
	}
	const (
		rate    = 500 // requests a second
		lasting = 30 * time.Second
	)
	ledger := filepath.Join(shortTempDir(t), "ledger")
	app := append(ledgerApp(t, ledger), "timeout 40s", "env LAMBDA_DISPATCH_APP_HANG_TIMEOUT 2s", "max_environments 100")
	r := startCaddy(t, dispatch("min_instances 6", "max_instances 40", "queue_timeout 60s", local(app...)))
	r.await("the instances", func() bool { return r.pool().in("ready") >= 6 })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	clients := map[string]*http.Client{"HTTP/1.1": r.client, "HTTP/2": h2cClient(filepath.Join(r.dir, "site.sock"))}
	gets := map[string]*tally{"HTTP/1.1": {}, "HTTP/2": {}}
	posts := &tally{}
	ctx, cancel := context.WithTimeout(t.Context(), lasting)
	defer cancel()
	var running sync.WaitGroup

	harm := make(map[string]int)
	running.Go(func() {
		tick := time.NewTicker(400 * time.Millisecond)
		defer tick.Stop()
		blow := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			what, program := "adapter", adapterBin
			if blow.IntN(2) == 0 {
				what, program = "app", self
			}
			victims := processes(t, r.cmd.Process.Pid, program)
			if len(victims) == 0 {
				continue
			}
			signal := syscall.SIGKILL
			if blow.IntN(4) == 0 {
				signal = syscall.SIGSTOP
			}
			if syscall.Kill(victims[blow.IntN(len(victims))], signal) == nil {
				harm[what+" "+signal.String()]++
			}
		}
	})
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	sent := 0
	for ; ctx.Err() == nil; sent++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		id, chunked, size, delay := fmt.Sprintf("r%d", sent), random.IntN(2) == 0, random.IntN(64<<10), random.IntN(40)
		if sent%10 == 0 {
			running.Go(func() { posts.work(r.client, http.MethodPost, id, chunked, size, delay) })
			continue
		}
		proto := "HTTP/1.1"
		if random.IntN(2) == 0 {
			proto = "HTTP/2"
		}
		running.Go(func() { gets[proto].work(clients[proto], http.MethodGet, id, chunked, size, delay) })
	}
	running.Wait()

	t.Logf("%d requests, harm done: %v", sent, harm)
	executed := readLedger(t, ledger)
	for proto, c := range gets {
		t.Logf("GET over %s: %v", proto, c)
		if c.failed > 0 {
			t.Errorf("GETs over %s failed, the first %s", proto, c.firstFailure)
		}
	}
	t.Logf("POST: %v", posts)
	for _, c := range []*tally{gets["HTTP/1.1"], gets["HTTP/2"], posts} {
		if c.wrong != "" {
			t.Errorf("a response looks complete and is not: %s", c.wrong)
		}
		if c.whole == 0 {
			t.Error("no request was answered")
		}
	}
	for i := 0; i < sent; i += 10 {
		if n := executed[fmt.Sprintf("r%d", i)]; n > 1 {
			t.Errorf("POST r%d was executed %d times", i, n)
		}
	}
	checkAll(t, r.burst(10, "/health"))
	r.await("the slots to be free", func() bool { return r.pool().InFlight == 0 })
}
