package tunnel

import (
	"io"
	"net/http"
	"testing"
	"time"
)

func TestRoundTrip(t *testing.T) {
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		deadline := time.Now().Add(15 * time.Minute)
		p := connectPair(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Host+r.RequestURI)
		}), func(c *DialConfig) {
			c.Ready = Ready{
				MaxConcurrent: 7, Deadline: deadline,
				FunctionVersion: "$LATEST", Environment: "2026/11/23/[$LATEST]0", Adapter: "dev", Zone: "euc1-az2",
			}
		})
		for range 3 {
			resp, err := p.RoundTrip(request(t, "GET", "/ping?x=1"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || string(body) != "example.com/ping?x=1" || resp.StatusCode != 200 {
				t.Fatalf("got %d %q, %v", resp.StatusCode, body, err)
			}
		}
		r := p.Ready()
		if d := r.Deadline.Sub(deadline).Abs(); d > time.Second {
			t.Errorf("deadline is off by %v", d)
		}
		r.Deadline = time.Time{}
		want := Ready{MaxConcurrent: 7, FunctionVersion: "$LATEST", Environment: "2026/11/23/[$LATEST]0", Adapter: "dev", Zone: "euc1-az2"}
		if r != want {
			t.Errorf("ready is %+v, want %+v", r, want)
		}
		if p.Slots() != 7 {
			t.Errorf("slots: %d", p.Slots())
		}
		if n := p.session.Requests(); n != 3 {
			t.Errorf("session counted %d requests", n)
		}
	})
}

// What crosses a tunnel is counted at the router, in both directions.
func TestBytesAreCounted(t *testing.T) {
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		const up, down = 300_000, 700_000
		p := connectPair(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(make([]byte, down))
		}))
		inBefore, outBefore := p.Tunnel.(Metered).Bytes()
		if inBefore == 0 || outBefore == 0 {
			t.Error("the hello was not counted")
		}
		req := request(t, "POST", "/")
		req.Body = io.NopCloser(io.LimitReader(zeroes{}, up))
		resp, err := p.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		in, out := p.Tunnel.(Metered).Bytes()
		in, out = in-inBefore, out-outBefore
		if in < down || in > down+down/100 || out < up || out > up+up/50 {
			t.Errorf("%d bytes came of a response of %d, %d went of a request of %d", in, down, out, up)
		}
	})
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }
