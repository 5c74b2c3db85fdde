package pool

import (
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

// billingUnit is what the duration of an invocation is rounded up to.
// Source: https://aws.amazon.com/lambda/pricing/
const billingUnit = time.Millisecond

// billedFor rounds the duration of an invocation as Lambda does.
func billedFor(d time.Duration) time.Duration {
	return (d + billingUnit - 1).Truncate(billingUnit)
}

// ran reports whether the outcome shows that there was something to bill: what
// Lambda refuses to run costs nothing.
func (o *outcome) ran() bool {
	if o == nil {
		return false
	}
	if o.err == nil {
		return true
	}
	kind := invoke.KindOf(o.err)
	return kind == invoke.KindFunction || kind == invoke.KindAlien
}
