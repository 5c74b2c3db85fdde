package directevent

import (
	"net/http"
	"strconv"
)

// PreludeType is the Content-Type of a streamed response that begins with a
// prelude.
const PreludeType = "application/vnd.awslambda.http-integration-response"

// Streams reports whether the source understands a response that begins with a
// prelude: function URLs do, and since November 2025 REST APIs. HTTP APIs,
// whose events look the same as those of function URLs but for the domain name,
// do not. Whether the source streams in fact is a matter of its configuration,
// which an event does not tell.
// https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode-lambda.html
func (e *Event) Streams() bool { return e.Source == FunctionURL || e.Source == RESTAPI }

// Prelude is the beginning of a streamed response: status and headers as JSON,
// then eight zero bytes. The bytes of the body follow as they are. It is for
// sources that stream, see [Event.Streams].
//
// Every header has one value, repeated ones joined with ", ", and cookies are
// apart: Lambda Web Adapter writes arrays for repeated headers, which AWS does
// not document. Without a Content-Type the body is application/octet-stream.
func (e *Event) Prelude(status int, h http.Header) ([]byte, error) {
	out := endToEnd(h, e.Method, status, -1)
	if out.Get("Content-Type") == "" {
		out["Content-Type"] = []string{"application/octet-stream"}
	}
	b := make([]byte, 0, 512)
	b = append(b, `{"statusCode":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = appendSingleHeaders(append(b, `,"headers":`...), out, false)
	b = appendStrings(append(b, `,"cookies":`...), out["Set-Cookie"])
	return append(b, "}\x00\x00\x00\x00\x00\x00\x00\x00"...), nil
}
