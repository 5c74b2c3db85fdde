package locallambda

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// call makes one request to the APIs of a sandbox.
func call(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRegisterOverHTTP(t *testing.T) {
	h := newProcessAPI(newSession(sessionConfig{names: []string{"ext"}}), reference{name: "app"}, "main.handler")
	w := call(h, "POST", extensionBase+"/register", `{"events":["INVOKE","SHUTDOWN"]}`,
		headerExtensionName, "ext", headerAcceptFeature, "other, accountId")
	want := `{"accountId":"000000000000","functionName":"app","functionVersion":"$LATEST","handler":"main.handler"}`
	if w.Code != http.StatusOK || w.Body.String() != want || len(w.Header().Get(headerExtensionID)) != 36 {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
}

func TestRefusalsOverHTTP(t *testing.T) {
	h := newProcessAPI(newSession(sessionConfig{}), reference{name: "app"}, "")
	for _, c := range []struct {
		method, path, body string
		header             []string
		code               int
		kind               string
	}{
		{"GET", "/2018-06-01/runtime/restore/next", "", nil, 404, "InvalidPath"},
		{"POST", runtimeBase + "/invocation/next", "", nil, 404, "InvalidPath"},
		{"POST", runtimeBase + "/invocation/x/response", "{}", nil, 400, "InvalidRequestID"},
		{"POST", runtimeBase + "/invocation/x/error", "{}", nil, 400, "InvalidRequestID"},
		{"POST", extensionBase + "/register", "{", []string{headerExtensionName, "x"}, 400, "InvalidRequestFormat"},
		{"POST", extensionBase + "/register", `{"configurationKeys":[]}`, []string{headerExtensionName, "x"}, 400, "InvalidRequestFormat"},
		{"POST", extensionBase + "/register", "{}", nil, 403, "Extension.InvalidExtensionName"},
		{"GET", extensionBase + "/event/next", "", nil, 403, "Extension.MissingExtensionIdentifier"},
		{"POST", extensionBase + "/exit/error", "", nil, 403, "Extension.MissingHeader"},
		{"POST", extensionBase + "/exit/error", "", []string{headerExtensionError, "x"}, 403, "Extension.MissingExtensionIdentifier"},
		{"POST", extensionBase + "/init/error", "", []string{headerExtensionError, "x", headerExtensionID, newUUID()}, 403, "Extension.UnknownExtensionIdentifier"},
	} {
		w := call(h, c.method, c.path, c.body, c.header...)
		var doc errorDocument
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
			t.Errorf("%s %s: %v: %s", c.method, c.path, err, w.Body)
		}
		if w.Code != c.code || doc.Type != c.kind {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, w.Code, w.Body, c.code, c.kind)
		}
	}
}

// brokenBody fails in the middle.
type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, context.Canceled }

// An answer that breaks off can be given again.
func TestBrokenAnswerCanBeRepeated(t *testing.T) {
	s := newSession(sessionConfig{})
	h := newProcessAPI(s, reference{name: "app"}, "")
	d := s.begin(testInvocation("1"), time.Now())
	path := runtimeBase + "/invocation/1/response"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", path, brokenBody{}))
	if _, ok := s.answer(d); w.Code != http.StatusBadRequest || ok {
		t.Errorf("%d, answered: %v", w.Code, ok)
	}
	if w := call(h, "POST", path, "2"); w.Code != http.StatusAccepted || w.Body.String() != `{"status":"OK"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if r, ok := s.answer(d); !ok || string(r.payload) != "2" {
		t.Errorf("%+v, %v", r, ok)
	}
}
