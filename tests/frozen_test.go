package tests

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An adapter that is stopped with requests waiting for it is suspected within
// seconds, gets no more, and is given up; the requests are served by another.
func TestFrozenAdapter(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as an adapter may be silent")
	}
	r := startCaddy(t, dispatch("max_instances 2", local("command "+demoBin)))
	if status, _ := r.get("/ping"); status != 200 {
		t.Fatalf("status %d", status)
	}
	frozen := r.pool().Instances[0].ID
	for _, pid := range descendants(t, r.cmd.Process.Pid) {
		if exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe")); err == nil && strings.HasPrefix(exe, adapterBin) {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		}
	}
	begin := time.Now()
	first := make(chan []answer, 1)
	go func() { first <- r.burst(3, "/ping") }()
	r.await("the suspicion", func() bool { return len(r.logs.lines("instance does not answer")) == 1 })
	suspected := time.Since(begin)
	before := r.instance(frozen)
	later := r.burst(3, "/ping")
	checkAll(t, later)
	checkAll(t, take(t, "the first requests", first))
	served := time.Since(begin)
	if n := r.instance(frozen); n > before {
		t.Errorf("the frozen instance got %d requests after it was suspected", n-before)
	}
	t.Logf("suspected after %v, all served after %v", suspected.Round(time.Millisecond), served.Round(time.Millisecond))
	if served > 15*time.Second {
		t.Errorf("the requests took %v", served)
	}
}

// instance returns how many requests an instance has got, 0 if it is gone.
func (r *router) instance(id string) int {
	for _, in := range r.pool().Instances {
		if in.ID == id {
			return in.Requests
		}
	}
	return 0
}
