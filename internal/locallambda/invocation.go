package locallambda

import (
	"sync"
	"time"
)

// Payload limits in bytes, of https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html.
// A response may be a hundred bytes larger than a request, as on AWS.
const (
	maxRequest  = 6 * mebibyte
	maxEvent    = 1 * mebibyte
	maxResponse = maxRequest + 100
	maxStream   = 200 * mebibyte // a streamed response to a caller who takes it as a stream
)

type invocationType string

const (
	typeRequestResponse invocationType = "RequestResponse"
	typeEvent           invocationType = "Event"
	typeDryRun          invocationType = "DryRun"
)

// invocation is one Invoke call that was accepted.
type invocation struct {
	id            string
	trace         string
	arn           string
	clientContext string // JSON
	tenant        string
	payload       []byte
	received      time.Time
	async         bool
	stream        *stream // takes a streamed response as it comes; nil if the caller wants all of it at once

	began time.Time // set by the environment before it runs

	once   sync.Once
	done   chan struct{} // closed once result is set
	result result
}

// result is how an invocation ended. Exactly one of refused, failed and
// payload (which may be empty) says so.
type result struct {
	refused *apiError // it could not run
	failed  *failure  // it ran and failed
	payload []byte    // without what has gone through the stream
	log     []byte    // the end of what its environment wrote meanwhile
}

// finish ends the invocation for its caller. Only the first call counts, so
// that a response that was already given stands whatever happens afterwards.
func (i *invocation) finish(r result) {
	i.once.Do(func() {
		i.result = r
		close(i.done)
	})
}
