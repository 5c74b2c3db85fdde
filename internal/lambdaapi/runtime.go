package lambdaapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxEvent bounds an event: Lambda allows 6 MB for a synchronous invocation
// and adds no more than a few bytes of its own.
const maxEvent = 8 << 20

// Invocation is what Lambda says about one invocation.
type Invocation struct {
	// RequestID names the invocation in the calls that end it.
	RequestID string
	// Deadline is when Lambda kills the environment if the invocation has not
	// ended. Zero when Lambda did not say.
	Deadline time.Time
	// FunctionARN is the ARN that was invoked, with the version or alias.
	FunctionARN string
	// TraceID is the X-Ray trace header; empty when tracing is off.
	TraceID string
	// ClientContext and CognitoIdentity come from the mobile SDK as JSON;
	// usually empty.
	ClientContext, CognitoIdentity string
	// TenantID is set in tenant isolation mode only.
	TenantID string
	// Event is the payload, at most 6 MB.
	Event []byte
}

// Next waits for the next invocation, for hours if need be. The first call
// tells Lambda that the initialisation is done; every call tells it that the
// invocation before is over, after which the environment may be frozen.
func (c *Client) Next(ctx context.Context) (*Invocation, error) {
	const path = runtimeVersion + "/runtime/invocation/next"
	resp, err := c.call(ctx, http.MethodGet, path, nil, nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	h := resp.Header
	inv := &Invocation{
		RequestID:       h.Get("Lambda-Runtime-Aws-Request-Id"),
		FunctionARN:     h.Get("Lambda-Runtime-Invoked-Function-Arn"),
		TraceID:         h.Get("Lambda-Runtime-Trace-Id"),
		ClientContext:   h.Get("Lambda-Runtime-Client-Context"),
		CognitoIdentity: h.Get("Lambda-Runtime-Cognito-Identity"),
		TenantID:        h.Get("Lambda-Runtime-Aws-Tenant-Id"),
	}
	if inv.RequestID == "" {
		return nil, fmt.Errorf("GET %s: answer has no Lambda-Runtime-Aws-Request-Id", path)
	}
	if text := h.Get("Lambda-Runtime-Deadline-Ms"); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return inv, fmt.Errorf("GET %s: deadline %q is not a number of milliseconds", path, text)
		}
		inv.Deadline = time.UnixMilli(ms)
	}
	inv.Event, err = readEvent(resp)
	if err != nil {
		return inv, fmt.Errorf("GET %s: reading event: %w", path, err)
	}
	return inv, nil
}

func readEvent(resp *http.Response) ([]byte, error) {
	if resp.ContentLength > maxEvent {
		return nil, fmt.Errorf("%d bytes, more than %d", resp.ContentLength, maxEvent)
	}
	if resp.ContentLength >= 0 {
		event := make([]byte, resp.ContentLength)
		_, err := io.ReadFull(resp.Body, event)
		return event, err
	}
	event, err := io.ReadAll(io.LimitReader(resp.Body, maxEvent+1))
	if err == nil && len(event) > maxEvent {
		return nil, fmt.Errorf("more than %d bytes", maxEvent)
	}
	return event, err
}

// Respond ends an invocation with a result, at most 6 MB of JSON. Lambda
// refuses a second answer for the same invocation.
func (c *Client) Respond(ctx context.Context, requestID string, result []byte) error {
	header := http.Header{"Content-Type": {"application/json"}}
	if result == nil {
		result = []byte{}
	}
	return c.post(ctx, invocationPath(requestID, "response"), header, result)
}

// Fail ends an invocation with a function error.
func (c *Client) Fail(ctx context.Context, requestID string, e *FunctionError) error {
	return c.post(ctx, invocationPath(requestID, "error"), runtimeErrorHeader(e), encodeError(e))
}

// InitError tells Lambda that the runtime could not be initialised. It is
// allowed before the first Next only; the caller then exits.
func (c *Client) InitError(ctx context.Context, e *FunctionError) error {
	return c.post(ctx, runtimeVersion+"/runtime/init/error", runtimeErrorHeader(e), encodeError(e))
}

func invocationPath(requestID, end string) string {
	return runtimeVersion + "/runtime/invocation/" + url.PathEscape(requestID) + "/" + end
}

func runtimeErrorHeader(e *FunctionError) http.Header {
	return http.Header{
		"Content-Type": {"application/vnd.aws.lambda.error+json"},
		errorType:      {e.Type},
	}
}
