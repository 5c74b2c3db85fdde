package locallambda

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"time"
)

// apiError is a refusal of the Invoke API: what the SDKs turn into their typed
// errors. The function has not run.
type apiError struct {
	status  int
	code    string // name of the exception
	message string
	// upper says that the exception's message member is called "Message":
	// Lambda's model spells it both ways, and SDKs read the one they expect.
	upper  bool
	reason string // TooManyRequestsException only
	retry  time.Duration
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func (e *apiError) write(w http.ResponseWriter) {
	body := map[string]string{"Type": "User"}
	if e.status >= http.StatusInternalServerError {
		body["Type"] = "Service"
	}
	if e.upper {
		body["Message"] = e.message
	} else {
		body["message"] = e.message
	}
	if e.reason != "" {
		body["Reason"] = e.reason
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-Errortype", e.code)
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(e.retry.Seconds()))))
	}
	w.WriteHeader(e.status)
	writeJSON(w, body)
}

func errNotFound(ref reference) *apiError {
	return &apiError{
		status: http.StatusNotFound, code: "ResourceNotFoundException",
		message: "Function not found: " + ref.arn(), upper: true,
	}
}

func errUnknownOperation(method, path string) *apiError {
	return &apiError{
		status: http.StatusNotFound, code: "UnknownOperationException",
		message: "The local Lambda does not know " + method + " " + path,
	}
}

func errValidation(err error) *apiError {
	return &apiError{
		status: http.StatusBadRequest, code: "ValidationException",
		message: "1 validation error detected: " + err.Error(),
	}
}

func errInvalidParameter(message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "InvalidParameterValueException", message: message}
}

func errInvalidContent(message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "InvalidRequestContentException", message: message}
}

func errTooLarge(size int64, kind invocationType, limit int) *apiError {
	return &apiError{
		status: http.StatusRequestEntityTooLarge, code: "RequestTooLargeException",
		message: fmt.Sprintf("%d byte payload is too large for the %s invocation type (limit %d bytes)", size, kind, limit),
	}
}

func errThrottled() *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, code: "TooManyRequestsException",
		message: "Rate Exceeded.", reason: "ReservedFunctionConcurrentInvocationLimitExceeded",
		retry: time.Second,
	}
}

// errRestore and errRestoreTimeout say that an environment could not be restored
// from its snapshot.
// https://docs.aws.amazon.com/lambda/latest/dg/snapstart-troubleshooting.html
func errRestore(cause *failure) *apiError {
	return &apiError{
		status: http.StatusBadRequest, code: "SnapStartException",
		message: "An error occurred while restoring the environment: " + string(cause.document("")), upper: true,
	}
}

func errRestoreTimeout(d time.Duration) *apiError {
	return &apiError{
		status: http.StatusRequestTimeout, code: "SnapStartTimeoutException",
		message: fmt.Sprintf("The environment was not restored within %.2f seconds", d.Seconds()), upper: true,
	}
}

func errService(err error) *apiError {
	return &apiError{
		status: http.StatusInternalServerError, code: "ServiceException",
		message: err.Error(), upper: true,
	}
}

// failure is a function error: the function was run and did not answer. Its
// types are Lambda's.
type failure struct {
	kind    string
	message string
	payload []byte // the error document that the runtime itself posted, if it did
}

func (f *failure) Error() string { return f.kind + ": " + f.message }

// document is the payload that Invoke returns for the failure.
func (f *failure) document(requestID string) []byte {
	if len(f.payload) > 0 {
		return f.payload
	}
	message := f.message
	if requestID != "" {
		message = "RequestId: " + requestID + " Error: " + f.message
	}
	return marshal(errorDocument{Type: f.kind, Message: message})
}

func failTimeout(d time.Duration) *failure {
	return &failure{kind: "Sandbox.Timedout", message: fmt.Sprintf("Task timed out after %.2f seconds", d.Seconds())}
}

func failInitTimeout(d time.Duration) *failure {
	return &failure{kind: "Sandbox.Timedout", message: fmt.Sprintf("Init phase timed out after %.2f seconds", d.Seconds())}
}

// failTruncated is the failure of a streamed response that broke off without
// saying why.
func failTruncated() *failure {
	return &failure{kind: kindTruncated, message: "the response broke off"}
}

const kindTruncated = "Runtime.TruncatedResponse"

func failResponseSize(limit int) *failure {
	f := &failure{
		kind:    "Function.ResponseSizeTooLarge",
		message: fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", limit),
	}
	f.payload = f.document("") // AWS names no request here
	return f
}

// failExit is the failure that a process's end causes.
func failExit(x exit) *failure {
	if x.extension == "" {
		if x.err == nil {
			return &failure{kind: "Runtime.ExitError", message: "Runtime exited without providing a reason"}
		}
		return &failure{kind: "Runtime.ExitError", message: "Runtime exited with error: " + exitText(x.err)}
	}
	if x.err == nil {
		return &failure{kind: "Extension.Crash", message: "extension " + x.extension + " exited"}
	}
	return &failure{kind: "Extension.Crash", message: "extension " + x.extension + " exited with error: " + exitText(x.err)}
}

func exitText(err error) string {
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return ee.String()
	}
	return err.Error()
}

// errorDocument is the error format of the Runtime API and of function errors.
type errorDocument struct {
	Type    string `json:"errorType,omitempty"`
	Message string `json:"errorMessage"`
}

// marshal encodes values that cannot fail to encode.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("locallambda: " + err.Error())
	}
	return b
}

// writeJSON ends a response. A client that is gone is not an error here.
func writeJSON(w http.ResponseWriter, v any) {
	_, _ = w.Write(marshal(v))
}
