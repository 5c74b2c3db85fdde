package awslambda

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// kinds sorts Lambda's error codes where the HTTP status alone would mislead.
// Source: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors
var kinds = map[string]invoke.Kind{
	"TooManyRequestsException": invoke.KindThrottled,
	"EC2ThrottledException":    invoke.KindThrottled,
	"ThrottlingException":      invoke.KindThrottled,

	"AccessDeniedException":               invoke.KindDenied,
	"ExpiredTokenException":               invoke.KindDenied,
	"InvalidSignatureException":           invoke.KindDenied,
	"MissingAuthenticationTokenException": invoke.KindDenied,
	"UnrecognizedClientException":         invoke.KindDenied,

	"ResourceNotFoundException": invoke.KindMissing,

	// A function that is being created, updated or woken up: it passes.
	"CodeArtifactUserPendingException": invoke.KindService,
	"ENINotReadyException":             invoke.KindService,
	"ResourceConflictException":        invoke.KindService,
	"ResourceNotReadyException":        invoke.KindService,
	"SnapStartNotReadyException":       invoke.KindService,

	// Sent with status 502, but only a change of the function helps.
	"EC2AccessDeniedException":             invoke.KindRejected,
	"EFSMountConnectivityException":        invoke.KindRejected,
	"EFSMountFailureException":             invoke.KindRejected,
	"InvalidRuntimeException":              invoke.KindRejected,
	"InvalidSecurityGroupIDException":      invoke.KindRejected,
	"InvalidSubnetIDException":             invoke.KindRejected,
	"InvalidZipFileException":              invoke.KindRejected,
	"KMSAccessDeniedException":             invoke.KindRejected,
	"KMSDisabledException":                 invoke.KindRejected,
	"KMSInvalidStateException":             invoke.KindRejected,
	"KMSNotFoundException":                 invoke.KindRejected,
	"SubnetIPAddressLimitReachedException": invoke.KindRejected,
}

// classify turns an error of the SDK into one that the scaler can act on.
func classify(err error) *invoke.Error {
	e := &invoke.Error{Kind: invoke.KindUnreachable, Message: oneLine(err.Error()), Err: err}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		e.Code = api.ErrorCode()
		if msg := api.ErrorMessage(); msg != "" {
			e.Message = oneLine(msg)
		}
	}
	if kind, ok := kinds[e.Code]; ok {
		e.Kind = kind
		return e
	}
	if _, none := errors.AsType[*credentialsError](err); none {
		e.Kind = invoke.KindRejected // nothing left the router
		return e
	}
	if _, failed := errors.AsType[*smithyhttp.RequestSendError](err); failed {
		return e // the SDK wraps this one in a response without a status
	}
	if resp, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		e.Kind = kindOfStatus(resp.HTTPStatusCode())
		return e
	}
	// Nothing left the router, for lack of a region.
	e.Kind = invoke.KindRejected
	return e
}

func kindOfStatus(status int) invoke.Kind {
	switch {
	case status == http.StatusTooManyRequests:
		return invoke.KindThrottled
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return invoke.KindDenied
	case status == http.StatusNotFound:
		return invoke.KindMissing
	case status >= 400 && status < 500:
		return invoke.KindRejected
	default:
		return invoke.KindService
	}
}

// functionError reads the payload that Lambda returns when it has run the
// function and the function failed.
// Source: https://docs.aws.amazon.com/lambda/latest/dg/invocation-retries.html
func functionError(payload []byte) *invoke.Error {
	e := &invoke.Error{Kind: invoke.KindFunction}
	var body struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}
	if err := json.Unmarshal(payload, &body); err != nil {
		e.Message = "the function failed without saying why"
		e.Err = err
		return e
	}
	e.Code, e.Message = body.Type, oneLine(body.Message)
	return e
}

// maxMessage keeps a stack trace in an error message out of the log.
const maxMessage = 400

// oneLine makes a message of somebody else's fit for one log line.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsControl(r)
	}), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
