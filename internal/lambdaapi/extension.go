package lambdaapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	extensionName  = "Lambda-Extension-Name"
	extensionID    = "Lambda-Extension-Identifier"
	extensionError = "Lambda-Extension-Function-Error-Type"
)

// EventType is a kind of event of the Extensions API.
type EventType string

// The events that an extension can ask for.
const (
	// EventInvoke comes with every invocation. Managed Instances refuse it.
	EventInvoke EventType = "INVOKE"
	// EventShutdown comes once, when the environment ends. Only external
	// extensions may ask for it; an internal one gets SIGTERM instead.
	EventShutdown EventType = "SHUTDOWN"
)

// Types of [Error] that Lambda answers to Register with status 403.
const (
	// TypeInvalidEventType: this extension may not ask for one of the events,
	// for example because it is internal.
	TypeInvalidEventType = "Extension.InvalidEventType"
	// TypeRegistrationClosed: the initialisation is over.
	TypeRegistrationClosed = "Extension.RegistrationClosed"
)

// Extension is a registered extension.
type Extension struct {
	client *Client
	id     string

	// FunctionName, FunctionVersion and Handler are what Lambda answered.
	FunctionName    string
	FunctionVersion string
	Handler         string
}

// ExtensionEvent is an event of the Extensions API.
type ExtensionEvent struct {
	// Type is EventInvoke or EventShutdown.
	Type EventType
	// Deadline is when the invocation, or on EventShutdown the environment,
	// ends. Zero when Lambda did not say.
	Deadline time.Time
	// RequestID and FunctionARN come with EventInvoke.
	RequestID, FunctionARN string
	// ShutdownReason comes with EventShutdown: spindown, timeout or failure.
	ShutdownReason string
}

// Register registers an extension. The name of an external extension must be
// that of its file in /opt/extensions: Lambda takes any other for an internal
// one, which runs inside the runtime process and may not ask for EventShutdown.
func (c *Client) Register(ctx context.Context, name string, events ...EventType) (*Extension, error) {
	if events == nil {
		events = []EventType{}
	}
	body, err := json.Marshal(struct {
		Events []EventType `json:"events"`
	}{events})
	if err != nil {
		return nil, fmt.Errorf("encoding events: %w", err)
	}
	const path = extensionVersion + "/extension/register"
	header := http.Header{extensionName: {name}, "Content-Type": {"application/json"}}
	resp, err := c.call(ctx, http.MethodPost, path, header, body, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer discard(resp)
	e := &Extension{client: c, id: resp.Header.Get(extensionID)}
	if e.id == "" {
		return nil, fmt.Errorf("POST %s: answer has no %s", path, extensionID)
	}
	var answer struct {
		FunctionName    string `json:"functionName"`
		FunctionVersion string `json:"functionVersion"`
		Handler         string `json:"handler"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("POST %s: reading answer: %w", path, err)
	}
	e.FunctionName, e.FunctionVersion, e.Handler = answer.FunctionName, answer.FunctionVersion, answer.Handler
	return e, nil
}

// Next waits for the next event. The first call tells Lambda that the
// extension is initialised; an extension that asked for no events still has
// to make it, and waits for as long as the environment lives.
func (e *Extension) Next(ctx context.Context) (*ExtensionEvent, error) {
	const path = extensionVersion + "/extension/event/next"
	resp, err := e.client.call(ctx, http.MethodGet, path, http.Header{extensionID: {e.id}}, nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer discard(resp)
	var body struct {
		EventType          EventType `json:"eventType"`
		DeadlineMs         int64     `json:"deadlineMs"`
		RequestID          string    `json:"requestId"`
		InvokedFunctionArn string    `json:"invokedFunctionArn"`
		ShutdownReason     string    `json:"shutdownReason"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&body); err != nil {
		return nil, fmt.Errorf("GET %s: reading event: %w", path, err)
	}
	ev := &ExtensionEvent{
		Type:           body.EventType,
		RequestID:      body.RequestID,
		FunctionARN:    body.InvokedFunctionArn,
		ShutdownReason: body.ShutdownReason,
	}
	if body.DeadlineMs > 0 {
		ev.Deadline = time.UnixMilli(body.DeadlineMs)
	}
	return ev, nil
}

// InitError tells Lambda that the extension could not be initialised; the
// caller then exits.
func (e *Extension) InitError(ctx context.Context, fe *FunctionError) error {
	return e.report(ctx, "/extension/init/error", fe)
}

// ExitError tells Lambda why the extension is about to exit.
func (e *Extension) ExitError(ctx context.Context, fe *FunctionError) error {
	return e.report(ctx, "/extension/exit/error", fe)
}

func (e *Extension) report(ctx context.Context, path string, fe *FunctionError) error {
	header := http.Header{
		extensionID:    {e.id},
		extensionError: {fe.Type},
		"Content-Type": {"application/vnd.aws.lambda.error+json"},
	}
	return e.client.post(ctx, extensionVersion+path, header, encodeError(fe))
}
