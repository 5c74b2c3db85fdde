package locallambda

import (
	"context"
	"net/http"
)

// extension is an extension that has registered.
type extension struct {
	name     string
	external bool
	invoke   bool                // wants INVOKE
	shutdown bool                // wants SHUTDOWN
	events   chan extensionEvent // capacity 2: one of each kind at most

	// Guarded by session.mu.

	idle bool // has asked for the next event
}

// extensionEvent is what GET /event/next returns.
type extensionEvent struct {
	Type       string            `json:"eventType"`
	DeadlineMS int64             `json:"deadlineMs"`
	RequestID  string            `json:"requestId,omitempty"`
	ARN        string            `json:"invokedFunctionArn,omitempty"`
	Tracing    map[string]string `json:"tracing,omitempty"`
	Reason     string            `json:"shutdownReason,omitempty"`
}

// Event types of the Extensions API.
const (
	eventInvoke   = "INVOKE"
	eventShutdown = "SHUTDOWN"
)

// register makes an extension known and returns its identifier.
func (s *session) register(name string, events []string) (string, error) {
	if name == "" {
		return "", refuse(http.StatusForbidden, "Extension.InvalidExtensionName", "the extension has no name")
	}
	x := &extension{name: name, external: s.external[name], events: make(chan extensionEvent, 2)}
	for _, event := range events {
		switch {
		case event == eventInvoke && s.concurrency == 1: // there is no one invocation at a time to hear of
			x.invoke = true
		case event == eventShutdown && x.external:
			x.shutdown = true
		default: // an internal extension shares the runtime's fate and hears of no shutdown
			return "", refuse(http.StatusForbidden, "Extension.InvalidEventType", "%s: not an event for this extension", event)
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.initOver() {
		return "", refuse(http.StatusForbidden, "Extension.RegistrationClosed", "the init phase is over")
	}
	for _, other := range s.extensions {
		if other.name == name {
			return "", refuse(http.StatusForbidden, "Extension.InvalidExtensionState", "extension %s has registered already", name)
		}
	}
	if len(s.extensions) >= maxExtensions {
		return "", refuse(http.StatusForbidden, "Extension.TooManyExtensions", "more than %d extensions", maxExtensions)
	}
	id := newUUID()
	s.extensions[id] = x
	s.notify()
	return id, nil
}

func (s *session) extension(id string) (*extension, error) {
	if id == "" {
		return nil, refuse(http.StatusForbidden, "Extension.MissingExtensionIdentifier", "the header %s is missing", headerExtensionID)
	}
	if len(id) != len("00000000-0000-0000-0000-000000000000") {
		return nil, refuse(http.StatusForbidden, "Extension.InvalidExtensionIdentifier", "%q is not an identifier", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.extensions[id]
	if x == nil {
		return nil, refuse(http.StatusForbidden, "Extension.UnknownExtensionIdentifier", "there is no extension %s", id)
	}
	return x, nil
}

// nextEvent returns the extension's next event. The first call ends its init
// phase, later ones its part in an invocation.
func (s *session) nextEvent(ctx context.Context, id string) (extensionEvent, error) {
	x, err := s.extension(id)
	if err != nil {
		return extensionEvent{}, err
	}
	s.mu.Lock()
	// An event that waits to be fetched, after a poll that broke off, keeps
	// the extension busy.
	x.idle = len(x.events) == 0
	s.mu.Unlock()
	s.notify()
	select {
	case event := <-x.events:
		return event, nil
	case <-ctx.Done():
		return extensionEvent{}, ctx.Err()
	case <-s.ended:
		return extensionEvent{}, errEnded
	}
}

// extensionError reports that an extension cannot go on, which ends the
// environment.
func (s *session) extensionError(id string, f *failure) error {
	if _, err := s.extension(id); err != nil {
		return err
	}
	s.mu.Lock()
	if s.failure == nil {
		s.failure = f
	}
	s.mu.Unlock()
	s.notify()
	return nil
}
