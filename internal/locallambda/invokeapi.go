package locallambda

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// operation is one of the two ways to invoke a function.
type operation struct {
	prefix, suffix string // of the path, around the function
	streams        bool
}

var operations = []operation{
	{prefix: "/2015-03-31/functions/", suffix: "/invocations"},
	{prefix: "/2021-11-15/functions/", suffix: "/response-streaming-invocations", streams: true},
}

const (
	// functionError is what callers are told of every function error.
	functionError = "Unhandled"

	maxClientContext = 3583 // bytes of base64, of the API reference

	// How much of a refused payload is read so that the client, which is still
	// sending, sees the refusal and not a broken connection.
	maxDiscard = 64 << 20
)

// ServeHTTP implements the operations Invoke and InvokeWithResponseStream of
// Lambda's API. Invocations go on when their caller leaves, as on AWS.
// https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := newUUID()
	w.Header().Set("X-Amzn-Requestid", id)
	if err := s.serveInvoke(w, r, id); err != nil {
		err.write(w)
	}
}

func (s *Service) serveInvoke(w http.ResponseWriter, r *http.Request, id string) *apiError {
	ref, op, refused := parseTarget(r)
	if refused != nil {
		return refused
	}
	// A function that does not exist is said to be missing before its payload
	// is looked at.
	if refused := s.known(ref); refused != nil {
		return refused
	}
	kind, refused := parseType(r, op)
	if refused != nil {
		return refused
	}
	inv, refused := readInvocation(r, kind)
	if refused != nil {
		return refused
	}
	if kind == typeDryRun {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	inv.id, inv.arn = id, ref.arn()
	if op.streams {
		inv.stream = newStream()
	}
	if refused := s.submit(ref, inv); refused != nil {
		return refused
	}
	w.Header().Set("X-Amzn-Trace-Id", inv.trace)
	tail := r.Header.Get("X-Amz-Log-Type") == "Tail"
	switch {
	case inv.async:
		w.WriteHeader(http.StatusAccepted)
		return nil
	case op.streams:
		return respondStream(w, r, inv, tail)
	default:
		return respond(w, r, inv, tail)
	}
}

// parseType reads the invocation type.
func parseType(r *http.Request, op operation) (invocationType, *apiError) {
	kind := invocationType(r.Header.Get("X-Amz-Invocation-Type"))
	switch kind {
	case "":
		return typeRequestResponse, nil
	case typeRequestResponse, typeDryRun:
		return kind, nil
	case typeEvent:
		if !op.streams {
			return kind, nil
		}
	}
	return "", errInvalidParameter(fmt.Sprintf("invocation type %q is not one of this operation", kind))
}

// respond answers Invoke.
func respond(w http.ResponseWriter, r *http.Request, inv *invocation, tail bool) *apiError {
	select {
	case <-inv.done:
	case <-r.Context().Done():
		return nil // nobody listens any more
	}
	res := inv.result
	if res.refused != nil {
		return res.refused
	}
	h := w.Header()
	payload := res.payload
	if res.failed != nil {
		h.Set("X-Amz-Function-Error", functionError)
		payload = res.failed.document(inv.id)
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Amz-Executed-Version", latest)
	if tail {
		h.Set("X-Amz-Log-Result", string(res.log))
	}
	_, _ = w.Write(payload)
	return nil
}

// parseTarget reads the function from the path and the query.
func parseTarget(r *http.Request) (reference, operation, *apiError) {
	path := r.URL.EscapedPath()
	for _, op := range operations {
		escaped, ok := strings.CutPrefix(path, op.prefix)
		escaped, ok2 := strings.CutSuffix(escaped, op.suffix)
		if ok && ok2 && r.Method == http.MethodPost && !strings.Contains(escaped, "/") {
			ref, refused := parseFunction(escaped, r.URL.Query())
			return ref, op, refused
		}
	}
	return reference{}, operation{}, errUnknownOperation(r.Method, path)
}

func parseFunction(escaped string, query url.Values) (reference, *apiError) {
	name, err := url.PathUnescape(escaped)
	if err != nil {
		return reference{}, errValidation(err)
	}
	ref, err := parseReference(name)
	if err != nil {
		return reference{}, errValidation(err)
	}
	if !query.Has("Qualifier") {
		return ref, nil
	}
	qualifier := query.Get("Qualifier")
	if !qualifierPattern.MatchString(qualifier) {
		return reference{}, errValidation(fmt.Errorf("qualifier %q is not a version or alias", qualifier))
	}
	if qualifier == latest {
		qualifier = ""
	}
	if ref.qualifier != "" && ref.qualifier != qualifier {
		return reference{}, errInvalidParameter("The derived qualifier from the function name does not match the specified qualifier.")
	}
	ref.qualifier = qualifier
	return ref, nil
}

// readInvocation reads and checks what the caller sends.
func readInvocation(r *http.Request, kind invocationType) (*invocation, *apiError) {
	payload, refused := readPayload(r, kind)
	if refused != nil {
		return nil, refused
	}
	inv := &invocation{
		trace:    r.Header.Get("X-Amzn-Trace-Id"),
		tenant:   r.Header.Get("X-Amz-Tenant-Id"),
		payload:  payload,
		received: time.Now(),
		async:    kind == typeEvent,
		done:     make(chan struct{}),
	}
	if inv.trace == "" {
		inv.trace = newTrace(inv.received)
	}
	// Lambda passes it to synchronous invocations only.
	if encoded := r.Header.Get("X-Amz-Client-Context"); encoded != "" && !inv.async {
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || !json.Valid(raw) || len(encoded) > maxClientContext {
			return nil, errInvalidContent("Client context must be a valid Base64-encoded JSON object.")
		}
		var oneLine bytes.Buffer // it becomes a header
		if json.Compact(&oneLine, raw) == nil {
			inv.clientContext = oneLine.String()
		}
	}
	return inv, nil
}

func readPayload(r *http.Request, kind invocationType) ([]byte, *apiError) {
	limit := maxRequest
	if kind == typeEvent {
		limit = maxEvent
	}
	payload, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err != nil {
		return nil, errInvalidContent("Could not read the request body: " + err.Error())
	}
	if len(payload) > limit {
		rest, _ := io.Copy(io.Discard, io.LimitReader(r.Body, maxDiscard))
		return nil, errTooLarge(int64(len(payload))+rest, kind, limit)
	}
	if len(payload) == 0 {
		return []byte("{}"), nil // what functions see on AWS
	}
	if !json.Valid(payload) {
		return nil, errInvalidContent("Could not parse request body into json: the payload is not valid JSON")
	}
	return payload, nil
}

// newTrace makes an X-Ray trace header.
// https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
func newTrace(now time.Time) string {
	var b [20]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return fmt.Sprintf("Root=1-%08x-%x;Parent=%x;Sampled=0", now.Unix(), b[:12], b[12:])
}
