package adapter

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// metadata is Lambda's metadata endpoint.
func metadata(t *testing.T, answer http.HandlerFunc) (address string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodGet || r.URL.Path != "/2026-01-15/metadata/execution-environment" ||
			r.Header.Get("Authorization") != "Bearer t0ken" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.Listener.Addr().String(), asked
}

func inZone(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "private, max-age=43200, immutable")
	_, _ = w.Write([]byte(`{"AvailabilityZoneID":"euc1-az3"}`))
}

// The router learns the zone of every instance; Lambda is asked once.
func TestTheZoneIsTold(t *testing.T) {
	w := newWorld(t)
	w.serveApp(http.NotFoundHandler())
	w.route(tunnel.ListenerConfig{})
	address, asked := metadata(t, inZone)
	w.adapt(time.Now(), nil, lambdaapi.MetadataVariable+"="+address, lambdaapi.MetadataTokenVariable+"=t0ken")
	for range 2 {
		tun := w.tunnel(w.invoke(time.Minute))
		if got := tun.Ready().Zone; got != "euc1-az3" {
			t.Errorf("zone is %q", got)
		}
		tun.Drain("test")
		w.wantReason("drained")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("Lambda was asked %d times", n)
	}
}

// Whatever the metadata endpoint does, the instance becomes ready soon.
func TestAZoneThatIsNotKnownHarmsNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		token  string
	}{
		{"refused", inZone, "another"},
		{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "t0ken"},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("euc1-az3")) }, "t0ken"},
		{"no zone", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"AvailabilityZoneID":"` + strings.Repeat("x", 50) + `"}`))
		}, "t0ken"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.serveApp(http.NotFoundHandler())
			w.route(tunnel.ListenerConfig{})
			address, asked := metadata(t, tc.answer)
			w.adapt(time.Now(), nil, lambdaapi.MetadataVariable+"="+address, lambdaapi.MetadataTokenVariable+"="+tc.token)
			tun := w.tunnel(w.invoke(time.Minute))
			if got := tun.Ready().Zone; got != "" {
				t.Errorf("zone is %q", got)
			}
			if asked.Load() != 1 {
				t.Error("Lambda was not asked")
			}
		})
	}
}
