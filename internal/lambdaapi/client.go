// Package lambdaapi is a client of the HTTP APIs that AWS Lambda offers inside
// an execution environment: the Runtime API, which hands out invocations, the
// Extensions API, which announces the end of the environment, and the metadata
// endpoint, which says where it is. It knows what is on the wire and nothing else: it decides
// nothing, retries nothing and logs nothing, and it must not import the
// AWS SDK.
//
// Sources: "Using the Lambda runtime API for custom runtimes" and "Using the
// Lambda Extensions API" in the AWS Lambda developer guide.
package lambdaapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	runtimeVersion   = "/2018-06-01"
	extensionVersion = "/2020-01-01"

	// maxErrorBody bounds what is read of an answer that reports an error.
	maxErrorBody = 64 << 10
)

// Error is an answer of the API other than the one asked for. Lambda names
// its errors, for example "Extension.InvalidEventType"; decide by Type.
type Error struct {
	// Op is the call that failed, such as "GET /2018-06-01/runtime/invocation/next".
	Op string
	// Status is the HTTP status code.
	Status int
	// Type is Lambda's name of the error; empty when the body had none.
	Type string
	// Message is Lambda's text for people; may be empty.
	Message string
}

func (e *Error) Error() string {
	msg := fmt.Sprintf("%s: status %d", e.Op, e.Status)
	if e.Type != "" {
		msg += ": " + e.Type
	}
	if e.Message != "" {
		msg += ": " + e.Message
	}
	return msg
}

// FunctionError is the body of an error that a runtime or an extension
// reports to Lambda. Lambda passes it on to whoever invoked the function.
type FunctionError struct {
	// Type names the error, by convention as "Category.Reason".
	Type string `json:"errorType"`
	// Message is one line for people.
	Message string `json:"errorMessage"`
	// StackTrace may be empty; Lambda wants the field to be there.
	StackTrace []string `json:"stackTrace"`
}

func (e *FunctionError) Error() string { return e.Type + ": " + e.Message }

// Client talks to the API of one execution environment. It is safe for
// concurrent use; each call holds one connection for as long as it takes.
type Client struct {
	base string
	http *http.Client
}

// New returns a client of the API at the given address, which is the value of
// AWS_LAMBDA_RUNTIME_API: host:port, or a URL of the scheme http without a path.
// Behind a proxy of the Runtime API, which knows nothing of the Extensions API,
// there is one client for each of the two.
func New(address string) (*Client, error) {
	base := address
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(strings.TrimSuffix(base, "/"))
	if err != nil || u.Scheme != "http" || u.Host == "" || u.Path != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("runtime API address %q is not host:port", address)
	}
	transport := &http.Transport{
		// The API can be on a link-local address, which HTTP_PROXY would
		// otherwise apply to.
		Proxy:              nil,
		DialContext:        (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		DisableCompression: true,
		// Idle connections live as long as the environment: it may be frozen
		// for minutes between two calls, and the API does not close them.
		// Managed instances have one for each invocation that may be open.
		MaxIdleConnsPerHost: 256,
	}
	return &Client{base: "http://" + u.Host, http: &http.Client{Transport: transport}}, nil
}

// Close releases idle connections. Calls still under way are not affected.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call makes one request and returns the answer if its status is want. The
// caller closes the body. There is no timeout but the context's, because the
// long polls take as long as the environment lives.
func (c *Client) call(ctx context.Context, method, path string, header http.Header, body []byte, want int) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	return c.send(ctx, method, path, header, reader, nil, want)
}

// send is call for a body that may be still in the making, with trailers that
// are looked at after its end.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, body io.Reader, trailer http.Header, want int) (*http.Response, error) {
	op := method + " " + path
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	maps.Copy(req.Header, header)
	req.Trailer = trailer
	resp, err := c.http.Do(req)
	if err != nil {
		// url.Error repeats method and URL, which op already names.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if resp.StatusCode != want {
		defer discard(resp)
		return nil, readError(op, resp)
	}
	return resp, nil
}

// post is call for requests whose answer has nothing to say but its status.
func (c *Client) post(ctx context.Context, path string, header http.Header, body []byte) error {
	resp, err := c.call(ctx, http.MethodPost, path, header, body, http.StatusAccepted)
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

func readError(op string, resp *http.Response) error {
	e := &Error{Op: op, Status: resp.StatusCode}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return e // the status is what counts
	}
	var body FunctionError
	if json.Unmarshal(text, &body) == nil {
		e.Type, e.Message = body.Type, body.Message
	}
	return e
}

// discard reads what is left of a short answer, so that its connection can
// be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody) // the connection is closed if there is more
	_ = resp.Body.Close()
}

func encodeError(e *FunctionError) []byte {
	if e.StackTrace == nil {
		e = &FunctionError{Type: e.Type, Message: e.Message, StackTrace: []string{}}
	}
	body, err := json.Marshal(e)
	if err != nil { // three strings always encode
		panic(err)
	}
	return body
}
