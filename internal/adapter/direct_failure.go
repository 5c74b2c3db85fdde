package adapter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// failureKind is one way in which a direct event can fail, and how it is told.
type failureKind struct {
	name    string // Lambda's error type
	status  int    // for HTTP clients; 0: the app's
	level   slog.Level
	message string
}

// What can go wrong. The messages go to clients, so they name no address.
var (
	badEvent = &failureKind{directevent.TypeBadEvent, http.StatusBadRequest, slog.LevelWarn,
		"the event cannot be made a request"}
	eventTooLarge = &failureKind{"LambdaDispatch.EventTooLarge", http.StatusRequestEntityTooLarge, slog.LevelWarn,
		"the event has more than 6 MB"}
	appNotReady = &failureKind{"LambdaDispatch.AppNotReady", http.StatusServiceUnavailable, slog.LevelError,
		"the app was not ready in time"}
	appUnavailable = &failureKind{"LambdaDispatch.AppUnavailable", http.StatusServiceUnavailable, slog.LevelError,
		"the app cannot be reached"}
	appFailed = &failureKind{"LambdaDispatch.AppFailed", http.StatusBadGateway, slog.LevelError,
		"the app gave no valid answer"}
	appTimeout = &failureKind{"LambdaDispatch.AppTimeout", http.StatusGatewayTimeout, slog.LevelError,
		"the app had not answered when the invocation's time was up"}
	responseTooLarge = &failureKind{"LambdaDispatch.ResponseTooLarge", http.StatusBadGateway, slog.LevelError,
		"the app's answer is larger than the source of the event takes"}
	badAnswer = &failureKind{directevent.TypeBadAnswer, http.StatusBadGateway, slog.LevelError,
		"the app's answer was meant as JSON and is not"}
	errorStatus = &failureKind{"LambdaDispatch.ErrorStatus", 0, slog.LevelWarn,
		"the app answered with a status that fails the invocation"}
	shuttingDown = &failureKind{"LambdaDispatch.ShuttingDown", http.StatusServiceUnavailable, slog.LevelWarn,
		"the environment was shut down"}
	notTaken = &failureKind{"LambdaDispatch.ResponseNotTaken", http.StatusBadGateway, slog.LevelError,
		"lambda did not take the answer"}
)

// failure is why a direct event has no answer of the app.
type failure struct {
	kind   *failureKind
	status int    // the app's; 0 if it gave none
	body   []byte // the app's, of errorStatus
	err    error  // for the operator; may be nil
}

// statusCode is what an HTTP client sees, or what the app said.
func (f *failure) statusCode() int {
	if f.kind.status != 0 {
		return f.kind.status
	}
	return f.status
}

// page is the body that HTTP clients see. The cause may name addresses and
// files, so it is for the log.
func (f *failure) page() []byte {
	return encode(struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}{f.kind.name, f.kind.message})
}

// encode encodes what always can be.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// functionError is what the invoker sees, who is the operator or a service of
// AWS.
func (f *failure) functionError() *lambdaapi.FunctionError {
	e := &lambdaapi.FunctionError{Type: f.kind.name, Message: f.kind.message}
	switch {
	case f.kind == errorStatus:
		e.Message = statusMessage(f.status, f.body)
	case f.err != nil:
		e.Message += ": " + f.err.Error()
	}
	return e
}

// maxErrorBody bounds how much of an answer fails the invocation: Lambda takes
// 6 MB, and some bytes become several.
const maxErrorBody = 512 << 10

// statusMessage is the message of an answer that fails the invocation, in the
// form that users of Lambda Web Adapter know: JSON in a string.
func statusMessage(status int, body []byte) string {
	body = body[:min(len(body), maxErrorBody)]
	return string(encode(struct {
		StatusCode int    `json:"statusCode"`
		Body       string `json:"body"`
	}{status, string(bytes.ToValidUTF8(body, []byte("\ufffd")))}))
}

// blame finds out why the app's answer did not come, or not to its end.
func (x *direct) blame(ctx context.Context, code string, err error, down <-chan struct{}) *failure {
	status := x.ans.status
	if x.ans.err != nil {
		return x.ans.failure(x.ans.err)
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTimeUp):
		x.d.doubt.Store(true)
		return &failure{kind: appTimeout, status: status}
	case errors.Is(cause, errShuttingDown):
		return &failure{kind: shuttingDown, status: status}
	}
	select {
	case <-down: // which says more than what became of the connection
		err = fmt.Errorf("%w (%w)", err, x.d.app.lastCause())
	default:
	}
	select {
	case <-x.stopping: // the app was told as well, and may have been quicker
		return &failure{kind: shuttingDown, status: status, err: err}
	default:
	}
	switch code {
	case appproxy.CodeUnavailable:
		return &failure{kind: appUnavailable, err: err}
	case appproxy.CodeRefused:
		return &failure{kind: badEvent, err: err}
	}
	return &failure{kind: appFailed, status: status, err: err}
}

// pathOf is the target of a request without its query.
func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}
