package locallambda

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
)

const (
	runtimeBase   = "/2018-06-01/runtime"
	extensionBase = "/2020-01-01/extension"

	headerFunctionError = "Lambda-Runtime-Function-Error-Type"
	headerErrorBody     = "Lambda-Runtime-Function-Error-Body"
	headerResponseMode  = "Lambda-Runtime-Function-Response-Mode"
)

// statusBody is what both APIs answer to a report.
var statusBody = map[string]string{"status": "OK"}

// processAPI is the HTTP face of a session: the Runtime API and the Extensions
// API of one environment.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
type processAPI struct {
	*session
	ref     reference
	handler string
}

func newProcessAPI(s *session, ref reference, handler string) http.Handler {
	p := &processAPI{session: s, ref: ref, handler: handler}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+runtimeBase+"/invocation/next", p.serveNext)
	mux.HandleFunc("POST "+runtimeBase+"/invocation/{id}/response", p.serveResponse)
	mux.HandleFunc("POST "+runtimeBase+"/invocation/{id}/error", p.serveError)
	mux.HandleFunc("POST "+runtimeBase+"/init/error", p.serveInitError)
	if s.snapStart {
		mux.HandleFunc("GET "+runtimeBase+"/restore/next", p.serveRestoreNext)
		mux.HandleFunc("POST "+runtimeBase+"/restore/error", p.serveRestoreError)
	}
	mux.HandleFunc("POST "+extensionBase+"/register", p.serveRegister)
	mux.HandleFunc("GET "+extensionBase+"/event/next", p.serveExtensionNext)
	mux.HandleFunc("POST "+extensionBase+"/init/error", p.serveExtensionError("Extension.InitError"))
	mux.HandleFunc("POST "+extensionBase+"/exit/error", p.serveExtensionError("Extension.ExitError"))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeRefusal(w, refuse(http.StatusNotFound, "InvalidPath", "the local Lambda does not know %s %s", r.Method, r.URL.Path))
	})
	return mux
}

func (p *processAPI) serveNext(w http.ResponseWriter, r *http.Request) {
	d, err := p.next(r.Context())
	if err != nil {
		writeRefusal(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Lambda-Runtime-Aws-Request-Id", d.inv.id)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(d.deadline.UnixMilli(), 10))
	h.Set("Lambda-Runtime-Invoked-Function-Arn", d.inv.arn)
	h.Set("Lambda-Runtime-Trace-Id", d.inv.trace)
	if d.inv.clientContext != "" {
		h.Set("Lambda-Runtime-Client-Context", d.inv.clientContext)
	}
	if d.inv.tenant != "" {
		h.Set("Lambda-Runtime-Aws-Tenant-Id", d.inv.tenant)
	}
	_, _ = w.Write(d.inv.payload)
}

func (p *processAPI) serveResponse(w http.ResponseWriter, r *http.Request) {
	d, err := p.claim(r.PathValue("id"))
	if err != nil {
		writeRefusal(w, err)
		return
	}
	if strings.EqualFold(r.Header.Get(headerResponseMode), "streaming") {
		p.serveStream(w, r, d)
		return
	}
	body, err := readAnswer(r)
	if err != nil {
		p.refuseAnswer(w, d, err)
		return
	}
	p.settle(d, result{payload: body})
	writeAccepted(w)
}

func (p *processAPI) serveError(w http.ResponseWriter, r *http.Request) {
	d, err := p.claim(r.PathValue("id"))
	if err != nil {
		writeRefusal(w, err)
		return
	}
	body, err := readAnswer(r)
	if err != nil {
		p.refuseAnswer(w, d, err)
		return
	}
	p.settle(d, result{failed: reported(r, body, "Runtime.Unknown")})
	writeAccepted(w)
}

func (p *processAPI) serveInitError(w http.ResponseWriter, r *http.Request) {
	serveReport(w, r, p.initError)
}

func (p *processAPI) serveRestoreError(w http.ResponseWriter, r *http.Request) {
	serveReport(w, r, p.restoreError)
}

// serveReport takes an error that belongs to no invocation.
func serveReport(w http.ResponseWriter, r *http.Request, take func(*failure) error) {
	body, err := readAnswer(r)
	if err == nil {
		err = take(reported(r, body, "Runtime.Unknown"))
	}
	if err != nil {
		writeRefusal(w, err)
		return
	}
	writeAccepted(w)
}

func (p *processAPI) serveRestoreNext(w http.ResponseWriter, r *http.Request) {
	if err := p.restoreNext(r.Context()); err != nil {
		writeRefusal(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	writeJSON(w, statusBody)
}

// errAnswerSize is what readAnswer returns for an answer above the limit.
var errAnswerSize = refuse(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge",
	"Exceeded maximum allowed payload size (%d bytes).", maxResponse)

func readAnswer(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxResponse+1))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "InvalidRequestFormat", "reading the body: %s", err)
	}
	if len(body) > maxResponse {
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxDiscard)) // the runtime is still sending
		return nil, errAnswerSize
	}
	return body, nil
}

// refuseAnswer deals with an answer that could not be read. One that is too
// large is the invocation's answer all the same, and ends it.
func (p *processAPI) refuseAnswer(w http.ResponseWriter, d *delivery, err error) {
	if errors.Is(err, errAnswerSize) {
		p.settle(d, result{failed: failResponseSize(maxResponse)})
	} else {
		p.unclaim(d)
	}
	writeRefusal(w, err)
}

// reported is the failure that a runtime posts. Its body is what the caller of
// Invoke sees, untouched.
func reported(r *http.Request, body []byte, kind string) *failure {
	if k := r.Header.Get(headerFunctionError); k != "" {
		kind = k
	}
	return &failure{kind: kind, message: "reported by the runtime", payload: body}
}

func writeAccepted(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	writeJSON(w, statusBody)
}

func writeRefusal(w http.ResponseWriter, err error) {
	r, ok := errors.AsType[*refusal](err)
	if !ok { // the client's own doing: it is gone
		r = refuse(http.StatusInternalServerError, "Sandbox.Failure", "%s", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	writeJSON(w, errorDocument{Type: r.kind, Message: r.message})
}
