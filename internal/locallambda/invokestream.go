package locallambda

import (
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream/eventstreamapi"
)

// respondStream answers InvokeWithResponseStream: what the runtime streams, as
// it comes, and how it ended. A response that the runtime does not stream is
// one piece.
// https://docs.aws.amazon.com/lambda/latest/api/API_InvokeWithResponseStream.html
func respondStream(w http.ResponseWriter, r *http.Request, inv *invocation, tail bool) *apiError {
	defer close(inv.stream.left)
	events := &eventWriter{w: w, encoder: eventstream.NewEncoder()}
	for {
		select {
		case piece := <-inv.stream.pieces:
			if events.chunk(piece) != nil {
				return nil // nobody listens any more
			}
		case <-inv.done:
			res := inv.result
			if res.refused != nil && !events.begun {
				return res.refused
			}
			if len(res.payload) > 0 && events.chunk(res.payload) != nil {
				return nil
			}
			events.complete(inv.id, res, tail)
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// eventWriter writes the event stream of a response.
type eventWriter struct {
	w       http.ResponseWriter
	encoder *eventstream.Encoder
	begun   bool // the response has its header
}

// chunk writes a PayloadChunk event.
func (e *eventWriter) chunk(payload []byte) error {
	return e.event("PayloadChunk", "application/octet-stream", payload)
}

// complete writes the InvokeComplete event. Its error is that of the client,
// who has left.
func (e *eventWriter) complete(requestID string, res result, tail bool) {
	// What Invoke says in the header X-Amz-Function-Error and in the payload.
	var end struct {
		ErrorCode    string `json:",omitempty"`
		ErrorDetails string `json:",omitempty"`
		LogResult    string `json:",omitempty"`
	}
	switch {
	case res.refused != nil:
		end.ErrorCode, end.ErrorDetails = res.refused.code, res.refused.message
	case res.failed != nil:
		end.ErrorCode, end.ErrorDetails = functionError, string(res.failed.document(requestID))
	}
	if tail {
		end.LogResult = string(res.log)
	}
	_ = e.event("InvokeComplete", "application/json", marshal(end))
}

func (e *eventWriter) event(kind, contentType string, payload []byte) error {
	if !e.begun {
		e.begun = true
		h := e.w.Header()
		h.Set("Content-Type", "application/vnd.amazon.eventstream")
		h.Set("X-Amz-Executed-Version", latest)
		e.w.WriteHeader(http.StatusOK)
	}
	msg := eventstream.Message{Payload: payload}
	msg.Headers.Set(eventstreamapi.MessageTypeHeader, eventstream.StringValue(eventstreamapi.EventMessageType))
	msg.Headers.Set(eventstreamapi.EventTypeHeader, eventstream.StringValue(kind))
	msg.Headers.Set(eventstreamapi.ContentTypeHeader, eventstream.StringValue(contentType))
	if err := e.encoder.Encode(e.w, msg); err != nil {
		return err
	}
	return http.NewResponseController(e.w).Flush()
}
