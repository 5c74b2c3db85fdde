package scale

import (
	"math"
	"time"
)

const (
	// minWindow and maxWindow bound the short window over which in-flight is
	// averaged. In between it is the time that a start takes: an excess that
	// will be over by then is not worth a start.
	minWindow = time.Second
	maxWindow = 10 * time.Second
	// longWindow tells noise from a change: it follows steady load exactly.
	longWindow = 30 * time.Second
	// noise is how far the short average may be from the long one before it is
	// taken for a change, in units of the long one's square root, which is the
	// standard deviation of the number in flight when requests arrive at random
	// (Poisson). What is above capacity queues, and acts at once.
	noise = 2.5

	// foldEvery is how often averages are brought up to date; in between, an
	// observation only adds to a sum.
	foldEvery = 50 * time.Millisecond

	// flowBucket is the time over which arrivals and departures are counted. A
	// burst shorter than this never looks like sustained load.
	flowBucket = 400 * time.Millisecond
	// flowBuckets must all show a rate for it to count as sustained.
	flowBuckets = 3

	// assumedService is how long requests are taken to last while none has
	// ended yet; that they last longer is noticed as time passes.
	assumedService = 100 * time.Millisecond
	// drainTime is how quickly a queue should be worked off once the instances
	// started for it are ready. Requests shorter than this can share a slot
	// one after another.
	drainTime = time.Second
)

// flow counts the requests that came and went in a stretch of time.
type flow struct {
	took              time.Duration
	arrived, departed int
}

// demand follows the load of a pool.
type demand struct {
	load Load
	last time.Time // of the last observation

	// In-flight requests, averaged.
	folded      time.Time // the averages include everything until then
	area        float64   // in-flight × ns since
	short, long float64
	window      time.Duration // of short

	// Flow of requests.
	current flow
	recent  [flowBuckets]flow // newest first

	lastLoad    time.Time // when there was any load; zero is never
	queuedSince time.Time // since when the queue has not been empty
	progress    time.Time // when a request last ended, or the first began
}

func (d *demand) reset(now time.Time) {
	*d = demand{last: now, folded: now, progress: now, queuedSince: now, window: minWindow}
}

// setWindow makes the short window as long as a start takes, within bounds.
func (d *demand) setWindow(start time.Duration) { d.window = min(max(start, minWindow), maxWindow) }

func (d *demand) observe(l Load, now time.Time) {
	if dt := now.Sub(d.last); dt > 0 {
		d.area += float64(d.load.InFlight) * float64(dt)
		d.last = now
		if now.Sub(d.folded) >= foldEvery {
			d.foldUntil(now)
		}
	}
	was, is := d.load.InFlight+d.load.Queued, l.InFlight+l.Queued
	switch {
	case is > was:
		d.current.arrived += is - was
	case is < was:
		d.current.departed += was - is
		d.progress = d.last
	}
	if d.load.InFlight == 0 {
		d.progress = d.last
	}
	if d.load.Queued == 0 {
		d.queuedSince = d.last
	}
	if is|was != 0 {
		d.lastLoad = d.last
	}
	d.load = l
}

// fold brings everything up to date.
func (d *demand) fold(now time.Time) {
	d.observe(d.load, now)
	if d.last.After(d.folded) {
		d.foldUntil(d.last)
	}
}

func (d *demand) foldUntil(now time.Time) {
	dt := now.Sub(d.folded)
	mean := d.area / float64(dt)
	// An exponential average weighs like a plain one over twice its time constant.
	d.short += (mean - d.short) * -math.Expm1(-2*float64(dt)/float64(d.window))
	d.long += (mean - d.long) * -math.Expm1(-2*float64(dt)/float64(longWindow))
	d.area, d.folded = 0, now

	d.current.took += dt
	if d.current.took >= flowBucket {
		copy(d.recent[1:], d.recent[:])
		d.recent[0], d.current = d.current, flow{}
	}
}

// inFlight is the average number of requests in flight.
func (d *demand) inFlight() float64 {
	if math.Abs(d.short-d.long) > noise*math.Sqrt(d.long) {
		return d.short
	}
	return d.long
}

// idleFor is for how long there has been no load.
func (d *demand) idleFor(now time.Time) time.Duration { return max(now.Sub(d.lastLoad), 0) }

// arrivals is the rate, per second, at which requests have been arriving all
// the time: a burst does not count.
func (d *demand) arrivals() float64 {
	rate := math.Inf(1)
	for _, f := range d.recent {
		if f.took == 0 {
			return 0
		}
		rate = min(rate, float64(f.arrived)/f.took.Seconds())
	}
	return rate
}

// departures is the measured rate, per second, at which requests have been
// ending while others waited. It is false if no queue existed all that time.
func (d *demand) departures() (float64, bool) {
	n, took := 0, time.Duration(0)
	for _, f := range d.recent {
		n += f.departed
		took += f.took
	}
	if took == 0 || d.load.Queued == 0 || d.last.Sub(d.queuedSince) < took+d.current.took {
		return 0, false
	}
	return float64(n) / took.Seconds(), true
}

// queueDemand is how many more requests would be in flight if the queue were
// not to wait: of it, only what will still wait when an instance that is
// started now becomes ready.
func (s *Scaler) queueDemand(f Fleet) float64 {
	queued := float64(s.demand.load.Queued)
	if queued == 0 {
		return 0
	}
	service, learnt := s.services.mean()
	if !learnt {
		service = assumedService
	}
	if s.demand.load.InFlight > 0 {
		// Nothing has ended for longer than requests are thought to last.
		service = max(service, s.demand.last.Sub(s.demand.progress))
	}

	left := queued
	start := s.starts.typical()
	if f.Ready > 0 && start > 0 && s.demand.last.Sub(s.demand.queuedSince) <= start {
		capacity := float64(f.Ready*s.cfg.MaxConcurrent) / service.Seconds()
		if measured, ok := s.demand.departures(); ok && service <= flowBucket {
			capacity = measured
		}
		left = min(queued, queued+(s.demand.arrivals()-capacity)*start.Seconds())
		if left <= 0 {
			return 0
		}
	}
	// What waits is served once, on all slots up to the maximum, so that it needs
	// fewer instances than as many that come again and again. Long requests are
	// no such passing load.
	once := float64(s.cfg.TargetConcurrent) / float64(s.cfg.MaxConcurrent)
	if !learnt {
		return left * once
	}
	part := min(1, float64(service)/float64(drainTime))
	return left * part * (once + (1-once)*part)
}

const peakSlots = 10

// peaks remembers the largest of the numbers noted within a window.
type peaks struct {
	slot  time.Duration
	begun time.Time // of the newest slot
	most  [peakSlots]int
}

func (p *peaks) setWindow(d time.Duration) { p.slot = max(d/(peakSlots-1), 1) }

func (p *peaks) note(n int, now time.Time) {
	age := now.Sub(p.begun)
	if slots := int(age / p.slot); slots >= peakSlots {
		p.begun, p.most = now, [peakSlots]int{}
	} else if slots > 0 {
		copy(p.most[slots:], p.most[:])
		clear(p.most[:slots])
		p.begun = now.Add(-(age % p.slot))
	}
	p.most[0] = max(p.most[0], n)
}

func (p *peaks) max() int {
	n := 0
	for _, m := range p.most {
		n = max(n, m)
	}
	return n
}
