package scale

import (
	"slices"
	"time"
)

const (
	// startsKept is how many start times are remembered: enough to be robust,
	// few enough to follow a new version of the function.
	startsKept = 16
	// slowStart is the quantile that a replacement must be in time for.
	slowStart = 0.9

	// serviceWeight is the weight of a new service time in the average.
	serviceWeight = 1.0 / 16
	// serviceOutlier is how many times the average a service time counts at
	// most: one WebSocket must not hide a thousand short requests.
	serviceOutlier = 8
	// serviceSettled is how many service times make an average to judge by.
	serviceSettled = 8
	// longestKept is for how long, at least, the longest request is remembered.
	longestKept = 5 * time.Minute
)

// startTimes learns how long it takes until an instance is ready.
type startTimes struct {
	ring   [startsKept]time.Duration
	n      int                       // ever added
	sorted [startsKept]time.Duration // the first min(n, startsKept)
}

func (s *startTimes) add(d time.Duration) {
	s.ring[s.n%startsKept] = max(d, 0)
	s.n++
	s.sorted = s.ring
	slices.Sort(s.sorted[:min(s.n, startsKept)])
}

// typical is the median, or 0 if nothing has been learnt.
func (s *startTimes) typical() time.Duration { return s.quantile(0.5) }

// slow is what few starts exceed, or 0 if nothing has been learnt.
func (s *startTimes) slow() time.Duration { return s.quantile(slowStart) }

func (s *startTimes) quantile(q float64) time.Duration {
	n := min(s.n, startsKept)
	if n == 0 {
		return 0
	}
	return s.sorted[min(int(q*float64(n)), n-1)]
}

// serviceTimes learns how long requests take.
type serviceTimes struct {
	average float64 // ns
	n       int

	clock           *time.Time // the time of the last observation
	since           time.Time  // that longest is of
	longest, before time.Duration
}

func (s *serviceTimes) setClock(t *time.Time) { s.clock = t }

func (s *serviceTimes) add(d time.Duration) {
	d = max(d, 0)
	if s.clock.Sub(s.since) >= longestKept {
		s.before, s.longest, s.since = s.longest, 0, *s.clock
	}
	s.longest = max(s.longest, d)

	v := float64(d)
	s.n++
	if s.n <= serviceSettled {
		s.average += (v - s.average) / float64(s.n)
		return
	}
	s.average += (min(v, serviceOutlier*s.average+float64(time.Millisecond)) - s.average) * serviceWeight
}

// mean is the average of late; false if nothing has been learnt.
func (s *serviceTimes) mean() (time.Duration, bool) {
	return max(time.Duration(s.average), time.Microsecond), s.n > 0
}

// long is how long the longest request of late took, or 0.
func (s *serviceTimes) long() time.Duration { return max(s.longest, s.before) }
