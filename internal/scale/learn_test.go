package scale

import (
	"testing"
	"time"
)

func TestStartTimes(t *testing.T) {
	var s startTimes
	if s.typical() != 0 || s.slow() != 0 {
		t.Error("knows something before it has learnt anything")
	}
	s.add(8*time.Second, epoch)
	if s.typical() != 8*time.Second || s.slow() != 8*time.Second {
		t.Error("one start is not enough")
	}
	for range 10 {
		s.add(2*time.Second, epoch)
	}
	s.add(9*time.Second, epoch) // once out of twelve
	if got := s.typical(); got != 2*time.Second {
		t.Errorf("typical is %v", got)
	}
	if got := s.slow(); got != 8*time.Second {
		t.Errorf("slow is %v", got)
	}
	for range startsKept {
		s.add(time.Second, epoch)
	}
	if s.slow() != time.Second {
		t.Error("does not forget")
	}
}

// An instance is overdue when it takes much longer than the slowest start that
// is remembered; an outage that is over must not make that forever.
func TestOverdueStarts(t *testing.T) {
	var s startTimes
	if s.overdue() != 10*time.Second || s.lost() != time.Minute {
		t.Errorf("overdue after %v, lost after %v when nothing is known", s.overdue(), s.lost())
	}
	for range 100 {
		s.add(20*ms, epoch) // environments that were warm
	}
	if s.overdue() != 5*time.Second || s.lost() != 30*time.Second {
		t.Errorf("overdue after %v, lost after %v when all was quick", s.overdue(), s.lost())
	}
	s.add(4*time.Second, epoch)
	for range 100 {
		s.add(20*ms, epoch)
	}
	if s.overdue() != 8*time.Second {
		t.Errorf("overdue after %v: the slow start is forgotten", s.overdue())
	}
	s.add(time.Minute, epoch)
	if s.overdue() != 32*time.Second {
		t.Errorf("overdue after %v: one late start counts more than twice what was expected", s.overdue())
	}
	for i := range 3 {
		s.add(20*ms, epoch.Add(time.Duration(i+1)*slowestKept))
	}
	if s.overdue() != 5*time.Second {
		t.Errorf("overdue after %v hours later", s.overdue())
	}
}

func TestServiceTimes(t *testing.T) {
	now := epoch
	var s serviceTimes
	s.setClock(&now)
	if _, learnt := s.mean(); learnt {
		t.Error("knows something before it has learnt anything")
	}
	for range 1000 {
		s.add(100 * ms)
	}
	if got, _ := s.mean(); got != 100*ms {
		t.Errorf("mean is %v", got)
	}
	for range 100 {
		s.add(10 * time.Minute) // all the WebSockets of an instance that goes
	}
	if got, _ := s.mean(); got != 100*ms {
		t.Errorf("WebSockets make the mean %v", got)
	}
	for range servicesKept / 4 {
		s.add(20 * time.Second) // shorter streams
	}
	if got, _ := s.mean(); got > 300*ms {
		t.Errorf("a quarter of streams makes the mean %v", got)
	}
	for range servicesKept {
		s.add(2 * time.Second)
	}
	if got, _ := s.mean(); got != 2*time.Second {
		t.Errorf("mean is %v after a change", got)
	}
}

// Where there are no other requests, long ones are what is learnt.
func TestServiceTimesOfLongRequestsOnly(t *testing.T) {
	var s serviceTimes
	s.setClock(&epoch)
	s.add(10 * time.Minute)
	if got, learnt := s.mean(); !learnt || got != serviceMost {
		t.Errorf("mean is %v, learnt %v", got, learnt)
	}
	for range servicesKept {
		s.add(10 * ms)
	}
	if got, _ := s.mean(); got > 20*ms {
		t.Errorf("mean is %v long after the first", got)
	}
}

func TestLongRequests(t *testing.T) {
	now := epoch
	var s serviceTimes
	s.setClock(&now)
	for range 1000 {
		s.add(time.Second)
	}
	s.add(40 * time.Second)
	s.add(10 * time.Minute)
	for most, want := range map[time.Duration]time.Duration{
		time.Hour: 10 * time.Minute, time.Minute: 40 * time.Second, 10 * time.Second: time.Second,
	} {
		if got := s.long(most); got != want {
			t.Errorf("of those that can take %v the longest takes %v, want %v", most, got, want)
		}
	}
	for range 50 {
		s.add(10 * time.Minute)
	}
	if got := s.long(time.Minute); got != time.Minute {
		t.Errorf("many that take longer than that are taken for %v", got)
	}
	for range 3 {
		now = now.Add(longestKept)
		s.add(2 * time.Second)
	}
	if got := s.long(time.Minute); got != 2*time.Second {
		t.Errorf("long is %v long after", got)
	}
}

func TestRetire(t *testing.T) {
	for _, tc := range []struct {
		name                string
		life, start, served time.Duration
		random              float64
		replace, drain      time.Duration // after the start
	}{
		{"10 s, nothing learnt", 10 * time.Second, 0, 0, 0, 6500 * ms, 9 * time.Second},
		{"10 s, jitter", 10 * time.Second, 0, 0, 0.5, 6 * time.Second, 8500 * ms},
		{"10 s, quick", 10 * time.Second, 400 * ms, 100 * ms, 0, 8500 * ms, 9 * time.Second},
		{"10 s, slow start", 10 * time.Second, 8 * time.Second, 0, 0, 5 * time.Second, 9 * time.Second},
		{"10 s, long requests", 10 * time.Second, 400 * ms, 5 * time.Second, 0, 7 * time.Second, 7500 * ms},
		{"60 s, nothing learnt", time.Minute, 0, 0, 0, 51500 * ms, 54 * time.Second},
		{"60 s, jitter", time.Minute, 0, 0, 0.5, 48500 * ms, 51 * time.Second},
		{"60 s, slow start, long requests", time.Minute, 8 * time.Second, 8 * time.Second, 0, 38 * time.Second, 48 * time.Second},
		{"900 s, nothing learnt", 900 * time.Second, 0, 0, 0, 887500 * ms, 890 * time.Second},
		{"900 s, jitter", 900 * time.Second, 0, 0, 0.5, 857500 * ms, 860 * time.Second},
		{"900 s, long requests", 900 * time.Second, 8 * time.Second, time.Minute, 0, 800 * time.Second, 810 * time.Second},
		{"900 s, WebSockets", 900 * time.Second, 8 * time.Second, time.Hour, 0, 665 * time.Second, 675 * time.Second},
		{"no life left", 0, 8 * time.Second, time.Second, 0.5, 0, 0},
		{"deadline before the start", -time.Second, 0, 0, 0.5, -time.Second, -time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(Config{}, epoch, func() float64 { return 0.5 })
			if tc.start > 0 {
				s.Started(tc.start, epoch)
			}
			if tc.served > 0 {
				s.Served(tc.served)
			}
			replaceAt, drainAt := s.Retire(epoch, epoch.Add(tc.life), tc.random)
			if replaceAt.Sub(epoch) != tc.replace || drainAt.Sub(epoch) != tc.drain {
				t.Errorf("replaced after %v, drains after %v; want %v, %v",
					replaceAt.Sub(epoch), drainAt.Sub(epoch), tc.replace, tc.drain)
			}
		})
	}
	t.Run("no deadline", func(t *testing.T) {
		s := New(Config{}, epoch, func() float64 { return 0 })
		if _, drainAt := s.Retire(epoch, time.Time{}, 0); drainAt.Sub(epoch) != 890*time.Second {
			t.Errorf("drains after %v", drainAt.Sub(epoch))
		}
	})
}

func TestDefaults(t *testing.T) {
	for _, tc := range []struct{ in, want Config }{
		{Config{}, Config{10, 5, 0, 100, time.Minute, 600, 100}},
		{Config{MaxConcurrent: 1}, Config{1, 1, 0, 100, time.Minute, 600, 100}},
		{Config{MaxConcurrent: 3, TargetConcurrent: 9, MinInstances: 7, MaxInstances: 4}, Config{3, 3, 4, 4, time.Minute, 600, 100}},
		{Config{-1, -1, -1, -1, -1, -1, -1}, Config{10, 5, 0, 100, time.Minute, 600, 100}},
	} {
		if got := tc.in.withDefaults(); got != tc.want {
			t.Errorf("%+v: %+v", tc.in, got)
		}
	}
}
