package tests

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The ledger is an app that writes down every request that reaches it, so that
// a test can tell what was executed, how often, and whether what came back is
// whole. It is this test binary, started again with ledgerVar set to the file
// to write to.
const ledgerVar = "LAMBDA_DISPATCH_TEST_LEDGER"

// ledgerApp is the app of an environment whose requests are in the file.
func ledgerApp(t *testing.T, file string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"command " + self, "env " + ledgerVar + " " + file}
}

// runLedger is the app. A request /work?id=ID&size=BYTES&delay=MS&chunked=1 is
// written down as it arrives and answered after the delay with the bytes that
// belong to its ID, the first half at once and the rest after the delay again.
func runLedger(file string) error {
	ledger, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/work", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		size, _ := strconv.Atoi(q.Get("size"))
		delay, _ := strconv.Atoi(q.Get("delay"))
		pause := time.Duration(delay) * time.Millisecond
		id := q.Get("id")
		if _, err := fmt.Fprintln(ledger, id); err != nil { // one write, which appends in one piece
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		time.Sleep(pause)
		body := workOf(id, size)
		if q.Get("chunked") == "" {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		time.Sleep(pause)
		_, _ = w.Write(body[len(body)/2:])
	})
	ln, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	return http.Serve(ln, mux)
}

// workOf returns what belongs to the ID.
func workOf(id string, size int) []byte {
	return bytes.Repeat([]byte(id+","), size/(len(id)+1)+1)[:size]
}

// readLedger returns how often each ID was executed.
func readLedger(t *testing.T, file string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for line := range strings.Lines(string(b)) {
		seen[strings.TrimSpace(line)]++
	}
	return seen
}

// processes returns the running processes below pid whose program is the file.
func processes(t *testing.T, pid int, program string) (found []int) {
	t.Helper()
	for _, p := range descendants(t, pid) {
		if exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p), "exe")); err == nil && exe == program {
			found = append(found, p)
		}
	}
	return found
}
