//go:build linux

package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/demoapp"
)

func nothing() error { return nil }

func TestRunAgainstTheApp(t *testing.T) {
	srv := httptest.NewServer(demoapp.New(demoapp.Config{}))
	defer srv.Close()
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	// Larger than any socket's buffer, so that requests are sent in pieces.
	huge := echoWorkload("huge", "POST /echo (16 MB)", 16<<20)
	for _, w := range append([]workload{huge}, workloads...) {
		if _, err := w.verify(t.Context(), addr); err != nil { // the first image takes a while
			t.Fatal(err)
		}
		var begun, ended bool
		out, err := run(addr, w.request(addr), 2, 0, 200*time.Millisecond,
			func() error { begun = true; return nil }, func() error { ended = true; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if len(out.latencies) == 0 || out.failures > 0 || out.elapsed < 200*time.Millisecond || !begun || !ended {
			t.Errorf("%s: %d answers, %d failures (%v) in %v", w.name, len(out.latencies), out.failures, out.firstErr, out.elapsed)
		}
	}
}

func TestRunCountsWrongAnswers(t *testing.T) {
	var n atomic.Uint32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) % 4 {
		case 0:
			w.WriteHeader(http.StatusBadGateway)
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			_, _ = w.Write([]byte("pongs"))
		default:
			_, _ = w.Write([]byte("pong"))
		}
	}))
	defer srv.Close()
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	out, err := run(addr, workloads[0].request(addr), 1, 0, 100*time.Millisecond, nothing, nothing)
	if err != nil {
		t.Fatal(err)
	}
	if good := len(out.latencies); good == 0 || out.failures < 2*good || out.firstErr == nil {
		t.Errorf("%d answers, %d failures, first %v", good, out.failures, out.firstErr)
	}
}

func TestRunNeedsAServer(t *testing.T) {
	srv := httptest.NewServer(nil)
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	srv.Close()
	if _, err := run(addr, workloads[0].request(addr), 1, 0, time.Millisecond, nothing, nothing); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}
