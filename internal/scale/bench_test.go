package scale

import (
	"testing"
	"time"
)

// busy is a Scaler in the middle of things.
func busy() *Scaler {
	s := New(Config{MaxConcurrent: 10}, epoch, func() float64 { return 0.5 })
	s.Started(2*time.Second, epoch)
	for i := range 5000 {
		s.Observe(Load{InFlight: 50 + i%5, Queued: i % 3}, epoch.Add(time.Duration(i)*ms))
		s.Served(100 * ms)
	}
	return s
}

// TestNothingIsAllocated: the pool calls these with its lock held.
func TestNothingIsAllocated(t *testing.T) {
	s, now, i := busy(), epoch.Add(5*time.Second), 0
	f := Fleet{Ready: 10, Starting: 1}
	for name, call := range map[string]func(){
		"Observe": func() { s.Observe(Load{InFlight: 50 + i%5, Queued: i % 3}, now) },
		"Served":  func() { s.Served(100 * ms) },
		"Decide":  func() { s.Decide(f, now) },
		"Failed":  func() { s.Failed(FailureOther, now) },
		"Started": func() { s.Started(time.Second, now) },
		"Blocked": func() { s.Blocked(now) },
		"Retire":  func() { s.Retire(now, now.Add(time.Minute), 0.5) },
	} {
		if n := testing.AllocsPerRun(1000, func() {
			i++
			now = now.Add(100 * time.Microsecond)
			call()
		}); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, tc := range []struct {
		name string
		dt   time.Duration
	}{{"100k/s", 10 * time.Microsecond}, {"1k/s", time.Millisecond}, {"10/s", 100 * time.Millisecond}} {
		b.Run(tc.name, func(b *testing.B) {
			s, now, i := busy(), epoch.Add(5*time.Second), 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				now = now.Add(tc.dt)
				s.Observe(Load{InFlight: 50 + i%5, Queued: i % 3}, now)
			}
		})
	}
}

func BenchmarkServed(b *testing.B) {
	s := busy()
	b.ReportAllocs()
	for b.Loop() {
		s.Served(100 * ms)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, tc := range []struct {
		name string
		load Load
	}{{"steady", Load{InFlight: 50}}, {"queue", Load{InFlight: 100, Queued: 40}}} {
		b.Run(tc.name, func(b *testing.B) {
			s, now := busy(), epoch.Add(5*time.Second)
			s.Observe(tc.load, now)
			f := Fleet{Ready: 10, Starting: 1}
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(100 * time.Microsecond)
				s.Decide(f, now)
			}
		})
	}
}
