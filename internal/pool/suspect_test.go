package pool

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

// watchedTunnel can be suspected.
type watchedTunnel struct {
	tunnel.Tunnel
	suspect chan bool
}

func (w watchedTunnel) Suspect() <-chan bool { return w.suspect }

// watchedCallback makes every tunnel one that can be suspected.
type watchedCallback struct {
	Callback
	suspect chan bool
}

func (c watchedCallback) Expect(id string, secret []byte, accept func(tunnel.Tunnel)) func() {
	return c.Callback.Expect(id, secret, func(t tunnel.Tunnel) { accept(watchedTunnel{t, c.suspect}) })
}

// watch returns what makes the next instance suspect, and the settings of the
// pool from then on.
func (s *scene) watch() (suspect chan<- bool, set Settings) {
	c := make(chan bool)
	set = s.set
	set.Callback = watchedCallback{set.Callback, c}
	s.pool.Configure(set)
	return c, set
}

// An instance that does not answer keeps what it has and gets nothing more,
// also not by a reload, until it answers again.
func TestSuspectGetsNoMoreRequests(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 4, TargetConcurrent: 4, MaxInstances: 2, IdleTimeout: time.Minute}
	play(t, set, newFakeLambda(), func(s *scene) {
		suspect, set := s.watch()
		first := s.lease()
		suspect <- true
		synctest.Wait()
		if free := s.pool.Snapshot().FreeSlots; free != 0 {
			s.Errorf("%d slots are free while nobody answers", free)
		}
		s.pool.Configure(set)
		waiting, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		if free := s.pool.Snapshot(); free.FreeSlots != 0 || free.Queued != 1 {
			s.Errorf("after a reload: %+v", free)
		}
		suspect <- false
		if err := waiting.Wait(s.Context()); err != nil || waiting.in != first.in {
			s.Errorf("the instance that answers again was not used: %v", err)
		}
		if free := s.pool.Snapshot().FreeSlots; free != 2 {
			s.Errorf("%d slots are free", free)
		}
		first.Release()
		waiting.Release()
	})
}

// It gets nothing either when those who waited for it have left.
func TestIdleSuspectGetsNoRequests(t *testing.T) {
	set := settings()
	set.Scale = scale.Config{MaxConcurrent: 4, TargetConcurrent: 4, MaxInstances: 1, IdleTimeout: time.Minute}
	play(t, set, newFakeLambda(), func(s *scene) {
		suspect, _ := s.watch()
		impatient := s.lease()
		suspect <- true
		synctest.Wait()
		impatient.Release()
		l, err := s.pool.Enter()
		if err != nil {
			s.Fatal(err)
		}
		if !l.Queued() || s.pool.Snapshot().FreeSlots != 0 {
			s.Error("a request was given to an instance that does not answer")
		}
		suspect <- false
		if err := l.Wait(s.Context()); err != nil {
			s.Error(err)
		}
		l.Release()
	})
}
