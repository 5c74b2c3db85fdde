package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// checker returns a readiness check of h, configured by the settings.
func checker(t *testing.T, h http.HandlerFunc, env ...string) *readiness {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return checkerOf(t, srv.Listener, env...)
}

func checkerOf(t *testing.T, ln net.Listener, env ...string) *readiness {
	t.Helper()
	c, _, err := ParseConfig(append(env, fmt.Sprintf("PORT=%d", ln.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	return newReadiness(&c, slog.New(slog.DiscardHandler))
}

func short(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestReadinessStatuses(t *testing.T) {
	for status, ready := range map[int]bool{200: true, 302: true, 404: true, 499: true, 500: false, 503: false} {
		r := checker(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/up" || r.URL.RawQuery != "x=1" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(status)
		}, "LAMBDA_DISPATCH_READINESS_PATH=/up?x=1")
		err := r.wait(short(t, 100*time.Millisecond))
		if (err == nil) != ready {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestReadinessSaysWhatWasWrong(t *testing.T) {
	r := checker(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	if err := r.wait(short(t, 50*time.Millisecond)); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("error %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // a test's end
	silent := checkerOf(t, ln)
	if err := silent.wait(short(t, 50*time.Millisecond)); err == nil || !strings.Contains(err.Error(), "no answer from 127.0.0.1") {
		t.Errorf("error %v", err)
	}
	if err := checkerOf(t, ln, "LAMBDA_DISPATCH_READINESS_PROTOCOL=tcp").wait(short(t, time.Second)); err != nil {
		t.Errorf("a port that accepts is ready with tcp: %v", err)
	}
}

// TestReadinessGivesUpHangingAttempts: the app loses the first request.
func TestReadinessGivesUpHangingAttempts(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	r := checker(t, func(_ http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			<-r.Context().Done()
		}
	})
	if err := r.wait(short(t, patience)); err != nil || n.Load() != 2 {
		t.Errorf("%v after %d attempts", err, n.Load())
	}
}

func TestReadinessIsQuickAtFirstAndThenPatient(t *testing.T) {
	var n atomic.Int32
	r := checker(t, func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	_ = r.wait(short(t, 500*time.Millisecond))
	if got := n.Load(); got < 5 || got > 40 {
		t.Errorf("%d attempts in 500 ms", got)
	}
}

func TestAppState(t *testing.T) {
	checks := 0
	result := make(chan error, 1)
	a := newApp(func(ctx context.Context) error {
		checks++
		select {
		case err := <-result:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	result <- nil
	down, err := a.waitReady(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := a.waitReady(t.Context()); err != nil || again != down || checks != 1 {
		t.Errorf("a ready app was checked again: %v, %d checks", err, checks)
	}
	cause := errors.New("gone")
	a.markDown(cause)
	receive(t, down, "down")
	if a.lastCause() != cause { //nolint:errorlint // the very error
		t.Errorf("cause %v", a.lastCause())
	}
	// Down while it is waited for.
	failed := make(chan error)
	go func() {
		_, err := a.waitReady(t.Context())
		failed <- err
	}()
	for {
		a.markDown(cause)
		select {
		case err := <-failed:
			if err != cause { //nolint:errorlint // the very error
				t.Errorf("error %v", err)
			}
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.waitReady(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
