package tests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// awaited waits for an event of the other end.
func awaited[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited %v in vain for %s", patience, what)
	}
	return v
}

// expect reads exactly what is wanted, as soon as it is there.
func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q and %v, want %q", got[:n], err, want)
	}
}

func TestStreams(t *testing.T) {
	f := startFlow(t, 10, variants...)

	// What the app sends is with the client while the app waits for the client's
	// word to go on: the head before a body, then each piece of it.
	t.Run("what is sent arrives at once", func(t *testing.T) {
		f.each(t, func(t *testing.T, protocol, way, path string) {
			for _, kind := range []string{"text/plain", "text/event-stream"} {
				next := make(chan struct{})
				f.app.on(path, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", kind)
					w.WriteHeader(http.StatusOK)
					for i := range 20 {
						if http.NewResponseController(w).Flush() != nil {
							return
						}
						select {
						case <-next:
						case <-r.Context().Done():
							return
						}
						fmt.Fprintf(w, "data: %d\n\n", i)
					}
				})
				resp, err := f.client(protocol).RoundTrip(f.request(t, protocol, way, "GET", path, nil))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				for i := range 20 {
					next <- struct{}{}
					expect(t, resp.Body, fmt.Sprintf("data: %d\n\n", i))
				}
				if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
					t.Errorf("got %q and %v at the end", rest, err)
				}
			}
		})
	})

	// Both directions flow at once, and each piece crosses before the next is
	// sent. The app answers before the first, and has the last word.
	t.Run("full duplex", func(t *testing.T) {
		f.each(t, func(t *testing.T, protocol, way, path string) {
			f.app.on(path, func(w http.ResponseWriter, r *http.Request) {
				rc := http.NewResponseController(w)
				_ = rc.EnableFullDuplex()
				w.WriteHeader(http.StatusOK)
				_ = rc.Flush()
				buf := make([]byte, 100)
				for {
					n, err := r.Body.Read(buf)
					if n > 0 {
						fmt.Fprintf(w, "<%s>", buf[:n])
						_ = rc.Flush()
					}
					if err != nil {
						fmt.Fprintf(w, "end: %v", err)
						return
					}
				}
			})
			pr, pw := io.Pipe()
			resp, err := f.client(protocol).RoundTrip(f.request(t, protocol, way, "POST", path, pr))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			for i := range 20 {
				if _, err := fmt.Fprintf(pw, "part %d", i); err != nil {
					t.Fatal(err)
				}
				expect(t, resp.Body, fmt.Sprintf("<part %d>", i))
			}
			pw.Close()
			if rest, err := io.ReadAll(resp.Body); string(rest) != "end: EOF" || err != nil {
				t.Errorf("got %q and %v at the end", rest, err)
			}
		})
	})
}

const (
	// mostBetween is what may lie between an app that writes and a client that
	// does not read, or the reverse: sockets of the kernel, up to 10 MB on each
	// of two or three hops, and the windows of HTTP/2 and 3.
	mostBetween = 40 << 20
	// mostHeld is what router and adapter may each take for a download and an
	// upload that are stuck. The windows are 1 MB a stream in the tunnel.
	mostHeld = 16 << 20
)

// endless is written until somebody stops it. It holds the pattern.
type endless struct {
	given *atomic.Int64
	left  int64
}

func (e *endless) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), e.left)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	fill(p, uint64(e.given.Load()))
	e.given.Add(int64(len(p)))
	e.left -= int64(len(p))
	return len(p), nil
}

// A client that does not read stops the app, an app that does not read stops
// the client, and afterwards every byte arrives.
func TestBackPressure(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer")
	}
	const size = 48 << 20 // more than fits in between
	for _, protocol := range []string{"h1", "h2", "h3"} {
		for _, way := range []string{"lean", "full"} {
			t.Run(protocol+"/"+way, func(t *testing.T) {
				f := startFlow(t, 10, way)
				fp := f.footprints(t)
				download, upload := "/download"+t.Name(), "/upload"+t.Name()
				moved := make([]atomic.Int64, 2)
				written, given := &moved[0], &moved[1]
				f.app.on(download, func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.CopyBuffer(struct{ io.Writer }{w}, &endless{given: written, left: size}, make([]byte, 32<<10))
				})
				read := make(chan struct{})
				result := make(chan error, 1)
				f.app.on(upload, func(_ http.ResponseWriter, r *http.Request) {
					<-read
					result <- check(r.Body, size)
				})

				resp, err := f.newClient(protocol).RoundTrip(f.request(t, protocol, way, "GET", download, nil))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				uploaded := make(chan error, 1)
				go func() {
					resp, err := f.newClient(protocol).RoundTrip(f.request(t, protocol, way, "POST", upload, &endless{given: given, left: size}))
					if err == nil {
						resp.Body.Close()
					}
					uploaded <- err
				}()

				stuck(t, "the app and the client to be stopped", moved)
				down, up := written.Load(), given.Load()
				t.Logf("a download was stopped after %s, an upload after %s", mb(down), mb(up))
				for _, p := range fp {
					grown := p.grown(t)
					t.Logf("  the %s has grown by %s", p.name, mb(grown))
					if grown > mostHeld && !raceEnabled {
						t.Errorf("the %s holds more than %s", p.name, mb(mostHeld))
					}
				}
				if down > mostBetween || up > mostBetween {
					t.Errorf("more than %s lie in between", mb(mostBetween))
				}
				close(read)
				if err := check(resp.Body, size); err != nil {
					t.Errorf("download: %v", err)
				}
				if err := awaited(t, "the upload", result); err != nil {
					t.Errorf("upload: %v", err)
				}
				if err := awaited(t, "the upload's answer", uploaded); err != nil {
					t.Errorf("upload: %v", err)
				}
			})
		}
	}
}

// Requests whose clients or apps do not move hold their own slots and nothing
// else: what is on the same tunnel goes on.
func TestStalledStreamsAndTheirNeighbours(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer")
	}
	const slots = 60
	f := startFlow(t, slots, "lean", "lean-plain")
	for _, way := range []string{"lean", "lean-plain"} {
		t.Run(way, func(t *testing.T) {
			f.app.on("/small", func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				_, _ = w.Write(body)
			})
			moved := make([]atomic.Int64, slots)
			over := make(chan struct{})
			defer close(over)
			f.app.on("/down", func(w http.ResponseWriter, r *http.Request) {
				var i int
				_, _ = fmt.Sscan(r.URL.RawQuery, &i)
				_, _ = io.CopyBuffer(struct{ io.Writer }{w}, &endless{given: &moved[i], left: 1 << 40}, make([]byte, 32<<10))
			})
			f.app.on("/up", func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-over:
				case <-r.Context().Done():
				}
			})
			stall := func(i int) {
				if i%2 == 0 {
					resp, err := f.newClient("h1").RoundTrip(f.request(t, "h1", way, "GET", fmt.Sprintf("/down?%d", i), nil))
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { resp.Body.Close() })
					return
				}
				go func() {
					resp, err := f.newClient("h1").RoundTrip(f.request(t, "h1", way, "POST", "/up", &endless{given: &moved[i], left: 1 << 40}))
					if err == nil {
						resp.Body.Close()
					}
				}()
			}

			before := f.neighbours(t, way, 50, 5)
			stall(0)
			stall(1)
			stuck(t, "the app and the client to be stopped", moved[:2])
			beside := f.neighbours(t, way, 50, 5)
			t.Logf("50 neighbours took %v alone, %v beside a download and an upload that are stuck", before, beside)
			if limit := 5*before + 2*time.Second; beside > limit {
				t.Errorf("the neighbours took %v, at most %v were expected", beside, limit)
			}

			if way != "lean" {
				return
			}
			before = f.neighbours(t, way, 1, 50)
			for i := 2; i < slots-1; i++ {
				stall(i)
			}
			stuck(t, "apps and clients to be stopped", moved[:slots-1])
			beside = f.neighbours(t, way, 1, 50)
			t.Logf("50 requests one by one took %v beside nothing new, %v in the last of %d slots", before, beside, slots)
			if limit := 5*before + 2*time.Second; beside > limit {
				t.Errorf("the last slot took %v, at most %v were expected", beside, limit)
			}
		})
	}
}

// neighbours lets clients send requests one after the other and returns how
// long that took.
func (f *flow) neighbours(t *testing.T, way string, clients, requests int) time.Duration {
	t.Helper()
	body := strings.Repeat("neighbour ", 20_000) // more than a frame, in both directions
	begin := time.Now()
	done := make(chan error, clients)
	client := f.client("h1")
	for range clients {
		go func() {
			for range requests {
				resp, err := client.RoundTrip(f.request(t, "h1", way, "POST", "/small", strings.NewReader(body)))
				if err != nil {
					done <- err
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != body {
					done <- fmt.Errorf("status %d, %d bytes, error %v", resp.StatusCode, len(got), err) //nolint:errorlint // may be nil
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := awaited(t, "the neighbours", done); err != nil {
			t.Error(err)
		}
	}
	return time.Since(begin)
}
