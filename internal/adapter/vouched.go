package adapter

import (
	"net/http"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
)

// routedApp is the app as requests from a router see it. The same app believes
// what direct events tell it about users and tenants in headers that only Lambda
// can set, so a client of the router must not be able to send them.
type routedApp struct{ appproxy.App }

// Serve implements [appproxy.App].
func (a routedApp) Serve(w http.ResponseWriter, r *http.Request, s *appproxy.Scope) {
	for name := range r.Header {
		if directevent.Vouched(name) {
			delete(r.Header, name)
		}
	}
	a.App.Serve(w, r, s)
}
