package adapter

import (
	"bytes"
	"errors"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// maxDispatchEvent is far more than a dispatch event has.
const maxDispatchEvent = 64 << 10

// events is the eventRouter of a function that serves a router's instances and
// direct events alike.
type events struct {
	dispatch eventHandler
	direct   eventHandler
}

func (e events) route(event []byte) (eventHandler, error) {
	if isDispatch(event) {
		return e.dispatch, nil
	}
	return e.direct, nil
}

var dispatchKey = []byte(`"lambda_dispatch"`)

// isDispatch reports whether an event is a dispatch event, be it a broken one.
// Other events can be large: they are not parsed for it. The key cannot be
// inside a string of theirs, where its quotes would have backslashes.
func isDispatch(event []byte) bool {
	if len(event) > maxDispatchEvent || !bytes.Contains(event, dispatchKey) {
		return false
	}
	_, err := invoke.ParseEvent(event)
	return !errors.Is(err, invoke.ErrNotDispatch)
}
