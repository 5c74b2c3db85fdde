package scale

import (
	"math"
	"time"
)

// Failure is the kind of a failed invocation, as far as the next start cares.
type Failure uint8

const (
	// FailureOther may be gone next time: a crash, a timeout, a lost network.
	FailureOther Failure = iota
	// FailureThrottled means that Lambda has no concurrency left for us.
	FailureThrottled
	// FailurePermanent lasts until a person does something: access denied, no
	// such function.
	FailurePermanent
	// FailureOverdue is not the end of an invocation: it has not called back for
	// longer than [Scaler.Overdue], and it may still. Until an instance becomes
	// ready, others are started one at a time. It never opens the breaker.
	FailureOverdue
	// FailureLost is the same after [Scaler.Lost]. It opens the breaker.
	FailureLost
	// FailureDied is the end of an instance that had answered requests. It did
	// start, so it says nothing about starts: it makes them slower, and does not
	// open the breaker. See [Scaler.Died].
	FailureDied
)

// ProvingTime is how long an instance must have been ready to have proved
// itself without having answered a request. After failures, the next start
// waits for as long for an instance to prove itself.
const ProvingTime = 5 * time.Second

// mourning is for how long after the death of an instance that had answered
// requests they wait for the next attempts although the breaker is open. What
// killed it may well kill those that start, and be over soon, so that attempts
// which fail do not tell that the function cannot be started. It is more than
// the longest backoff and a start, so that one attempt at least has had its
// outcome, and as long as recovery may take at most.
const mourning = 15 * time.Second

const (
	// minBackoff keeps jitter from making a backoff vanish.
	minBackoff = 100 * time.Millisecond
	// aliveBackoff is the longest backoff after a failure if an instance became
	// ready since the failure before: most starts work, so scaling up must too.
	aliveBackoff = 5 * time.Second
	// calm is how long without a failure makes the next one the first again.
	calm = 2 * time.Minute
	// singleRounds is after how many rounds of failures, without an instance
	// becoming ready, instances are started one at a time.
	singleRounds = 2
	// breakerRounds is after how many of them the breaker opens.
	breakerRounds = 3
	// minProbe is the least time between two attempts with an open breaker.
	minProbe = time.Second
	// failureCost is how many starts a failure uses up besides its own if an
	// instance became ready since the failure before: neither backoff nor
	// breaker last then, and a fleet that keeps dying must be restarted much
	// more slowly than a healthy one grows.
	failureCost = 9
	// mostDebt is how long that can delay the next start. When everything dies
	// at once it need not come back as slowly.
	mostDebt = aliveBackoff
)

// backoffs, per kind, double from first to most with each round of failures.
// What an attempt costs at most is one invocation that crashes; what a long
// backoff costs is an outage that goes on after its cause has gone.
var backoffs = [...]struct{ first, most time.Duration }{
	FailureOther:     {500 * time.Millisecond, 10 * time.Second},
	FailureThrottled: {time.Second, 5 * time.Second}, // concurrency frees up as others end
	FailurePermanent: {5 * time.Second, 10 * time.Second},
	FailureOverdue:   {500 * time.Millisecond, 2 * time.Second}, // to wait that long was backoff already
	FailureLost:      {500 * time.Millisecond, 2 * time.Second},
	FailureDied:      {500 * time.Millisecond, aliveBackoff},
}

// limiter decides how many of the wanted instances may be started. Three
// things, each of which only ever makes it fewer:
//
//   - A token bucket bounds all starts, successful or not, see [Config.MaxStarts].
//   - After a failure comes a backoff, random between zero and a limit that
//     doubles. Failures during a backoff belong to the same round: they are
//     what had been started before.
//   - After some rounds without success the breaker opens: one attempt at a
//     time, until one succeeds. That an instance became ready is no success
//     yet: many an app crashes on its first request. That one died which had
//     answered is no failure to start.
type limiter struct {
	rate, burst float64 // tokens per second, at most
	tokens      float64
	filled      time.Time

	level    int // doublings of the backoff
	rounds   int // of failures since an instance proved itself
	failedAt time.Time
	until    time.Time // no start before
	pause    time.Time // the same, but it does not block requests
	mourned  time.Time // until then an open breaker blocks no requests

	succeeds  bool // an instance proved itself, ever
	alive     bool // one did between the last round of failures and the one before
	overdue   bool // an instance has been since one last became ready
	deaths    bool // there has been nothing else in this round of failures
	permanent bool // the last failure was
	throttled bool // the same
	probing   bool // the only instance that is starting is an attempt
	starting  int  // instances, as far as known
}

// MaxStarts is the bound on starts: however instances succeed or fail, no
// stretch of time of length d sees more starts than this.
func (c Config) MaxStarts(d time.Duration) int {
	c = c.withDefaults()
	return c.StartBurst + int(math.Ceil(float64(c.StartsPerMinute)*d.Minutes()))
}

func (l *limiter) reset(c Config, now time.Time) {
	*l = limiter{tokens: float64(c.StartBurst), filled: now}
	l.configure(c, now)
}

func (l *limiter) configure(c Config, now time.Time) {
	l.fill(now)
	l.rate, l.burst = float64(c.StartsPerMinute)/60, float64(c.StartBurst)
	l.tokens = min(l.tokens, l.burst)
}

func (l *limiter) fill(now time.Time) {
	if dt := now.Sub(l.filled); dt > 0 {
		l.tokens = min(l.burst, l.tokens+l.rate*dt.Seconds())
		l.filled = now
	}
}

func (l *limiter) open() bool { return l.rounds >= breakerRounds }

// fleet tells how many instances are starting.
func (l *limiter) fleet(starting int) {
	l.starting = starting
	if starting == 0 {
		l.probing = false
	}
}

// take returns how many of n more instances may be started now, and when the
// rest may be; that is zero if only an event can tell.
func (l *limiter) take(n, starting int, now time.Time) (int, time.Time) {
	l.fill(now)
	if now.Before(l.until) {
		return 0, l.until
	}
	if now.Before(l.pause) {
		return 0, l.pause
	}
	single := l.rounds >= singleRounds || l.overdue
	if single {
		if starting > 0 {
			return 0, time.Time{}
		}
		n = 1
	}
	got := min(n, max(int(l.tokens), 0))
	l.tokens -= float64(got)
	l.starting = starting + got
	l.probing = got > 0 && l.open()
	if got == n {
		return got, time.Time{}
	}
	wait := time.Duration((1 - l.tokens) / l.rate * float64(time.Second))
	return got, now.Add(wait + time.Microsecond)
}

// ready tells that an instance became ready.
func (l *limiter) ready(now time.Time) {
	if !l.throttled {
		l.until = time.Time{} // but this one says nothing about free concurrency
	}
	l.permanent, l.probing, l.overdue = false, false, false
	l.starting = max(l.starting-1, 0)
	if l.rounds >= singleRounds {
		l.pause = now.Add(ProvingTime)
	}
}

// proved tells that an instance does what it was started for.
func (l *limiter) proved() {
	l.succeeds = true
	l.rounds, l.level = 0, l.level/2
	l.pause = time.Time{}
}

// died tells that an instance has ended that had answered requests.
func (l *limiter) died(now time.Time) { l.mourned = now.Add(mourning) }

// failed tells that an invocation failed. random is in [0,1).
func (l *limiter) failed(kind Failure, now time.Time, random float64) {
	if int(kind) >= len(backoffs) {
		kind = FailureOther
	}
	l.fill(now)
	sameRound := now.Before(l.until)
	if !sameRound {
		l.alive = l.succeeds && l.rounds == 0
	}
	silent := kind == FailureOverdue || kind == FailureLost
	l.overdue = l.overdue || silent
	if (l.alive || kind == FailureDied) && !silent {
		l.tokens = max(l.tokens-failureCost, -l.rate*mostDebt.Seconds())
	}
	worse := kind == FailurePermanent && !l.permanent || kind == FailureLost && !l.open() ||
		l.deaths && kind != FailureDied
	if sameRound && !worse {
		l.failedAt = now
		return
	}
	if now.Sub(l.failedAt) >= calm {
		l.level = 0
	}
	l.failedAt = now
	most := backoffs[kind].most
	if l.alive && kind != FailurePermanent {
		most = aliveBackoff
	}
	switch kind {
	case FailureDied:
	case FailurePermanent, FailureLost:
		l.rounds = max(l.rounds+1, breakerRounds)
	case FailureOverdue:
		if l.rounds+1 < breakerRounds {
			l.rounds++
		}
	default:
		l.rounds++
	}
	l.deaths = kind == FailureDied
	if !l.deaths {
		l.permanent, l.throttled = kind == FailurePermanent, kind == FailureThrottled
	}
	limit := most
	if l.level < 16 {
		limit = min(most, backoffs[kind].first<<l.level)
		l.level++
	}
	least := minBackoff
	if l.open() {
		least = minProbe
	}
	l.until = now.Add(max(least, time.Duration(random*float64(limit))))
}

func (l *limiter) blocked(now time.Time) (bool, time.Time) {
	switch {
	case !l.open():
		return false, time.Time{}
	case now.Before(l.mourned) && !l.permanent: // Lambda itself says the latter
		return false, time.Time{}
	case l.probing:
		return true, l.until
	case l.starting > 0 && !l.permanent:
		return false, time.Time{} // one of these may become ready
	case now.Before(l.until):
		return true, l.until
	default:
		return false, time.Time{}
	}
}
