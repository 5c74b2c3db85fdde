//go:build unix

package locallambda

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// streamed is a response of InvokeWithResponseStream as it arrives.
type streamed struct {
	t      *testing.T
	events <-chan types.InvokeWithResponseStreamResponseEvent
	stream *lambda.InvokeWithResponseStreamEventStream
}

func (b *bench) invokeStream(o order, change ...func(*lambda.InvokeWithResponseStreamInput)) (*streamed, error) {
	b.t.Helper()
	in := &lambda.InvokeWithResponseStreamInput{FunctionName: aws.String("app"), Payload: marshal(o)}
	for _, c := range change {
		c(in)
	}
	out, err := b.client.InvokeWithResponseStream(b.t.Context(), in)
	if err != nil {
		return nil, err
	}
	if aws.ToString(out.ExecutedVersion) != "$LATEST" || aws.ToString(out.ResponseStreamContentType) != "application/vnd.amazon.eventstream" {
		b.t.Errorf("version %q, content type %q", aws.ToString(out.ExecutedVersion), aws.ToString(out.ResponseStreamContentType))
	}
	s := out.GetStream()
	b.t.Cleanup(func() { _ = s.Close() })
	return &streamed{t: b.t, events: s.Events(), stream: s}, nil
}

// next returns the next event; nil at the end.
func (s *streamed) next() types.InvokeWithResponseStreamResponseEvent {
	s.t.Helper()
	select {
	case event := <-s.events:
		return event
	case <-time.After(patience):
		s.t.Fatal("no event came")
		return nil
	}
}

func (s *streamed) expectChunk(want string) {
	s.t.Helper()
	chunk, ok := s.next().(*types.InvokeWithResponseStreamResponseEventMemberPayloadChunk)
	if !ok || string(chunk.Value.Payload) != want {
		s.t.Fatalf("event is %+v, want chunk %q", chunk, want)
	}
}

// rest returns the payload up to the end, and how it ended.
func (s *streamed) rest() (int, types.InvokeWithResponseStreamCompleteEvent) {
	s.t.Helper()
	total := 0
	for {
		switch event := s.next().(type) {
		case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
			total += len(event.Value.Payload)
		case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
			if after := s.next(); after != nil {
				s.t.Errorf("%+v after the end", after)
			}
			return total, event.Value
		default:
			s.t.Fatalf("the stream broke off: %v", s.stream.Err())
		}
	}
}

// expectEnd wants the end, with the given function error or none.
func (s *streamed) expectEnd(kind, message string) {
	s.t.Helper()
	n, end := s.rest()
	details := aws.ToString(end.ErrorDetails)
	switch {
	case n > 0:
		s.t.Errorf("%d more bytes", n)
	case kind == "" && (end.ErrorCode != nil || end.ErrorDetails != nil):
		s.t.Errorf("failed: %s %s", aws.ToString(end.ErrorCode), details)
	case kind != "" && (aws.ToString(end.ErrorCode) != functionError ||
		!strings.Contains(details, `"errorType":"`+kind+`"`) || !strings.Contains(details, message)):
		s.t.Errorf("ended with %s %s, want %s: %s", aws.ToString(end.ErrorCode), details, kind, message)
	}
}

// tell has the runtime do something with its stream, and returns what it says.
func (v visitor) tell(t *testing.T, line string) string {
	t.Helper()
	if _, err := fmt.Fprintln(v.conn, line); err != nil {
		t.Fatal(err)
	}
	_ = v.conn.SetReadDeadline(time.Now().Add(patience))
	answer, err := bufio.NewReader(v.conn).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Logf("the runtime: %v", err)
	}
	return strings.TrimSpace(answer)
}

// begun invokes with a stream that the test dictates; its first piece has
// arrived.
func (b *bench) begun(g *gate) (*streamed, visitor) {
	b.t.Helper()
	come := make(chan visitor, 1)
	go func() {
		v := <-g.arrived
		_, _ = fmt.Fprintln(v.conn, "say first")
		come <- v
	}()
	s, err := b.invokeStream(order{Do: "stream", Arg: g.address()})
	if err != nil {
		b.t.Fatal(err)
	}
	s.expectChunk("first")
	v := <-come
	b.t.Cleanup(func() { _ = v.conn.Close() })
	if answer, err := bufio.NewReader(v.conn).ReadString('\n'); err != nil || answer != "ok\n" {
		b.t.Fatal(answer, err)
	}
	return s, v
}
