package pool

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
)

// What crosses zones can be told from what does not, while instances live and
// after they are gone.
func TestTrafficIsCountedByZone(t *testing.T) {
	f := newFakeLambda()
	f.coldStart = time.Second // so that the instances have an order
	set := Settings{QueueSize: 1, Zone: "euc1-az2", Scale: scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 10, IdleTimeout: time.Minute}}
	play(t, set, f, func(s *scene) {
		for i, zone := range []string{"euc1-az2", "euc1-az3", "", "euc1-az2"} {
			f.mu.Lock()
			f.zone = zone
			f.mu.Unlock()
			l := s.lease() // one instance each, since the others are busy
			defer l.Release()
			fakeOf(l).carry(uint64(10+i), uint64(100+i))
		}
		want := []Traffic{{ZoneSame, 10 + 13, 100 + 103}, {ZoneCross, 11, 101}, {ZoneUnknown, 12, 102}}
		if got := s.pool.Snapshot().Traffic; !slices.Equal(got, want) {
			t.Errorf("traffic is %v, want %v", got, want)
		}
		if got := s.pool.Snapshot().Instances[1].Zone; got != "euc1-az3" {
			t.Errorf("the second instance is in zone %q", got)
		}
		_ = f.tunnel(1).Close()
		synctest.Wait()
		if n := len(s.pool.Snapshot().Instances); n != 3 {
			t.Fatalf("%d instances are left", n)
		}
		if got := s.pool.Snapshot().Traffic; !slices.Equal(got, want) {
			t.Errorf("after the end of an instance the traffic is %v, want %v", got, want)
		}
	})
}

// A router that does not know its zone knows nothing of the traffic's.
func TestTrafficOfARouterWithoutAZone(t *testing.T) {
	f := newFakeLambda()
	f.zone = "euc1-az2"
	play(t, Settings{QueueSize: 1}, f, func(s *scene) {
		l := s.lease()
		defer l.Release()
		fakeOf(l).carry(1, 2)
		want := []Traffic{{ZoneSame, 0, 0}, {ZoneCross, 0, 0}, {ZoneUnknown, 1, 2}}
		if got := s.pool.Snapshot().Traffic; !slices.Equal(got, want) {
			t.Errorf("traffic is %v, want %v", got, want)
		}
	})
}
