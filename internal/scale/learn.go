package scale

import (
	"math/bits"
	"slices"
	"time"
)

const (
	// startsKept is how many start times are remembered: enough to be robust,
	// few enough to follow a new version of the function.
	startsKept = 16
	// slowStart is the quantile that a replacement must be in time for.
	slowStart = 0.9

	// unknownOverdue is how long the first start may take. Lambda gives the
	// initialisation 10 s, and begins once more if that was not enough.
	// Source: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
	unknownOverdue = 10 * time.Second
	unknownLost    = time.Minute
	// A start may take overdueFactor times as long as the slowest that is
	// remembered, and overdueLeast even if all were quick: those were perhaps
	// in environments that Lambda had kept.
	overdueFactor = 2
	overdueLeast  = 5 * time.Second
	// lostFactor times that, and lostLeast, is after what it is lost.
	lostFactor = 3
	lostLeast  = 30 * time.Second
	// slowestKept is for how long, at least, the slowest start is remembered.
	slowestKept = time.Hour

	// servicesKept is how many service times are remembered.
	servicesKept = 64
	// serviceOutlier is how many times the median a service time counts at
	// most: some streams must not hide a thousand short requests.
	serviceOutlier = 8
	// serviceMost is the longest that a request takes which others might want
	// to wait for. What is longer is a WebSocket, a stream or a long poll: it
	// is seen while it is in flight, and says nothing about those that wait.
	serviceMost = 30 * time.Second
	// longestKept is for how long, at least, long requests are remembered.
	longestKept = 5 * time.Minute
	// longCommon is the part of all requests that makes long ones common.
	longCommon = 0.01
)

// startTimes learns how long it takes until an instance is ready.
type startTimes struct {
	ring   [startsKept]time.Duration
	n      int                       // ever added
	sorted [startsKept]time.Duration // the first min(n, startsKept)

	since           time.Time // that slowest is of
	slowest, before time.Duration
}

func (s *startTimes) add(d time.Duration, now time.Time) {
	// Much longer than ever is an outage that is over rather than a start. If
	// it is not, the next ones will show it.
	d = min(max(d, 0), overdueFactor*s.overdue())
	if now.Sub(s.since) >= slowestKept {
		s.before, s.slowest, s.since = s.slowest, 0, now
	}
	s.slowest = max(s.slowest, d)
	s.ring[s.n%startsKept] = d
	s.n++
	s.sorted = s.ring
	slices.Sort(s.sorted[:min(s.n, startsKept)])
}

// typical is the median, or 0 if nothing has been learnt.
func (s *startTimes) typical() time.Duration { return s.quantile(0.5) }

// overdue is how long a start may take.
func (s *startTimes) overdue() time.Duration {
	if s.n == 0 {
		return unknownOverdue
	}
	return max(overdueLeast, overdueFactor*max(s.slowest, s.before))
}

// lost is after how long nothing is expected of a start any more.
func (s *startTimes) lost() time.Duration {
	if s.n == 0 {
		return unknownLost
	}
	return max(lostLeast, lostFactor*s.overdue())
}

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
	ring    [servicesKept]time.Duration
	n       int // ever added
	average time.Duration
	stale   bool // the average is not of the ring any more

	clock        *time.Time // the time of the last observation
	since        time.Time  // that late is of
	late, before durations
}

func (s *serviceTimes) setClock(t *time.Time) { s.clock = t }

func (s *serviceTimes) add(d time.Duration) {
	d = max(d, 0)
	if s.clock.Sub(s.since) >= longestKept {
		s.before, s.late, s.since = s.late, durations{}, *s.clock
	}
	s.late.add(d)
	if d > serviceMost && s.n > 0 {
		return
	}
	s.ring[s.n%servicesKept] = min(d, serviceMost)
	s.n++
	s.stale = true
}

// mean is the average of late; false if nothing has been learnt.
func (s *serviceTimes) mean() (time.Duration, bool) {
	if s.stale {
		s.stale = false
		kept := s.ring
		known := kept[:min(s.n, servicesKept)]
		slices.Sort(known)
		most := max(serviceOutlier*known[(len(known)-1)/2], time.Millisecond)
		sum := time.Duration(0)
		for _, d := range known {
			sum += min(d, most)
		}
		s.average = sum / time.Duration(len(known))
	}
	return max(s.average, time.Microsecond), s.n > 0
}

// long is how long the longest requests of late took that can be waited for,
// if one cannot be for longer than most; or 0. If many take longer, it is most.
func (s *serviceTimes) long(most time.Duration) time.Duration {
	total, over, longest := 0, 0, time.Duration(0)
	for i := range s.late {
		n := s.late[i].n + s.before[i].n
		d := max(s.late[i].longest, s.before[i].longest)
		total += n
		if d > most {
			over += n
			continue
		}
		longest = max(longest, d)
	}
	if over > 0 && float64(over) >= longCommon*float64(total) {
		return most
	}
	return longest
}

// durations counts them by their order of magnitude, in powers of two.
type durations [32]struct {
	n       int
	longest time.Duration
}

func (s *durations) add(d time.Duration) {
	at := &s[min(bits.Len64(uint64(d/time.Millisecond)), len(s)-1)]
	at.n++
	at.longest = max(at.longest, d)
}
