package tests

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// fullVar is a variable that makes large bodies 5 GiB long. Without it they are
// as long as CI has time for.
const fullVar = "LAMBDA_DISPATCH_TEST_FULL"

// mostGrown is by how much router and adapter may be larger at their peak than
// when they are idle, whatever goes through them.
const mostGrown = 64 << 20

// fill writes the pattern as it is from the offset on: the numbers from 0, 8
// bytes each.
func fill(p []byte, off uint64) {
	for ; len(p) > 0 && off%8 != 0; off++ {
		p[0] = byte(off / 8 >> (off % 8 * 8))
		p = p[1:]
	}
	n := off / 8
	for ; len(p) >= 8; n++ {
		binary.LittleEndian.PutUint64(p, n)
		p = p[8:]
	}
	for i := range p {
		p[i] = byte(n >> (i * 8))
	}
}

var errPattern = errors.New("the pattern is broken")

// check reads the pattern and nothing else.
func check(r io.Reader, size int64) error {
	buf, want := make([]byte, 64<<10), make([]byte, 64<<10)
	var off int64
	for {
		n, err := r.Read(buf)
		fill(want[:n], uint64(off))
		if string(buf[:n]) != string(want[:n]) {
			return fmt.Errorf("%w between %d and %d", errPattern, off, off+int64(n))
		}
		off += int64(n)
		if err == io.EOF { //nolint:errorlint // io.Reader's promise
			break
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", off, err)
		}
	}
	if off != size {
		return fmt.Errorf("got %d bytes, want %d", off, size)
	}
	return nil
}

// Bodies of any size cross byte for byte, and the memory that they take in
// router and adapter has nothing to do with their size.
func TestLargeBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer")
	}
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	for _, tc := range []struct {
		protocol, way string
		size          int64
		known         bool // the length is announced
	}{
		{"h1+tls", "lean", 512 << 20, true},
		{"h2", "lean", 256 << 20, false},
		{"h3", "lean-plain", 128 << 20, true},
		{"h2c", "full", 128 << 20, false},
	} {
		t.Run(tc.protocol+"/"+tc.way, func(t *testing.T) {
			size := tc.size
			if os.Getenv(fullVar) != "" {
				size = 5 << 30
			}
			f := startFlow(t, 10, tc.way)
			result := make(chan error, 1)
			f.app.on("/up", func(_ http.ResponseWriter, r *http.Request) {
				if tc.known != (r.ContentLength == size) {
					t.Errorf("the length is %d", r.ContentLength)
				}
				result <- check(r.Body, size)
			})
			f.app.on("/down", func(w http.ResponseWriter, _ *http.Request) {
				if tc.known {
					w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
				}
				_, _ = io.CopyBuffer(struct{ io.Writer }{w}, &endless{given: new(atomic.Int64), left: size}, make([]byte, 64<<10))
			})
			for range 3 { // all code has run once
				resp, err := f.client(tc.protocol).RoundTrip(f.request(t, tc.protocol, tc.way, "GET", "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
			}

			fp := f.footprints(t)
			begin := time.Now()
			req := f.request(t, tc.protocol, tc.way, "POST", "/up", &endless{given: new(atomic.Int64), left: size})
			if tc.known {
				req.ContentLength = size
			}
			resp, err := f.client(tc.protocol).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if err := awaited(t, "the upload", result); err != nil {
				t.Error(err)
			}
			fp.report(t, "upload", size, begin)

			fp = f.footprints(t)
			begin = time.Now()
			resp, err = f.client(tc.protocol).RoundTrip(f.request(t, tc.protocol, tc.way, "GET", "/down", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if err := check(resp.Body, size); err != nil {
				t.Error(err)
			}
			fp.report(t, "download", size, begin)
		})
	}
}

func (fp footprints) report(t *testing.T, what string, size int64, begin time.Time) {
	t.Helper()
	took := time.Since(begin)
	t.Logf("%s of %s took %v, %s/s", what, mb(size), took.Round(time.Millisecond), mb(int64(float64(size)/took.Seconds())))
	for _, p := range fp {
		grown := p.grown(t)
		t.Logf("  %s: %s idle, %s more at the peak", p.name, mb(p.idle), mb(grown))
		if grown > mostGrown {
			t.Errorf("the %s grew by %s", p.name, mb(grown))
		}
	}
}
