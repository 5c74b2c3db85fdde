//go:build unix

package locallambda

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

func TestStreamIsLive(t *testing.T) {
	b := newBench(t)
	b.deploy()
	s, v := b.begun(newGate(t))
	for i := range 3 {
		v.tell(t, fmt.Sprint("say piece ", i))
		s.expectChunk(fmt.Sprint("piece ", i)) // the runtime has not ended
	}
	if info := b.only(); info.State != StateInvoking || info.Running != 1 {
		t.Errorf("environment is %+v", info)
	}
	if got := v.tell(t, "close"); got != "ended <nil>" {
		t.Errorf("the runtime got %q", got)
	}
	s.expectEnd("", "")
	if a := b.invoke(order{}); a.Count != 2 {
		t.Errorf("the next invocation is the environment's %d.", a.Count)
	}
}

func TestStreamsThatBreakOff(t *testing.T) {
	for _, c := range []struct{ order, says, kind, message string }{
		{"fail", "ended <nil>", "App.Broken", "half way"},
		{"cut", "ended POST ", "Runtime.TruncatedResponse", "the response broke off"},
		{"exit", "", "Runtime.ExitError", "exit status 9"},
	} {
		t.Run(c.order, func(t *testing.T) {
			b := newBench(t)
			b.deploy()
			s, v := b.begun(newGate(t))
			if says := v.tell(t, c.order); !strings.HasPrefix(says, c.says) {
				t.Errorf("the runtime says %q", says)
			}
			s.expectEnd(c.kind, c.message)
			_ = v.conn.Close()
			b.invoke(order{}) // the function goes on
		})
	}
	t.Run("timeout", func(t *testing.T) {
		b := newBench(t)
		b.deploy(func(f *Function) { f.Timeout = time.Second })
		s, v := b.begun(newGate(t))
		s.expectEnd("Sandbox.Timedout", "Task timed out after 1.00 seconds")
		v.waitEnd(t)
	})
	t.Run("close", func(t *testing.T) {
		b := newBench(t)
		b.deploy()
		s, v := b.begun(newGate(t))
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		v.waitEnd(t)
		if _, end := s.rest(); aws.ToString(end.ErrorCode) != "ServiceException" {
			t.Errorf("ended with %+v", end)
		}
	})
}

// A runtime that does not stream can be invoked with a stream, and the other way
// round.
func TestBothKindsOfResponses(t *testing.T) {
	b := newBench(t)
	b.deploy()
	s, err := b.invokeStream(order{Do: "body"})
	if err != nil {
		t.Fatal(err)
	}
	s.expectChunk(string(marshal(order{Do: "body"})))
	s.expectEnd("", "")
	if s, err = b.invokeStream(order{Do: "error"}); err != nil {
		t.Fatal(err)
	}
	s.expectEnd("App.Broken", "it broke")

	g := newGate(t)
	go func() {
		v := <-g.arrived
		defer v.conn.Close()
		_, _ = io.WriteString(v.conn, "say {}\x00\x00\x00\x00\x00\x00\x00\x00\nsay whole\nclose\n")
		_, _ = io.Copy(io.Discard, v.conn)
	}()
	out, err := b.call(order{Do: "stream", Arg: g.address()})
	if err != nil || out.FunctionError != nil || string(out.Payload) != "{}\x00\x00\x00\x00\x00\x00\x00\x00whole" {
		t.Errorf("%+v, %v", out, err)
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestStreamLimits(t *testing.T) {
	for _, c := range []struct {
		size    int
		streams bool
		err     error
	}{
		{maxStream, true, nil},
		{maxStream + 1, true, errAnswerSize},
		{maxResponse, false, nil},
		{maxResponse + 1, false, errAnswerSize},
	} {
		inv, limit := testInvocation("1"), maxResponse
		got := make(chan int, 1)
		if c.streams {
			inv.stream, limit = newStream(), maxStream
			go func() {
				total := 0
				for piece := range inv.stream.pieces {
					total += len(piece)
				}
				got <- total
			}()
		}
		payload, err := receive(io.LimitReader(zeros{}, int64(c.size)), inv, limit)
		n := len(payload)
		if c.streams {
			close(inv.stream.pieces)
			n = <-got
		}
		if !errors.Is(err, c.err) || err == nil && n != c.size {
			t.Errorf("%d of %d bytes, %v", n, c.size, err)
		}
	}

	b := newBench(t)
	b.deploy()
	g := newGate(t)
	go func() {
		v := <-g.arrived
		defer v.conn.Close()
		_, _ = fmt.Fprintf(v.conn, "flood %d\nclose\n", maxResponse+1)
		_, _ = io.Copy(io.Discard, v.conn)
	}()
	if kind, _ := b.fail(order{Do: "stream", Arg: g.address()}); kind != "Function.ResponseSizeTooLarge" {
		t.Errorf("a large stream to a caller who wants all at once: %s", kind)
	}
}

// A caller who does not read stops the runtime.
func TestSlowCallersSlowTheRuntimeDown(t *testing.T) {
	b := newBench(t)
	b.deploy()
	s, v := b.begun(newGate(t))
	_, _ = fmt.Fprintf(v.conn, "flood %d\n", 20<<20)
	_ = v.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := v.conn.Read(make([]byte, 1)); err == nil {
		t.Error("20 MB went to nobody")
	}
	total := 0
	for total < 20<<20 {
		chunk, ok := s.next().(*types.InvokeWithResponseStreamResponseEventMemberPayloadChunk)
		if !ok {
			t.Fatal("the stream broke off")
		}
		total += len(chunk.Value.Payload)
	}
	if got := v.tell(t, "close"); !strings.HasPrefix(got, "ok") { // of the flood
		t.Errorf("the runtime got %q", got)
	}
	s.expectEnd("", "")
}

func TestStreamOutlivesItsCaller(t *testing.T) {
	b := newBench(t)
	b.deploy()
	s, v := b.begun(newGate(t))
	if err := s.stream.Close(); err != nil {
		t.Fatal(err)
	}
	if got := v.tell(t, fmt.Sprint("flood ", 10<<20)); got != "ok" {
		t.Errorf("the runtime got %q", got)
	}
	if got := v.tell(t, "close"); got != "ended <nil>" {
		t.Errorf("the runtime got %q", got)
	}
	eventually(t, "the invocation ends", func() bool { return b.only().State == StateIdle })
	if a := b.invoke(order{}); a.Count != 2 {
		t.Errorf("the next invocation is the environment's %d.", a.Count)
	}
}

func TestStreamRefusals(t *testing.T) {
	b := newBench(t)
	b.deploy()
	_, err := b.invokeStream(order{}, func(in *lambda.InvokeWithResponseStreamInput) { in.FunctionName = aws.String("other") })
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
		t.Error(err)
	}
	_, err = b.invokeStream(order{}, func(in *lambda.InvokeWithResponseStreamInput) { in.InvocationType = "Event" })
	if _, ok := errors.AsType[*types.InvalidParameterValueException](err); !ok {
		t.Error(err)
	}
	_, err = b.invokeStream(order{}, func(in *lambda.InvokeWithResponseStreamInput) { in.Payload = []byte("{") })
	if _, ok := errors.AsType[*types.InvalidRequestContentException](err); !ok {
		t.Error(err)
	}
	if n := len(b.Environments("app")); n != 0 {
		t.Errorf("there are %d environments", n)
	}
}

// On the wire, without the SDK.
func TestEventStreamOnTheWire(t *testing.T) {
	b := newBench(t)
	b.deploy()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost,
		b.url+"/2021-11-15/functions/app/response-streaming-invocations", strings.NewReader(`{"do":"print","arg":"hello"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Amz-Log-Type", "Tail")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Amzn-Requestid") == "" || resp.Header.Get("X-Amz-Executed-Version") != "$LATEST" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	dec := eventstream.NewDecoder()
	for _, want := range []string{
		`[{:message-type event} {:event-type PayloadChunk} {:content-type application/octet-stream}] {"pid"`,
		`[{:message-type event} {:event-type InvokeComplete} {:content-type application/json}] {"LogResult":"`,
	} {
		msg, err := dec.Decode(resp.Body, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%v %s", msg.Headers, msg.Payload); !strings.HasPrefix(got, want) {
			t.Errorf("%s\nwant %s", got, want)
		}
		if _, log, ok := strings.Cut(string(msg.Payload), `"LogResult":"`); ok {
			text, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(log, `"}`))
			if err != nil || !strings.Contains(string(text), "hello\n") {
				t.Errorf("log is %q, %v", text, err)
			}
		}
	}
	if _, err := dec.Decode(resp.Body, nil); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}
