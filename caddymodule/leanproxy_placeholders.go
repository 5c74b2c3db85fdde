package caddymodule

import (
	"net/http"
	"strings"
	"time"
)

// placeholder returns the value of one of reverse_proxy's placeholders, those
// about the choice of an upstream aside. Values are looked up and not set,
// because most requests need none.
func (x *exchange) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.reverse_proxy.")
	if !ok {
		return nil, false
	}
	switch name {
	case "status_code":
		return x.resp.StatusCode, true
	case "status_text":
		return x.resp.Status, true
	case "upstream.latency":
		return x.latency, true
	case "upstream.latency_ms":
		return milliseconds(x.latency), true
	case "duration", "upstream.duration":
		return x.duration(), true
	case "duration_ms", "upstream.duration_ms":
		return milliseconds(x.duration()), true
	}
	field, ok := strings.CutPrefix(name, "header.")
	if !ok {
		return nil, false
	}
	vv, ok := x.resp.Header[http.CanonicalHeaderKey(field)]
	return strings.Join(vv, ","), ok
}

// duration is how long the exchange took, or has taken so far.
func (x *exchange) duration() time.Duration {
	if x.took == 0 {
		return time.Since(x.sent)
	}
	return x.took
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }
