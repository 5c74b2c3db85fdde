package scale

import "time"

const (
	// unknownLife is assumed if no deadline is known: the longest that Lambda
	// lets an invocation run.
	// Source: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
	unknownLife = 15 * time.Minute
	// unknownStart is assumed while no start time has been learnt.
	unknownStart = 2 * time.Second

	// The time between the last new request and the deadline, for running
	// requests to finish, is what long ones take and half as much again.
	finishFactor = 1.5
	// finishLeast, or finishLeastPart of the lifetime if that is less, is kept
	// even if requests are short: the adapter has its result to return too.
	finishLeast     = 10 * time.Second
	finishLeastPart = 0.1
	// finishMostPart of the lifetime bounds it: requests that last for minutes
	// must not make instances useless. If such are rare, others decide.
	finishMostPart = 0.25

	// The replacement gets the time of a slow start and a quarter more.
	leadFactor = 1.25
	// leadMostPart of the lifetime bounds it: an instance must serve for some
	// time before it is replaced, or else replacements are all that happens.
	leadMostPart = 0.4

	// jitterPart of the lifetime, at most jitterMost, is how far instances
	// that were started together come to be replaced apart.
	jitterPart = 0.1
	jitterMost = time.Minute
)

// Retire returns when to start the replacement of an instance, and when to stop
// giving the instance requests, so that those on it finish before its deadline.
// startedAt is when it was invoked. replaceAt ≤ drainAt ≤ deadline. A zero
// deadline is not known; the longest that Lambda allows is assumed. spread is a
// random number in [0,1) that is the instance's own.
//
// The answer changes with what is learnt of starts and of requests, so ask again
// now and then.
func (s *Scaler) Retire(startedAt, deadline time.Time, spread float64) (replaceAt, drainAt time.Time) {
	if deadline.IsZero() {
		deadline = startedAt.Add(unknownLife)
	}
	life := deadline.Sub(startedAt)
	if life <= 0 {
		return deadline, deadline
	}
	most := times(life, finishMostPart)
	finish := times(s.services.long(times(most, 1/finishFactor)), finishFactor).Round(time.Microsecond)
	finish = min(max(finish, min(finishLeast, times(life, finishLeastPart))), most)
	start := s.starts.slow()
	if start == 0 {
		start = unknownStart
	}
	lead := min(times(start, leadFactor), times(life, leadMostPart))
	jitter := times(min(times(life, jitterPart), jitterMost), spread)

	drainAt = deadline.Add(-finish - jitter)
	return drainAt.Add(-lead), drainAt
}

func times(d time.Duration, f float64) time.Duration { return time.Duration(float64(d) * f) }
