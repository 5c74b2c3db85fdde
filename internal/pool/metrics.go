package pool

import "time"

// Metrics receives what happens in a pool. The methods must be cheap and must
// not call back into the pool. Gauges are not here: whoever needs them takes a
// [Pool.Snapshot].
type Metrics interface {
	// Waited is called once for each request that got a slot, with its time in
	// the queue (0 if it did not have to wait).
	Waited(d time.Duration)
	// Rejected is called for each request that got no slot, with why.
	Rejected(why Rejection)
	// Retried is called each time a request moves on to another instance.
	Retried()
	// StartedIn is called when an instance becomes ready, with how long it
	// took since its invocation.
	StartedIn(d time.Duration)
	// Invoked is called when an invocation is started.
	Invoked()
	// Ended is called when an invocation has ended. The outcome is an
	// invoke.Reason, an invoke.Kind, or one of this package's outcomes.
	Ended(outcome string)
}

// Rejection says why a request got no slot. Rejections are a closed set, so
// that they can label a metric.
type Rejection string

// The reasons to reject a request.
const (
	RejectedFull        Rejection = "queue_full"
	RejectedTimeout     Rejection = "queue_timeout"
	RejectedUnavailable Rejection = "unavailable"
	RejectedClientGone  Rejection = "client_gone"
	RejectedClosed      Rejection = "closed"
)

// Outcomes of an invocation that neither the adapter nor Lambda reported.
const (
	// OutcomeNoCallBack: the environment never connected back.
	OutcomeNoCallBack = "no_call_back"
	// OutcomeNoResult: the tunnel is long gone and Invoke still has not returned.
	OutcomeNoResult = "no_result"
)

// discard is the Metrics of a pool that has none.
type discard struct{}

func (discard) Waited(time.Duration)    {}
func (discard) Rejected(Rejection)      {}
func (discard) Retried()                {}
func (discard) StartedIn(time.Duration) {}
func (discard) Invoked()                {}
func (discard) Ended(string)            {}
