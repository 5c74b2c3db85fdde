package appproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2App starts a web server that speaks HTTP/2 only, and a proxy and a front
// before it.
func h2App(t testing.TB, h http.HandlerFunc) (url string, client *http.Client, p *H2, srv *httptest.Server) {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv = httptest.NewUnstartedServer(h)
	srv.Config.Protocols = &protocols
	srv.Start()
	t.Cleanup(srv.Close)
	p = newH2(t, srv.Listener.Addr().String())
	url, client = front(t, NewScope(p))
	return url, client, p, srv
}

func newH2(t testing.TB, addr string) *H2 {
	t.Helper()
	p := NewH2(Config{Address: addr, Fail: testFail})
	t.Cleanup(p.Close)
	return p
}

func TestH2AppSeesTheRequestAsItWas(t *testing.T) {
	seen := make(chan *http.Request, 1)
	url, client, _, _ := h2App(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r
	})
	for _, target := range []string{"/", "/a%2Fb//c/../d?x=%20&y", "/?", "//double/slash?", "/q\"|ü"} {
		req := newRequest(t, "POST", url, onlyReader{strings.NewReader("body")})
		req.URL.Opaque, req.URL.RawQuery, _ = strings.Cut(target, "?")
		if strings.HasPrefix(target, "//") {
			req.URL.Opaque = "//shop.example" + req.URL.Opaque
		}
		req.URL.ForceQuery = strings.HasSuffix(target, "?")
		req.Host = "shop.example"
		req.Header = http.Header{
			"Te": {"trailers"}, "Cookie": {"a=1; b=2"}, "X-Twice": {"1", "2"}, "User-Agent": nil,
			"X-Named": {"1"}, "X-Bytes": {"\xff"},
		}
		req.Trailer = http.Header{"X-Sum": {"42"}}
		resp, _ := do(t, client, req)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", target, resp.StatusCode)
		}
		r := receive(t, seen, "the request")
		want := strings.ReplaceAll(target, "ü", "%C3%BC")
		if r.RequestURI != want || r.Host != "shop.example" || r.Method != "POST" || r.ProtoMajor != 2 {
			t.Errorf("app saw %s %s at %s in %s, want %s", r.Method, r.RequestURI, r.Host, r.Proto, want)
		}
		if !equalHeaders(r.Header, http.Header{
			"Te": {"trailers"}, "Cookie": {"a=1; b=2"}, "X-Twice": {"1", "2"}, "X-Named": {"1"}, "X-Bytes": {"\xff"},
		}) {
			t.Errorf("app saw %v", r.Header)
		}
		if r.Trailer.Get("X-Sum") != "42" || r.ContentLength != -1 {
			t.Errorf("app saw trailers %v, length %d", r.Trailer, r.ContentLength)
		}
	}
}

func TestH2Answers(t *testing.T) {
	url, client, p, _ := h2App(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Date"] = nil
		switch r.URL.Path {
		case "/trailers":
			h.Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			h.Set("X-Sum", "42")
			h.Set(http.TrailerPrefix+"X-Late", "1")
		case "/only": // as gRPC servers answer a failed call
			h.Set("Grpc-Status", "5")
			h["Content-Type"] = nil
		case "/empty-with-trailers":
			h["Content-Type"] = nil
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			h.Set(http.TrailerPrefix+"X-Late", "1")
		case "/hints":
			h.Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			delete(h, "Link")
			h.Set("Content-Type", "text/plain")
			w.WriteHeader(519)
			_, _ = io.WriteString(w, "odd")
		case "/big":
			h.Set("Content-Type", "text/plain")
			_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 300_000))
		}
	})
	for path, want := range map[string]struct {
		status          int
		header, trailer http.Header
		body            string
	}{
		"/trailers":            {200, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, http.Header{"X-Sum": {"42"}, "X-Late": {"1"}}, "body"},
		"/only":                {200, http.Header{"Grpc-Status": {"5"}, "Content-Length": {"0"}}, nil, ""},
		"/empty-with-trailers": {200, http.Header{}, http.Header{"X-Late": {"1"}}, ""},
		"/hints":               {519, http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"3"}}, nil, "odd"},
		"/big":                 {200, http.Header{"Content-Type": {"text/plain"}}, nil, strings.Repeat("0123456789", 300_000)},
	} {
		resp, body := get(t, client, url+path)
		delete(resp.Header, "Date")
		if resp.StatusCode != want.status || !equalHeaders(resp.Header, want.header) || !equalHeaders(resp.Trailer, want.trailer) || body != want.body {
			t.Errorf("%s: %d %v, %d bytes, trailers %v", path, resp.StatusCode, resp.Header, len(body), resp.Trailer)
		}
	}
	if n := len(p.conns); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestH2FullDuplex: each piece is answered before the next is sent.
func TestH2FullDuplex(t *testing.T) {
	url, client, _, _ := h2App(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = io.WriteString(w, "echo "+lines.Text()+"\n")
			w.(http.Flusher).Flush()
		}
	})
	body, in := io.Pipe()
	resp, err := client.Do(newRequest(t, "POST", url, body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	out := bufio.NewReader(resp.Body)
	for _, text := range []string{"one", "two", strings.Repeat("x", 200_000)} {
		_, _ = io.WriteString(in, text+"\n")
		if len(text) > 60_000 {
			break // longer than what the app's scanner takes
		}
		if got, err := out.ReadString('\n'); err != nil || got != "echo "+text+"\n" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	_ = in.Close()
	if rest, err := io.ReadAll(out); err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestH2CancelReachesTheApp(t *testing.T) {
	arrived, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	url, client, p, _ := h2App(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/began" {
			w.(http.Flusher).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	for _, path := range []string{"/waiting", "/began"} {
		ctx, cancel := context.WithCancel(t.Context())
		body, in := io.Pipe() // never written to
		go func() {
			resp, err := client.Do(newRequest(t, "POST", url+path, body).WithContext(ctx))
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}()
		receive(t, arrived, "the request")
		cancel()
		receive(t, gone, "the app to notice")
		_ = in.Close()
	}
	if len(p.conns) != 1 || p.conns[0].Err() != nil {
		t.Errorf("the connection did not survive: %v", p.conns)
	}
}

// TestH2AppResets: a stream that the app resets fails, or is cut.
func TestH2AppResets(t *testing.T) {
	url, client, _, _ := h2App(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/began" {
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	resp, body := get(t, client, url+"/waiting")
	if resp.Header.Get(failHeader) != CodeFailed || !strings.Contains(body, "reset") {
		t.Errorf("client got %d %v %q", resp.StatusCode, resp.Header, body)
	}
	resp, err := client.Get(url + "/began")
	if err != nil {
		return
	}
	defer resp.Body.Close() //nolint:errcheck // broken anyway
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a cut answer looked complete: %q", body)
	}
}

func TestH2Unreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	url, client := front(t, NewScope(newH2(t, ln.Addr().String())))
	resp, _ := do(t, client, newRequest(t, "POST", url, strings.NewReader("x")))
	if resp.Header.Get(failHeader) != CodeUnavailable {
		t.Errorf("client got %d %v", resp.StatusCode, resp.Header)
	}
}

// TestH2NotHTTP2: an HTTP/1.1 server in place of the app.
func TestH2NotHTTP2(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	url, client := front(t, NewScope(newH2(t, srv.Listener.Addr().String())))
	resp, body := get(t, client, url)
	if resp.StatusCode != http.StatusBadGateway || resp.Header.Get(failHeader) == "" {
		t.Errorf("client got %d %v %q", resp.StatusCode, resp.Header, body)
	}
}

// TestH2NotTaken: a request whose stream the app refuses, or that crosses its
// GOAWAY, is sent again with its body, whatever its method.
func TestH2NotTaken(t *testing.T) {
	for name, refuse := range map[string]func(*http2.Framer, uint32) error{
		"refused": func(f *http2.Framer, id uint32) error { return f.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
		"goaway":  func(f *http2.Framer, id uint32) error { return f.WriteGoAway(id-1, http2.ErrCodeNo, nil) },
	} {
		for _, times := range []int{1, 100} {
			tries := 0
			a := rawH2(t, func(f *http2.Framer, id uint32, body string) error {
				if tries++; tries <= times {
					return refuse(f, id)
				}
				return answerH2(f, id, body)
			})
			url, client := front(t, NewScope(newH2(t, a.addr)))
			resp, body := do(t, client, newRequest(t, "POST", url, onlyReader{strings.NewReader("a body")}))
			switch {
			case times == 1 && (resp.StatusCode != http.StatusOK || body != "a body"):
				t.Errorf("%s once: client got %d %q", name, resp.StatusCode, body)
			case times > 1 && (resp.Header.Get(failHeader) != CodeUnavailable || tries != h2Attempts):
				t.Errorf("%s always: client got %d %v after %d tries", name, resp.StatusCode, resp.Header, tries)
			}
		}
	}
}

// rawH2 is an app whose streams are answered by hand, one after the other.
func rawH2(t *testing.T, serve func(f *http2.Framer, id uint32, body string) error) *fakeApp {
	return rawApp(t, func(_ int, c *net.TCPConn, r *bufio.Reader) {
		_, _ = io.ReadFull(r, make([]byte, len(http2.ClientPreface)))
		f := http2.NewFramer(c, r)
		_ = f.WriteSettings()
		bodies := map[uint32]string{}
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			ended := false
			id := frame.Header().StreamID
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				ended = frame.StreamEnded()
			case *http2.DataFrame:
				bodies[id] += string(frame.Data())
				ended = frame.StreamEnded()
			}
			if ended && serve(f, id, bodies[id]) != nil {
				return
			}
		}
	})
}

func answerH2(f *http2.Framer, id uint32, body string) error {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		return err
	}
	return f.WriteData(id, true, []byte(body))
}

// TestH2ConnectionAge: an app that ends its connections all the time, in
// order, costs nothing.
func TestH2ConnectionAge(t *testing.T) {
	url, client, _, srv := h2App(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // makes net/http send GOAWAY
		_, _ = io.Copy(w, r.Body)
	})
	_ = srv
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			for range 50 {
				resp, err := client.Do(newRequest(t, "POST", url, onlyReader{strings.NewReader("a body")}))
				if err != nil {
					results <- err
					return
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(body) != "a body" || resp.StatusCode != http.StatusOK {
					results <- errors.Join(err, errors.New(resp.Status+" "+string(body)))
					return
				}
			}
			results <- nil
		}()
	}
	for range cap(results) {
		if err := receive(t, results, "a client"); err != nil {
			t.Error(err)
		}
	}
}

// TestH2FewStreams: more connections are made for an app that allows few
// streams on each.
func TestH2FewStreams(t *testing.T) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	srv.Config.Protocols = &protocols
	srv.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2}
	srv.Start()
	defer srv.Close()
	p := newH2(t, srv.Listener.Addr().String())
	url, client := front(t, NewScope(p))
	done := make(chan error, 4)
	send := func() {
		go func() {
			resp, err := client.Get(url)
			if err == nil {
				_ = resp.Body.Close()
			}
			done <- err
		}()
		receive(t, arrived, "the request") // after it the app's limit is known
	}
	for range 4 {
		send()
	}
	close(release)
	for range 4 {
		if err := receive(t, done, "an answer"); err != nil {
			t.Error(err)
		}
	}
	if n := len(p.conns); n != 2 {
		t.Errorf("%d connections for 4 streams of 2 each", n)
	}
	p.CloseIdle()
	if n := len(p.conns); n != 0 {
		t.Errorf("%d idle connections left", n)
	}
}

func TestH2Abort(t *testing.T) {
	arrived := make(chan struct{}, 2)
	var scope *Scope
	_, _, p, _ := h2App(t, //nolint:dogsled // it has fronts of its own
		func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/began" {
				w.(http.Flusher).Flush()
			}
			arrived <- struct{}{}
			<-r.Context().Done()
		})
	scope, other := NewScope(p), NewScope(p)
	url, client := front(t, scope)
	otherURL, otherClient := front(t, other)
	got := make(chan *http.Response, 1)
	go func() {
		resp, err := client.Get(url + "/waiting")
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	began, err := client.Get(url + "/began")
	if err != nil {
		t.Fatal(err)
	}
	defer began.Body.Close() //nolint:errcheck // broken anyway
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kept, err := otherClient.Do(newRequest(t, "GET", otherURL+"/began", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Body.Close() //nolint:errcheck // not read
	for range 3 {
		receive(t, arrived, "the requests")
	}
	scope.Abort(Fault{CodeFailed, "it hangs"})
	resp := receive(t, got, "the answer")
	defer resp.Body.Close() //nolint:errcheck // read
	if body, _ := io.ReadAll(resp.Body); resp.Header.Get(failHeader) != CodeFailed || !strings.Contains(string(body), "it hangs") {
		t.Errorf("client got %d %v %s", resp.StatusCode, resp.Header, body)
	}
	if _, err := io.ReadAll(began.Body); err == nil {
		t.Error("a cut answer looked complete")
	}
	if resp, _ := get(t, client, url); resp.Header.Get(failHeader) != CodeFailed {
		t.Errorf("after Abort: %d", resp.StatusCode)
	}
	if a := p.Activity(); a.Waiting != 0 || a.Reads == 0 {
		t.Errorf("activity %+v", a)
	}
	select {
	case <-time.After(50 * time.Millisecond):
	case <-ctx.Done():
	}
	cancel()
	if _, err := io.ReadAll(kept.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("the other scope's request ended with %v", err)
	}
}

// TestH2BrokenBody: the app must not take a part for the whole.
func TestH2BrokenBody(t *testing.T) {
	arrived, ended := make(chan struct{}, 1), make(chan error, 1)
	url, client, _, _ := h2App(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	body, in := io.Pipe()
	go func() {
		_, _ = io.WriteString(in, "part")
		<-arrived
		_ = in.CloseWithError(errors.New("broken"))
	}()
	resp, err := client.Do(newRequest(t, "POST", url, body))
	if err == nil {
		_ = resp.Body.Close()
		t.Error("no error")
	}
	if err := receive(t, ended, "the app"); err == nil {
		t.Error("the app took the part for the whole")
	}
}
