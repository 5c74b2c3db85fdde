package locallambda

import (
	"encoding/json"
	"net/http"
	"strings"
)

const (
	headerExtensionID    = "Lambda-Extension-Identifier"
	headerExtensionName  = "Lambda-Extension-Name"
	headerExtensionError = "Lambda-Extension-Function-Error-Type"
	headerAcceptFeature  = "Lambda-Extension-Accept-Feature"

	maxRegistration = 64 << 10 // bytes; a registration has a few dozen
)

// serveRegister is POST /extension/register.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html#extensions-registration-api-a
func (p *processAPI) serveRegister(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Events []string `json:"events"`
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRegistration))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		writeRefusal(w, refuse(http.StatusBadRequest, "InvalidRequestFormat", "reading the registration: %s", err))
		return
	}
	id, err := p.register(r.Header.Get(headerExtensionName), body.Events)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	answer := map[string]string{
		"functionName": p.ref.name, "functionVersion": latest, "handler": p.handler,
	}
	for feature := range strings.SplitSeq(r.Header.Get(headerAcceptFeature), ",") {
		if strings.TrimSpace(feature) == "accountId" {
			answer["accountId"] = accountID
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set(headerExtensionID, id)
	writeJSON(w, answer)
}

// serveExtensionNext is GET /extension/event/next.
func (p *processAPI) serveExtensionNext(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(headerExtensionID)
	event, err := p.nextEvent(r.Context(), id)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set(headerExtensionID, id)
	writeJSON(w, event)
}

// serveExtensionError is POST /extension/init/error and /extension/exit/error.
func (p *processAPI) serveExtensionError(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		reason := r.Header.Get(headerExtensionError)
		if reason == "" {
			writeRefusal(w, refuse(http.StatusForbidden, "Extension.MissingHeader", "the header %s is missing", headerExtensionError))
			return
		}
		if err := p.extensionError(r.Header.Get(headerExtensionID), &failure{kind: kind, message: reason}); err != nil {
			writeRefusal(w, err)
			return
		}
		writeAccepted(w)
	}
}
