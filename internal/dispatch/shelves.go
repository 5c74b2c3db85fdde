package dispatch

import (
	"math/bits"
	"slices"
)

// The shelves, by what the rule of choice makes of the instances on them.
const (
	belowTarget = iota // first choice, the busiest first
	belowMax           // second choice, the least busy first
	full               // no choice, but one of them may be the idlest
	shelfCount
)

// shelfOf returns where an instance belongs. One that is to get nothing for now
// is full, also with nothing in flight.
func shelfOf(in *Instance) int {
	switch {
	case in.inFlight < in.limits.Target:
		return belowTarget
	case in.inFlight < in.limits.Max:
		return belowMax
	default:
		return full
	}
}

// shelves hold every ready instance, sorted in such a way that the choice needs
// no search. An instance is taken off for as long as its in-flight count
// changes: the count says which pile it is on.
//
// Every pile is in the order of last use, because to use an instance is to take
// it off and put it back on top.
type shelves struct {
	by   [shelfCount]shelf
	uses uint64
}

// put files an instance as the most recently used one.
func (s *shelves) put(in *Instance) {
	s.uses++
	in.used = s.uses
	in.shelf = shelfOf(in)
	s.by[in.shelf].push(in)
}

// remove takes an instance off from where put filed it.
func (s *shelves) remove(in *Instance) {
	s.by[in.shelf].remove(in)
}

// choose returns the instance that gets the next request: the busiest below
// its target, so that the others become idle and can be let go; if there is
// none, the least busy below its maximum. Among equals it is the most recently
// used, for the same reason. It returns nil if no slot is free.
func (s *shelves) choose() *Instance {
	if p := s.by[belowTarget].busiest(); p != nil {
		return p.front()
	}
	if p := s.by[belowMax].leastBusy(); p != nil {
		return p.front()
	}
	return nil
}

// idlest returns the instance with the least in flight and, among equals, the
// one whose last use is longest ago. It returns nil if the shelves are empty.
func (s *shelves) idlest() *Instance {
	var best *Instance
	for i := range s.by {
		p := s.by[i].leastBusy()
		if p == nil {
			continue
		}
		in := p.back()
		if best == nil || in.inFlight < best.inFlight ||
			in.inFlight == best.inFlight && in.used < best.used {
			best = in
		}
	}
	return best
}

// shelf is a row of piles, one for each in-flight count, and a bitmap of those
// that are not empty. It grows with the counts that occur, not with the limits.
// To find a pile takes one step for 64 counts.
type shelf struct {
	piles  []list[Instance]
	filled []uint64
}

func (s *shelf) push(in *Instance) {
	n := in.inFlight
	for len(s.piles) <= n {
		s.piles = append(s.piles, list[Instance]{})
	}
	for len(s.filled) <= n/64 {
		s.filled = append(s.filled, 0)
	}
	s.piles[n].pushFront(&in.link, in)
	s.filled[n/64] |= 1 << (n % 64)
}

func (s *shelf) remove(in *Instance) {
	n := in.inFlight
	s.piles[n].remove(&in.link)
	if s.piles[n].empty() {
		s.filled[n/64] &^= 1 << (n % 64)
	}
}

// busiest returns the pile with the highest count, nil if all are empty.
func (s *shelf) busiest() *list[Instance] {
	for i, word := range slices.Backward(s.filled) {
		if word != 0 {
			return &s.piles[i*64+bits.Len64(word)-1]
		}
	}
	return nil
}

// leastBusy returns the pile with the lowest count, nil if all are empty.
func (s *shelf) leastBusy() *list[Instance] {
	for i, word := range s.filled {
		if word != 0 {
			return &s.piles[i*64+bits.TrailingZeros64(word)]
		}
	}
	return nil
}
