package appproxy

import (
	"sync"
	"time"
)

const (
	// lineBurst and lineEvery bound the lines about requests: an app that is
	// gone can fail thousands in a second.
	lineBurst = 100
	lineEvery = 200 * time.Millisecond
)

// LogLimit bounds how many lines are logged about the same thing: 100 at once
// and 5 a second. It is safe for concurrent use.
type LogLimit struct {
	mu      sync.Mutex
	budget  float64   // guarded by mu; lines
	last    time.Time // guarded by mu
	omitted int       // guarded by mu
}

// NewLogLimit returns a limit that nothing has been taken from.
func NewLogLimit() *LogLimit { return &LogLimit{budget: lineBurst} }

// Take reports whether a line may be logged, and how many were omitted since
// the last one that was.
func (l *LogLimit) Take() (omitted int, ok bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budget = min(lineBurst, l.budget+float64(now.Sub(l.last))/float64(lineEvery))
	l.last = now
	if l.budget < 1 {
		l.omitted++
		return 0, false
	}
	l.budget--
	omitted, l.omitted = l.omitted, 0
	return omitted, true
}
