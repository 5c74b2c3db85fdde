package tests

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// sdk is a client of the local Lambda, as users have it.
func (l *localLambda) sdk() *lambda.Client {
	return lambda.New(lambda.Options{
		Region:           "local",
		BaseEndpoint:     aws.String(l.endpoint),
		Credentials:      credentials.NewStaticCredentialsProvider("any", "any", ""),
		RetryMaxAttempts: 1,
		HTTPClient:       &http.Client{Transport: wholeBodies{}},
	})
}

// wholeBodies sends requests whose bodies the SDK cannot take away: it closes a
// body as soon as it has the head of the response, and net/http then gives the
// connection up if it has not read the end of the body yet. On one machine that
// is a race.
type wholeBodies struct{}

func (wholeBodies) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil {
		return http.DefaultTransport.RoundTrip(req)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	_ = req.Body.Close()
	req = req.Clone(req.Context())
	req.Body = io.NopCloser(bytes.NewReader(body))
	return http.DefaultTransport.RoundTrip(req)
}

// responseStream is a streamed result that is being read.
type responseStream struct {
	t      *testing.T
	stream *lambda.InvokeWithResponseStreamEventStream
	end    *types.InvokeWithResponseStreamCompleteEvent
}

func (l *localLambda) invokeStream(t *testing.T, event []byte) *responseStream {
	t.Helper()
	out, err := l.sdk().InvokeWithResponseStream(t.Context(), &lambda.InvokeWithResponseStreamInput{
		FunctionName: aws.String("app"), Payload: event,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &responseStream{t: t, stream: out.GetStream()}
	t.Cleanup(func() { _ = s.stream.Close() })
	return s
}

// read returns the next piece, or io.EOF when the result is complete.
func (s *responseStream) read() ([]byte, error) {
	for event := range s.stream.Events() {
		switch e := event.(type) {
		case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
			return e.Value.Payload, nil
		case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
			s.end = &e.Value
			return nil, io.EOF
		}
	}
	return nil, errors.Join(s.stream.Err(), io.ErrUnexpectedEOF)
}

// until reads until what has come contains the text.
func (s *responseStream) until(text string) []byte {
	s.t.Helper()
	var all []byte
	for !bytes.Contains(all, []byte(text)) {
		piece, err := s.read()
		if err != nil {
			s.t.Fatalf("%v after %q, want %q", err, all, text)
		}
		all = append(all, piece...)
	}
	return all
}

// all reads the stream to its end.
func (s *responseStream) all() []byte {
	s.t.Helper()
	var all []byte
	for {
		piece, err := s.read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			s.t.Fatalf("%v after %q", err, all)
		}
		all = append(all, piece...)
	}
}

// streamedResult is a whole streamed result.
func streamedResult(t *testing.T, prelude, answer string) string {
	t.Helper()
	head, err := strconv.Unquote(prelude)
	if err != nil {
		t.Fatal(err)
	}
	return head + map[string]string{"text": eventText, "binary": eventBinary}[answer]
}

// With response_stream, sources that understand it get prelude, eight NULs and
// the bytes of the app; the others get what they would get without.
func TestEveryEventStreamed(t *testing.T) {
	l := startDirectApp(t, "AWS_LWA_INVOKE_MODE=response_stream")
	for _, f := range eventFixturesOf(t) {
		t.Run(f.name, func(t *testing.T) {
			for _, answer := range eventAnswers {
				prelude, streams := f.results[answer.name+", streamed"]
				l.app.on("", reply(answer.raw))
				s := l.invokeStream(t, f.event)
				got := s.all()
				want := f.results[answer.name]
				if want == "error" {
					if s.end.ErrorCode == nil {
						t.Errorf("%s: %s is no error", answer.name, got)
					}
					continue
				}
				if streams {
					want = streamedResult(t, prelude, answer.name)
				}
				if string(got) != want || s.end.ErrorCode != nil {
					t.Errorf("%s: the caller got %q (%s), want %q", answer.name, got, aws.ToString(s.end.ErrorCode), want)
				}
			}
		})
	}
}
