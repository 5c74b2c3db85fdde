package pool

import (
	"time"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
)

// control asks the scaler what to do whenever something happened or the time
// it named has come, and does it. There is one controller a pool, so decisions
// never race each other.
func (p *Pool) control() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.poke:
		case <-timer.C:
		case <-p.quit:
			return
		}
		now := time.Now()
		wake := p.decide(now)
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
	}
}

// decide carries out one decision of the scaler and returns when to ask again.
func (p *Pool) decide(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase == phaseClosed {
		return time.Time{}
	}
	p.observe(now)
	check := p.checkHealth(now)
	d := p.scaler.Decide(p.fleet(), now)
	if p.unserved > 0 {
		p.unserved = 0
		p.observe(now)
	}
	if p.phase == phaseQuiet {
		d = p.quieten(d)
	}
	for range d.Start {
		p.start(now)
	}
	for range d.Release {
		in := p.leastNeeded()
		if in == nil {
			break
		}
		p.release(in, drainNotNeeded)
	}
	if d.Start > 0 {
		check = sooner(check, now.Add(p.scaler.Overdue()))
	}
	return sooner(d.Wake, check)
}

// quieten reduces a decision to what waiting requests need.
func (p *Pool) quieten(d scale.Decision) scale.Decision {
	f := p.fleet()
	if p.disp.Queued() == 0 || f.Ready+f.Starting > 0 {
		d.Start = 0
	} else {
		d.Start = min(d.Start, 1)
	}
	return d
}

// fleet counts the instances as the scaler sees them. Callers hold p.mu.
func (p *Pool) fleet() scale.Fleet {
	var f scale.Fleet
	for in := range p.instances {
		switch in.state {
		case StateStarting:
			switch {
			case in.lost, in.blamed:
			case in.overdue:
				f.Overdue++
			default:
				f.Starting++
			}
		case StateReady:
			f.Ready++
			if in.expiring {
				f.Expiring++
			}
		case StateDraining:
			if !in.lost {
				f.Draining++
			}
		case StateClosed:
		}
	}
	return f
}

// leastNeeded picks the instance to let go: one that is about to be replaced
// anyway, else the one with the least to do. Callers hold p.mu.
func (p *Pool) leastNeeded() *instance {
	for in := range p.instances {
		if in.state == StateReady && in.expiring && in.slots.InFlight() == 0 {
			return in
		}
	}
	if slot := p.disp.Idlest(); slot != nil {
		return slot.Owner.(*instance)
	}
	return nil
}

// giveUpQueue fails all waiting requests if the pool has become unavailable. It
// is called when an instance is lost or cannot be started, and only then: a
// request that has waited for the next attempt gets that attempt's outcome.
// Callers hold p.mu.
func (p *Pool) giveUpQueue(now time.Time) {
	err := p.unavailable(now)
	if err == nil || p.disp.Queued() == 0 {
		return
	}
	p.log.Error("function cannot be started, failing waiting requests",
		zap.Int("requests", p.disp.Queued()), zap.Error(err))
	p.failWaiters(err)
	p.observe(now)
	p.settle()
}

// unavailable returns an *UnavailableError if no instance is ready and the
// scaler has given up starting any for now, else nil. Callers hold p.mu.
func (p *Pool) unavailable(now time.Time) error {
	if p.lastFailure == nil || invoke.KindOf(p.lastFailure) == invoke.KindThrottled {
		return nil // concurrency frees up as others end: that is worth waiting for
	}
	blocked, until := p.scaler.Blocked(now)
	if !blocked {
		return nil
	}
	for in := range p.instances {
		if in.state == StateReady {
			return nil
		}
	}
	return &UnavailableError{Cause: p.lastFailure, RetryAt: until}
}
