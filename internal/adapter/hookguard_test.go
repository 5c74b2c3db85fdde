package adapter

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
)

func TestGuard(t *testing.T) {
	g := newGuard("/hooks/Before", "", "/after?x=1")
	hidden := []string{
		"/hooks/Before", "/hooks/before", "/HOOKS/BEFORE", "/hooks/before/", "/hooks/before//", "//hooks//before",
		"/hooks/before?q", "/hooks/before#f", "/./hooks/./before", "/x/../hooks/before", "/../../hooks/before",
		"/hooks/before;v=1", "/hooks;a=b/before;c", "/x;/../hooks/before", "/x/..;y/hooks/before",
		"/hooks/%62efore", "/%68%6F%6f%6bs/before", "/hooks%2fbefore", "/hooks%2Fbefore", "/x/%2e%2e/hooks/before",
		"/x/%2E./hooks/before", "/hooks/before%3bv", "/hooks/before%3Fq", "/hooks/before%23", "/hooks/before%00", "/hooks/be%0afore",
		"/hooks/before%20", "/hooks%5cbefore", `\hooks\before`, "/hooks/before%7f", "/hooks/before%c2%85", "/hooks/before%2F..%2fbefore",
		"/after", "/After", "/after?x=2", "/after/.",
		"/hooks//../before", "/hooks/;x/../before", "/hooks/%09/../before", "/hooks/%5c/../before", "/hooks/x/%2e%2e/before",
		"//host/hooks/before", `/\host/hooks/before`, "/%2fhost/hooks/before", "///host/after",
		"/x%3F/../hooks/before", "/x%23/../hooks/before", "/hooks/before%3F/x/..", "/hooks/before/x/..",
	}
	for _, target := range hidden {
		if !g.hides(target) {
			t.Errorf("%s is not hidden", target)
		}
	}
	for _, target := range []string{
		"", "/", "*", "/hooks", "/hooks/", "/hooks/before/x", "/hooks/beforex", "/hooks/before/../x", "/x/hooks/before", "/hooks-before",
		"/?p=/hooks/before", "/x?/../hooks/before", "/hooks/%2562efore", "/hooks/%6", "/hooks/%zzbefore", "/%", "/afterwards",
		"/hooks/befor%C3%A9", "//", "//hooks", "//host/x", "/x/../y", "/x/../hooks", "/before", "/x%3F/hooks/before",
	} {
		if g.hides(target) {
			t.Errorf("%s is hidden", target)
		}
	}
	if newGuard("", "").hides("/") {
		t.Error("a guard of nothing hides something")
	}
}

// recordedApp is an app that writes down the targets it is asked for.
type recordedApp struct {
	appproxy.App
	asked []string
}

func (a *recordedApp) Serve(_ http.ResponseWriter, r *http.Request, _ *appproxy.Scope) {
	a.asked = append(a.asked, r.RequestURI)
}

// TestGuardedApp: whatever the request is like, the app does not see it.
func TestGuardedApp(t *testing.T) {
	app := &recordedApp{}
	h := appproxy.NewScope(guardedApp{app, newGuard("/hook")})
	for _, tt := range []struct {
		method, uri, url string
		status           int
	}{
		{"POST", "/hook", "/hook", 403},
		{"GET", "/hook", "/hook", 403},
		{"GET", "", "/hook?x", 403},                          // a request that was made here
		{"GET", "http://host/hook", "http://host/hook", 403}, // absolute form
		{"GET", "/%48ook", "/%48ook", 403},
		{"GET", "/hook", "/other", 403},
		{"GET", "/other", "/hook", 403},
		{"GET", "/other", "/other", 200},
	} {
		r := httptest.NewRequest(tt.method, tt.url, nil)
		r.RequestURI = tt.uri
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%+v: status %d", tt, w.Code)
		}
	}
	if len(app.asked) != 1 || app.asked[0] != "/other" {
		t.Errorf("the app was asked for %q", app.asked)
	}
}
