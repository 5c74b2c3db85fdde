package httprules

import "net/http"

// Idempotent reports whether a request with the method may be sent again when
// nobody knows whether the first was worked on (RFC 9110, section 9.2.2).
func Idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	default:
		return false
	}
}
