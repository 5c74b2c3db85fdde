package adapter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// piece waits for what Lambda gets next of a streamed answer.
func (w *directWorld) piece() string {
	w.t.Helper()
	select {
	case p := <-w.pieces:
		return p
	case <-time.After(patience):
		w.t.Fatal("timed out waiting for a piece of the answer")
		panic("unreachable")
	}
}

// handleLater serves an event in a goroutine.
func (w *directWorld) handleLater(ctx context.Context, event string, timeout time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := w.d.handle(ctx, &lambdaapi.Invocation{RequestID: "r-1", Deadline: time.Now().Add(timeout), Event: []byte(event)})
		done <- err
	}()
	return done
}

// await waits for a step of the test, or for its end.
func await(t *testing.T, step <-chan struct{}) {
	select {
	case <-step:
	case <-t.Context().Done():
	}
}

func splitPrelude(t *testing.T, body string) (prelude apiResult, rest string) {
	t.Helper()
	head, rest, ok := strings.Cut(body, strings.Repeat("\x00", 8))
	if !ok {
		t.Fatalf("no prelude in %q", body)
	}
	if err := json.Unmarshal([]byte(head), &prelude); err != nil {
		t.Fatalf("prelude %q: %v", head, err)
	}
	return prelude, rest
}

func trailerError(t *testing.T, e directEnd) (fe lambdaapi.FunctionError) {
	t.Helper()
	text, err := base64.StdEncoding.DecodeString(e.trailer.Get("Lambda-Runtime-Function-Error-Body"))
	if err == nil {
		err = json.Unmarshal(text, &fe)
	}
	if err != nil || fe.Type != e.trailer.Get("Lambda-Runtime-Function-Error-Type") {
		t.Errorf("trailers %v: %v", e.trailer, err)
	}
	return fe
}

// TestDirectStream: each piece reaches Lambda before the app makes the next.
func TestDirectStream(t *testing.T) {
	step := make(chan struct{})
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain")
		rw.Header().Add("Set-Cookie", "a=1")
		rw.WriteHeader(http.StatusCreated)
		for _, text := range []string{"", "one", "two"} {
			_, _ = io.WriteString(rw, text)
			_ = http.NewResponseController(rw).Flush()
			await(t, step)
		}
	})
	w.d.cfg.Stream = true
	for source, event := range map[string]string{"function-url": urlEvent("GET", "/", ""), "rest-api": restEvent("GET", "/", "")} {
		done := w.handleLater(t.Context(), event, time.Minute)
		prelude, rest := splitPrelude(t, w.piece())
		if prelude.StatusCode != 201 || prelude.Headers["content-type"] != "text/plain" || rest != "" {
			t.Errorf("%s: prelude %+v, then %q", source, prelude, rest)
		}
		step <- struct{}{}
		if p := w.piece(); p != "one" {
			t.Errorf("%s: piece %q", source, p)
		}
		step <- struct{}{}
		if p := w.piece(); p != "two" {
			t.Errorf("%s: piece %q", source, p)
		}
		step <- struct{}{}
		e := w.end()
		if e.how != "response" || e.header.Get("Lambda-Runtime-Function-Response-Mode") != "streaming" ||
			e.header.Get("Content-Type") != directevent.PreludeType || e.err != nil || e.trailer.Get("Lambda-Runtime-Function-Error-Type") != "" {
			t.Errorf("%s: ended with %+v", source, e)
		}
		if err := receive(t, done, "the handler"); !errors.Is(err, errAnswered) {
			t.Errorf("%s: handler: %v", source, err)
		}
	}
	w.wantLines()
}

// TestDirectStreamIsForThoseWhoUnderstandIt: all others get a result.
func TestDirectStreamIsForThoseWhoUnderstandIt(t *testing.T) {
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, `{"a":1}`) })
	w.d.cfg.Stream = true
	if r := w.wantResult(albEvent("GET", "/", ""), time.Minute); r.Body != `{"a":1}` {
		t.Errorf("result %+v", r)
	}
	httpAPI := strings.ReplaceAll(urlEvent("GET", "/", ""), ".lambda-url.us-east-1.on.aws", ".execute-api.us-east-1.amazonaws.com")
	if r := w.wantResult(httpAPI, time.Minute); r.Body != `{"a":1}` {
		t.Errorf("result %+v", r)
	}
	for _, event := range []string{sqsEvent, `null`, `{"x":1}`} {
		if result, err := w.handle(event, time.Minute); err != nil || string(result) != `{"a":1}` {
			t.Errorf("result %s, %v", result, err)
		}
	}
}

func TestDirectStreamBreaksOff(t *testing.T) {
	for name, compress := range map[string]bool{"plain": false, "gzip": true} {
		t.Run(name, func(t *testing.T) {
			w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(rw, "some of it")
				_ = http.NewResponseController(rw).Flush()
				panic(http.ErrAbortHandler)
			})
			w.d.cfg.Stream, w.d.cfg.Compress = true, compress
			e := w.wantEnd(restEvent("GET", "/", "", "Accept-Encoding", "gzip"), time.Minute)
			prelude, rest := splitPrelude(t, e.body)
			if compress {
				if prelude.Headers["content-encoding"] != "gzip" || prelude.Headers["content-length"] != "" {
					t.Errorf("prelude %+v", prelude)
				}
				got := make([]byte, len("some of it"))
				_, _ = io.ReadFull(decoder(t, "gzip", strings.NewReader(rest)), got)
				rest = string(got)
			}
			if rest != "some of it" || e.err != nil {
				t.Errorf("body %q, %v", rest, e.err)
			}
			if fe := trailerError(t, e); fe.Type != "LambdaDispatch.AppFailed" || !strings.Contains(fe.Message, "cut") {
				t.Errorf("error %+v", fe)
			}
			w.wantLines("level=ERROR|error_type=LambdaDispatch.AppFailed|status=502|source=rest-api|request_id=r-1")
		})
	}
}

// TestDirectStreamFlushesItsCompressor: what the app flushes can be read.
func TestDirectStreamFlushesItsCompressor(t *testing.T) {
	for _, coding := range codings {
		t.Run(coding, func(t *testing.T) {
			step := make(chan struct{})
			w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", "application/json")
				for _, text := range []string{"one ", "two "} {
					_, _ = io.WriteString(rw, text)
					_ = http.NewResponseController(rw).Flush()
					await(t, step)
				}
				_, _ = io.WriteString(rw, "three")
			})
			w.d.cfg.Stream, w.d.cfg.Compress = true, true
			done := w.handleLater(t.Context(), restEvent("GET", "/", "", "Accept-Encoding", coding), time.Minute)
			var seen bytes.Buffer
			prelude, rest := splitPrelude(t, w.piece())
			seen.WriteString(rest)
			if prelude.Headers["content-encoding"] != coding || prelude.Headers["vary"] != "Accept-Encoding" {
				t.Errorf("prelude %+v", prelude)
			}
			for _, want := range []string{"one ", "one two "} {
				got := make([]byte, len(want))
				for n := 0; n < len(want); {
					if coding != "gzip" || seen.Len() >= 10 { // its header's size
						n, _ = io.ReadFull(decoder(t, coding, bytes.NewReader(seen.Bytes())), got)
					}
					if n < len(want) {
						seen.WriteString(w.piece())
					}
				}
				if string(got) != want {
					t.Fatalf("after the flush: %q", got)
				}
				step <- struct{}{}
			}
			e := w.end()
			_, rest = splitPrelude(t, e.body)
			if got := decode(t, coding, []byte(rest)); got != "one two three" {
				t.Errorf("body %q", got)
			}
			receive(t, done, "the handler") //nolint:errcheck // it has ended
		})
	}
}

// TestDirectStreamOfAFunctionURLIsNotCompressed, because the URL takes codings
// off again.
func TestDirectStreamOfAFunctionURLIsNotCompressed(t *testing.T) {
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, strings.Repeat("x", 1000)) })
	w.d.cfg.Stream, w.d.cfg.Compress = true, true
	event := urlEvent("GET", "/", "", "accept-encoding", "gzip, br")
	e := w.wantEnd(event, time.Minute)
	if prelude, rest := splitPrelude(t, e.body); prelude.Headers["content-encoding"] != "" || len(rest) != 1000 {
		t.Errorf("prelude %+v, %d bytes", prelude, len(rest))
	}
	w.d.cfg.Stream = false
	if r := w.wantResult(event, time.Minute); r.header("content-encoding") != "br" || len(r.Body) >= 1000 {
		t.Errorf("result %+v", r)
	}
}

// TestDirectStreamHoldsNothing: a Lambda that takes no more stops the app.
func TestDirectStreamHoldsNothing(t *testing.T) {
	written, stalled := make(chan int, 1000), make(chan struct{})
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 1<<20)
		for range 64 {
			if _, err := rw.Write(piece); err != nil {
				break
			}
			written <- len(piece)
		}
		close(written)
	})
	w.d.cfg.Stream = true
	client := newStalledLambda(t, stalled)
	w.d.api = client
	done := w.handleLater(t.Context(), restEvent("GET", "/", ""), time.Minute)
	total := 0
	for quiet := false; !quiet; {
		select {
		case n := <-written:
			total += n
		case <-time.After(500 * time.Millisecond): // nothing tells that the app stands still
			quiet = true
		}
	}
	if total > 32<<20 {
		t.Errorf("the app has written %d bytes that Lambda has not taken", total)
	}
	close(stalled)
	if err := receive(t, done, "the handler"); !errors.Is(err, errAnswered) {
		t.Error(err)
	}
	for n := range written {
		total += n
	}
	if total != 64<<20 {
		t.Errorf("the app wrote %d bytes in all", total)
	}
}

// TestDirectStreamTooLarge ends after 200 MB, and before Lambda has had enough:
// its own error would say nothing about why.
func TestDirectStreamTooLarge(t *testing.T) {
	w := newDirectWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 1<<20)
		for range 201 {
			if _, err := rw.Write(piece); err != nil {
				break
			}
		}
	})
	w.d.cfg.Stream = true
	go func() {
		for range w.pieces { //nolint:revive // only their size counts
		}
	}()
	e := w.wantEnd(restEvent("GET", "/", ""), time.Minute)
	if fe := trailerError(t, e); fe.Type != "LambdaDispatch.ResponseTooLarge" {
		t.Errorf("error %+v", fe)
	}
	if e.size > 200<<20 || e.size < 199<<20 {
		t.Errorf("%d bytes were sent", e.size)
	}
	close(w.pieces)
	w.wantLines("level=ERROR|error_type=LambdaDispatch.ResponseTooLarge")
}

func TestDirectStreamLambdaTakesNothing(t *testing.T) {
	gone := make(chan struct{})
	w := newDirectWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		defer close(gone)
		for r.Context().Err() == nil {
			_, _ = rw.Write(make([]byte, 64<<10))
		}
	})
	w.d.cfg.Stream = true
	api := rawLambda(t, func(_ *bufio.Reader) string {
		return "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
	})
	w.d.api = api
	if _, err := w.handle(restEvent("GET", "/", ""), time.Minute); !errors.Is(err, errAnswered) {
		t.Error(err)
	}
	receive(t, gone, "the app to notice")
	w.wantLines("level=ERROR|error_type=LambdaDispatch.ResponseNotTaken|413")
}
