package locallambda

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
)

// pieceSize is how much of a streamed response is passed on at once.
const pieceSize = 32 << 10

// stream carries a streamed response from the runtime to a caller who takes it
// as it comes. Nothing waits in between: a slow caller slows the runtime down.
type stream struct {
	pieces chan []byte
	left   chan struct{} // closed when the caller takes no more
}

func newStream() *stream {
	return &stream{pieces: make(chan []byte), left: make(chan struct{})}
}

// send hands a piece to the caller, who keeps it. It is dropped once the caller
// has left or the invocation has ended without it.
func (s *stream) send(piece []byte, over <-chan struct{}) {
	select {
	case s.pieces <- piece:
	case <-s.left:
	case <-over:
	}
}

// serveStream takes a streamed response. What has been passed on cannot be
// taken back, so however it ends it is the answer.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
func (p *processAPI) serveStream(w http.ResponseWriter, r *http.Request, d *delivery) {
	limit := maxResponse
	if d.inv.stream != nil {
		limit = maxStream
	}
	payload, err := receive(r.Body, d.inv, limit)
	switch {
	case errors.Is(err, errAnswerSize):
		p.settle(d, result{failed: failResponseSize(limit)})
		writeRefusal(w, refuse(errAnswerSize.status, errAnswerSize.kind, "Exceeded maximum allowed payload size (%d bytes).", limit))
	case err != nil:
		p.settle(d, result{failed: failTruncated()})
		writeRefusal(w, refuse(http.StatusBadRequest, "InvalidRequestFormat", "reading the body: %s", err))
	default:
		p.settle(d, ended(r.Trailer, payload))
		writeAccepted(w)
	}
}

// receive reads a streamed response and passes it on, or returns it if the
// caller wants all of it at once.
func receive(body io.Reader, inv *invocation, limit int) (payload []byte, err error) {
	for total := 0; ; {
		piece := make([]byte, pieceSize)
		n, err := body.Read(piece)
		piece = piece[:n]
		switch total += n; {
		case total > limit:
			_, _ = io.Copy(io.Discard, io.LimitReader(body, maxDiscard)) // the runtime is still sending
			return nil, errAnswerSize
		case n > 0 && inv.stream == nil:
			payload = append(payload, piece...)
		case n > 0:
			inv.stream.send(piece, inv.done)
		}
		if errors.Is(err, io.EOF) {
			return payload, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// ended is the result of a streamed response that came to its end. One that
// failed says so in its trailers.
func ended(trailer http.Header, payload []byte) result {
	kind := trailer.Get(headerFunctionError)
	if kind == "" {
		return result{payload: payload}
	}
	text, err := base64.StdEncoding.DecodeString(trailer.Get(headerErrorBody))
	if err != nil {
		text = nil
	}
	return result{failed: &failure{kind: kind, message: "the response broke off", payload: text}}
}
