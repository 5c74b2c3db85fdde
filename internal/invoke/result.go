package invoke

import (
	"encoding/json"
	"fmt"
)

// Reason says why an invocation ended. Reasons are a closed set, so that they
// can label a metric.
type Reason string

// The reasons that an adapter reports in a [Result].
const (
	// ReasonDrained: the router asked the instance to finish, and it did.
	ReasonDrained Reason = "drained"
	// ReasonDeadline: the invocation came close to its function timeout.
	ReasonDeadline Reason = "deadline"
	// ReasonShutdown: Lambda is shutting the environment down.
	ReasonShutdown Reason = "shutdown"
	// ReasonRouterGone: the tunnel broke or the router stopped answering.
	ReasonRouterGone Reason = "router_gone"
	// ReasonRouterUnreachable: the router could not be dialled.
	ReasonRouterUnreachable Reason = "router_unreachable"
	// ReasonRouterRefused: one end did not accept the other's key or hello.
	ReasonRouterRefused Reason = "router_refused"
	// ReasonAppUnavailable: the app did not become ready, or stopped answering.
	ReasonAppUnavailable Reason = "app_unavailable"
	// ReasonBadEvent: the payload was a dispatch event that makes no sense.
	ReasonBadEvent Reason = "bad_event"
)

// Reasons lists every reason that an adapter reports, in the order of the
// constants.
var Reasons = []Reason{
	ReasonDrained, ReasonDeadline, ReasonShutdown, ReasonRouterGone,
	ReasonRouterUnreachable, ReasonRouterRefused, ReasonAppUnavailable, ReasonBadEvent,
}

// Healthy reports whether an invocation that ended so did what it was started
// for. Any other reason counts as a failed start or a failed instance and
// makes the router back off.
func (r Reason) Healthy() bool {
	switch r {
	case ReasonDrained, ReasonDeadline, ReasonShutdown, ReasonRouterGone:
		return true
	default:
		return false
	}
}

// Result is what an invocation of the adapter returns.
type Result struct {
	// Instance is the ID from the dispatch event.
	Instance string `json:"instance"`
	// Reason says why the invocation ended.
	Reason Reason `json:"reason"`
	// Error is one line for people where the reason alone does not say what
	// to do, such as the address that could not be dialled. Empty otherwise.
	Error string `json:"error,omitempty"`
	// Requests is how many requests the instance answered.
	Requests uint64 `json:"requests"`
	// Environment names the execution environment, as Lambda's log stream does.
	Environment string `json:"environment,omitempty"`
}

// ParseResult reads what an invocation returned. It fails on anything that is
// not a result of the adapter, which means that the function runs without it.
func ParseResult(payload []byte) (Result, error) {
	var r Result
	if err := json.Unmarshal(payload, &r); err != nil {
		return Result{}, fmt.Errorf("reading result: %w", err)
	}
	if r.Reason == "" {
		return Result{}, fmt.Errorf("result has no reason: the function does not seem to run the adapter")
	}
	return r, nil
}
