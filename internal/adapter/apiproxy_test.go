package adapter

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A proxy of the Runtime API may begin to listen after the adapter, and one that
// never does is given up while there is still time to say so.
func TestRuntimeAPIProxyThatComesLate(t *testing.T) {
	refused := errors.New("connection refused")
	for _, tc := range []struct {
		name  string
		after time.Duration
		fails bool
	}{{"at once", 0, false}, {"late", 3 * time.Second, false}, {"never", time.Hour, true}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				dial := func(_ context.Context, _, address string) (net.Conn, error) {
					if address != "127.0.0.1:9002" {
						t.Errorf("dialled %s", address)
					}
					if time.Since(began) < tc.after {
						return nil, refused
					}
					here, there := net.Pipe()
					_ = there.Close()
					return here, nil
				}
				err := awaitProxy(t.Context(), "http://127.0.0.1:9002", dial)
				if errors.Is(err, refused) != tc.fails || !tc.fails && err != nil {
					t.Errorf("error %v", err)
				}
				if tc.fails && !strings.Contains(err.Error(), "proxy") {
					t.Errorf("the error does not say what is missing: %v", err)
				}
				if took := time.Since(began); took > min(tc.after, proxyPatience)+2*proxyPause {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
