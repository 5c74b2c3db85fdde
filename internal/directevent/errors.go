package directevent

import "fmt"

// The types of [Error], which are also what Lambda reports as error types.
const (
	// TypeBadEvent: the event is not JSON, or says that it is about an HTTP
	// request which it does not describe.
	TypeBadEvent = "LambdaDispatch.BadEvent"
	// TypeBadAnswer: the app's answer to an event that is not about an HTTP
	// request was meant as JSON and is not.
	TypeBadAnswer = "LambdaDispatch.BadAnswer"
)

// Error says why an event, or the answer to it, cannot be translated. It never
// quotes the event, which may hold secrets.
type Error struct {
	Type   string // TypeBadEvent or TypeBadAnswer
	Source Source // Unknown while it is not known
	Reason string
	Err    error // may be nil
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s event: %s", e.Source, e.Reason)
	if e.Type == TypeBadAnswer {
		text = fmt.Sprintf("answer to a %s event: %s", e.Source, e.Reason)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }
