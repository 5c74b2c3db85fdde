package lambdaapi

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// Content types of a streamed response. The first is what Lambda reads a
// prelude of: JSON with status and header, eight NUL bytes, then the body.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
const (
	ContentTypeHTTP  = "application/vnd.awslambda.http-integration-response"
	ContentTypeBytes = "application/octet-stream"
)

const (
	responseMode = "Lambda-Runtime-Function-Response-Mode"
	errorType    = "Lambda-Runtime-Function-Error-Type"
	errorBody    = "Lambda-Runtime-Function-Error-Body"
)

// errAnsweredEarly is the end of a stream that Lambda accepts before it is
// complete, which it never should.
var errAnsweredEarly = errors.New("lambda ended the response before it was complete")

// ResponseStream is a streamed response under way. It belongs to one goroutine,
// which must end it with Close or Fail unless the context of RespondStream ends.
type ResponseStream struct {
	body    *io.PipeWriter
	cause   func() error   // why the context has ended, if it has
	ended   atomic.Bool    // by this side
	failure *FunctionError // set before the end, if at all

	done chan struct{} // closed once err is set
	err  error
}

// RespondStream begins a streamed response, at most 200 MB; it takes the place
// of Respond. Nothing of it can be taken back: an error after this is reported
// with ResponseStream.Fail, not with Client.Fail. An empty content type means
// ContentTypeBytes. The stream breaks off when ctx ends, which Lambda takes for
// a truncated response.
//
// Source: "Response streaming" in "Building a custom runtime for AWS Lambda",
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
func (c *Client) RespondStream(ctx context.Context, requestID, contentType string) *ResponseStream {
	if contentType == "" {
		contentType = ContentTypeBytes
	}
	r, w := io.Pipe()
	s := &ResponseStream{body: w, cause: func() error { return context.Cause(ctx) }, done: make(chan struct{})}
	header := http.Header{"Content-Type": {contentType}, responseMode: {"streaming"}}
	body := &streamBody{r: r, stream: s, trailer: http.Header{errorType: nil, errorBody: nil}}
	// The transport waits for its read of the body even when it has given up.
	release := context.AfterFunc(ctx, func() { _ = r.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer release()
		defer close(s.done)
		resp, err := c.send(ctx, http.MethodPost, invocationPath(requestID, "response"), header, body, body.trailer, http.StatusAccepted)
		if err == nil {
			discard(resp)
		}
		s.finish(r, err)
	}()
	return s
}

// finish ends the writing side, whoever caused the end.
func (s *ResponseStream) finish(r *io.PipeReader, err error) {
	if err == nil && !s.ended.Load() {
		err = errAnsweredEarly
	}
	s.err = err
	_ = r.CloseWithError(err) // nil closes as well, after the end
}

// Write sends p at once, and returns when it is on its way: a Lambda that takes
// no more makes it wait. Once it has failed, it fails for good.
func (s *ResponseStream) Write(p []byte) (int, error) { return s.body.Write(p) }

// Close completes the response and waits until Lambda has accepted it.
func (s *ResponseStream) Close() error {
	s.ended.Store(true)
	_ = s.body.CloseWithError(s.cause()) // no error is a complete response
	<-s.done
	return s.err
}

// Fail ends the response with a function error, in its trailers, and waits
// until Lambda has accepted that. What was written before stays sent.
func (s *ResponseStream) Fail(e *FunctionError) error {
	if !s.ended.Load() {
		s.failure = e
	}
	return s.Close()
}

// streamBody is what the transport reads. It has no Close, which would end the
// writing side with an error that says nothing.
type streamBody struct {
	r       *io.PipeReader
	stream  *ResponseStream
	trailer http.Header
}

// Read sets the trailers at the end, which is the one moment when the transport
// does not look at them.
func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if f := b.stream.failure; f != nil {
		b.trailer.Set(errorType, f.Type)
		b.trailer.Set(errorBody, base64.StdEncoding.EncodeToString(encodeError(f)))
	}
	return n, err
}
