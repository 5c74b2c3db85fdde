//go:build linux

package main

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	st, err := parseStat([]byte("77 (a) b (c)) S 42 77 77 0 -1 4194560 900 0 0 0 150 25 0 0 20 0 9 0 100 1 2"))
	if err != nil || st.ppid != 42 || st.system != 250*time.Millisecond {
		t.Errorf("got %+v, %v", st, err)
	}
	for _, bad := range []string{"", "77 (a", "77 (a) S 42", "77 (a) S x 77 77 0 -1 4194560 900 0 0 0 150 25"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParseRSS(t *testing.T) {
	if n, err := parseRSS([]byte("Name:\ta\nVmHWM:\t  900 kB\nVmRSS:\t  512 kB\n")); err != nil || n != 512<<10 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := parseRSS([]byte("Name:\tzombie\n")); err == nil {
		t.Error("no error for a process without memory")
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy([]byte("cpu  100 1 50 9000 800 2 3 4 99 98\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))
	if want := 1600 * time.Millisecond; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := parseBusy([]byte("intr 1 2 3")); err == nil {
		t.Error("no error")
	}
}

func TestCPUTimeOfThisProcess(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; {
		runtime.Gosched()
	}
	after, err := cpuTime(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("%v, then %v: %v", before, after, err)
	}
	if n, err := rss(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("RSS %d: %v", n, err)
	}
	if d, err := busy(); err != nil || d <= 0 {
		t.Errorf("busy %v: %v", d, err)
	}
}

func TestTreeFindsChildren(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "sleep 60 & wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = out.Close()
		_ = cmd.Wait()
	}()
	for deadline := time.Now().Add(5 * time.Second); ; {
		found, err := tree(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		for pid, name := range found {
			if name == "sleep" {
				_ = (&os.Process{Pid: pid}).Kill()
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("found only %v", found)
		}
	}
}
