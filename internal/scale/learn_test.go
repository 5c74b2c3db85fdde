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
	s.add(8 * time.Second)
	if s.typical() != 8*time.Second || s.slow() != 8*time.Second {
		t.Error("one start is not enough")
	}
	for range 10 {
		s.add(2 * time.Second)
	}
	s.add(time.Hour) // once out of twelve
	if got := s.typical(); got != 2*time.Second {
		t.Errorf("typical is %v", got)
	}
	if got := s.slow(); got != 8*time.Second {
		t.Errorf("slow is %v", got)
	}
	for range startsKept {
		s.add(time.Second)
	}
	if s.slow() != time.Second {
		t.Error("does not forget")
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
	if got, _ := s.mean(); got.Round(ms) != 100*ms {
		t.Errorf("mean is %v", got)
	}
	s.add(10 * time.Minute) // a WebSocket
	if got, _ := s.mean(); got > 200*ms {
		t.Errorf("one long request makes the mean %v", got)
	}
	if s.long() != 10*time.Minute {
		t.Errorf("long is %v", s.long())
	}
	for range 200 {
		s.add(2 * time.Second)
	}
	if got, _ := s.mean(); got.Round(10*ms) != 2*time.Second {
		t.Errorf("mean is %v after a change", got)
	}
	for range 3 {
		now = now.Add(longestKept)
		s.add(time.Second)
	}
	if s.long() != time.Second {
		t.Errorf("long is %v long after", s.long())
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
			s := New(Config{}, epoch, func() float64 { return tc.random })
			if tc.start > 0 {
				s.Started(tc.start, epoch)
			}
			if tc.served > 0 {
				s.Served(tc.served)
			}
			replaceAt, drainAt := s.Retire(epoch, epoch.Add(tc.life))
			if replaceAt.Sub(epoch) != tc.replace || drainAt.Sub(epoch) != tc.drain {
				t.Errorf("replaced after %v, drains after %v; want %v, %v",
					replaceAt.Sub(epoch), drainAt.Sub(epoch), tc.replace, tc.drain)
			}
		})
	}
	t.Run("no deadline", func(t *testing.T) {
		s := New(Config{}, epoch, func() float64 { return 0 })
		if _, drainAt := s.Retire(epoch, time.Time{}); drainAt.Sub(epoch) != 890*time.Second {
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
