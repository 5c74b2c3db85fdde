package tunnel

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestResponses(t *testing.T) {
	tests := []struct {
		name    string
		method  string
		handler http.HandlerFunc
		status  int
		header  http.Header
		trailer http.Header
		length  int64
		body    string
	}{
		{
			name: "nothing is added", handler: func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "<html>")
			}, status: 200, header: http.Header{}, length: -1, body: "<html>",
		},
		{name: "empty", handler: func(http.ResponseWriter, *http.Request) {}, status: 200, header: http.Header{}},
		{
			name: "status 519", handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "3")
				w.WriteHeader(519)
				_, _ = io.WriteString(w, "odd")
			}, status: 519, header: http.Header{"Content-Length": {"3"}}, length: 3, body: "odd",
		},
		{name: "204", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, status: 204, header: http.Header{}},
		{name: "304", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", `"x"`)
			w.Header().Set("Content-Length", "168161")
			w.WriteHeader(304)
		}, status: 304, header: http.Header{"Etag": {`"x"`}, "Content-Length": {"168161"}}},
		{name: "head", method: "HEAD", handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "168161")
		}, status: 200, header: http.Header{"Content-Length": {"168161"}}, length: 168161},
		{
			name: "fields that must not pass", handler: func(w http.ResponseWriter, _ *http.Request) {
				h := w.Header()
				h["Connection"] = []string{"close"}
				h["Keep-Alive"] = []string{"timeout=5"}
				h["Lambda-Dispatch-Error"] = []string{"draining"}
				h["lambda-dispatch-status"] = []string{"500"}
				h["Lambda-Dispatch-Upgrade"] = []string{"x"}
				h["Set-Cookie"] = []string{"b=2", "a=1"}
				h["Date"] = []string{"then"}
				w.WriteHeader(201)
			}, status: 201, header: http.Header{"Set-Cookie": {"b=2", "a=1"}, "Date": {"then"}},
		},
		{
			name: "announced trailers that do not come", handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				_, _ = io.WriteString(w, "body")
				w.Header()["X-Sum"] = nil
			}, status: 200, header: http.Header{}, trailer: http.Header{"X-Sum": nil}, length: -1, body: "body",
		},
		{
			name: "trailers", handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Trailer", "X-Sum, Lambda-Dispatch-Error,lambda-dispatch-x")
				_, _ = io.WriteString(w, "body")
				w.Header().Set("X-Sum", "42")
				w.Header().Set(http.TrailerPrefix+"X-Late", "1")
				w.Header().Set(http.TrailerPrefix+"Lambda-Dispatch-X", "1")
			}, status: 200, header: http.Header{}, trailer: http.Header{"X-Sum": {"42"}, "X-Late": {"1"}}, length: -1, body: "body",
		},
	}
	handlers := make(map[string]http.HandlerFunc)
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers[r.Header.Get("X-Test")](w, r)
	}))
	for _, tt := range tests {
		handlers[tt.name] = tt.handler
		for _, body := range []string{"", "request body that nobody reads"} {
			t.Run(tt.name+"/"+body, func(t *testing.T) {
				r := request(t, "POST", "/")
				if tt.method != "" {
					r.Method = tt.method
				}
				if body != "" {
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				}
				r.Header.Set("X-Test", tt.name)
				resp, got := do(t, p, r)
				if resp.StatusCode != tt.status || got != tt.body || resp.ContentLength != tt.length {
					t.Errorf("got %d, length %d, %q", resp.StatusCode, resp.ContentLength, got)
				}
				if want := fmt.Sprintf("%d %s", tt.status, http.StatusText(tt.status)); resp.Status != want {
					t.Errorf("status line is %q, want %q", resp.Status, want)
				}
				if !reflect.DeepEqual(resp.Header, tt.header) {
					t.Errorf("header is %q, want %q", resp.Header, tt.header)
				}
				if !maps.EqualFunc(resp.Trailer, tt.trailer, slices.Equal) {
					t.Errorf("trailer is %q, want %q", resp.Trailer, tt.trailer)
				}
			})
		}
	}
}

func TestInformationalResponses(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.Header().Set("Lambda-Dispatch-X", "1")
		w.WriteHeader(103)
		w.WriteHeader(103)
		_, _ = io.WriteString(w, "ok")
	}))
	var got []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got = append(got, fmt.Sprint(code, h))
			return nil
		},
	})
	_, body := do(t, p, requestCtx(ctx, t, "GET", "/"))
	want := "103 map[Link:[</a.css>; rel=preload]]"
	if body != "ok" || !slices.Equal(got, []string{want, want}) {
		t.Errorf("got %q before %q", got, body)
	}
}

// Whatever ends a response early, it must not look complete.
func TestCutResponses(t *testing.T) {
	variants(t, func(t *testing.T, cfg ListenerConfig) {
		for name, cut := range map[string]func(*pair){
			"abort":         nil,
			"session close": func(p *pair) { _ = p.session.Close() },
			"tunnel close":  func(p *pair) { _ = p.Close() },
			"kill":          func(p *pair) { _ = p.session.conn.raw.Close() },
		} {
			for _, sized := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v", name, sized), func(t *testing.T) {
					p := connectPair(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if sized {
							w.Header().Set("Content-Length", "100000")
						}
						_, _ = w.Write(make([]byte, 50000))
						w.(http.Flusher).Flush()
						if cut == nil {
							panic(http.ErrAbortHandler)
						}
						<-r.Context().Done()
					}))
					resp, err := p.RoundTrip(request(t, "GET", "/"))
					if err != nil {
						t.Fatal(err)
					}
					if cut != nil {
						if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
							t.Fatal(err)
						}
						cut(p)
					}
					n, err := io.Copy(io.Discard, resp.Body)
					if err == nil {
						t.Errorf("%d bytes ended like a complete response", n)
					}
					_ = resp.Body.Close()
				})
			}
		}
	})
}

func TestAbortBeforeResponse(t *testing.T) {
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
	}))
	_, err := p.RoundTrip(request(t, "GET", "/abort"))
	if rt, ok := errors.AsType[*RoundTripError](err); !ok || !rt.Processed {
		t.Errorf("got %v, want an error of a request that may have been processed", err)
	}
	do(t, p, request(t, "GET", "/"))
}

func TestFail(t *testing.T) {
	for _, code := range Codes {
		p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-App", "half a response")
			Fail(wrapped{w}, code, "dial tcp 127.0.0.1:8080:\r\nconnection refused "+strings.Repeat("é", 1000))
		}))
		_, err := p.RoundTrip(request(t, "GET", "/"))
		rt, _ := errors.AsType[*RoundTripError](err)
		ae, ok := errors.AsType[*AdapterError](err)
		if !ok || ae.Code != code || !strings.HasPrefix(ae.Message, "dial tcp 127.0.0.1:8080:  connection refused é") {
			t.Fatalf("got %v", err)
		}
		if len(ae.Message) > maxErrorMessage {
			t.Errorf("message has %d bytes", len(ae.Message))
		}
		if want := code == CodeAppFailed || code == CodeAppTimeout; rt.Processed != want {
			t.Errorf("%s: processed is %v", code, rt.Processed)
		}
	}
}

// wrapped is a middleware's writer.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestAdapterErrorOfTheFuture(t *testing.T) {
	if e := parseAdapterError("app_exploded: so it says"); e.Code != CodeAppFailed || e.Message != "so it says" {
		t.Errorf("got %+v", e)
	}
}

func TestHeaderLimits(t *testing.T) {
	p := connectPair(t, ListenerConfig{MaxHeaderBytes: 64 << 10}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			w.Header().Set("X-Large", strings.Repeat("x", 60<<10))
		case "/too-large":
			w.Header().Set("X-Large", strings.Repeat("x", 65<<10))
		case "/early-hints":
			w.Header().Set("X-Large", strings.Repeat("x", 65<<10))
			w.WriteHeader(103)
		case "/trailer":
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(http.TrailerPrefix+"X-Large", strings.Repeat("x", 65<<10))
		}
	}), func(c *DialConfig) { c.MaxHeaderBytes = 64 << 10 })

	if resp, _ := do(t, p, request(t, "GET", "/large")); len(resp.Header.Get("X-Large")) != 60<<10 {
		t.Error("large header was lost")
	}
	for _, path := range []string{"/too-large", "/early-hints"} {
		_, err := p.RoundTrip(request(t, "GET", path))
		if ae, ok := errors.AsType[*AdapterError](err); !ok || ae.Code != CodeAppFailed || !strings.Contains(ae.Message, "65536") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	resp, err := p.RoundTrip(request(t, "GET", "/trailer"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("response with an oversize trailer looks complete")
	}
	_ = resp.Body.Close()

	r := request(t, "GET", "/")
	r.Header.Set("X-Large", strings.Repeat("x", 70<<10))
	_, err = p.RoundTrip(r)
	if rt, ok := errors.AsType[*RoundTripError](err); !ok || rt.Processed || !errors.Is(err, ErrHeadersTooLarge) {
		t.Errorf("got %v", err)
	}
	do(t, p, request(t, "GET", "/")) // and the tunnel has survived all that
}

func TestFirstByteAtOnce(t *testing.T) {
	next := make(chan struct{})
	p := connectPair(t, ListenerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	}))
	resp, err := p.RoundTrip(request(t, "GET", "/"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := io.ReadFull(resp.Body, make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		next <- struct{}{}
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v at the end", err)
	}
	_ = resp.Body.Close()
}
