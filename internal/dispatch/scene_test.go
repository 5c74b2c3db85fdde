package dispatch

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// scene lets a rule be told as a story of named requests and instances.
type scene struct {
	t         *testing.T
	d         *Dispatcher
	now       time.Time
	requests  map[string]*Waiter
	instances map[string]*Instance
	granted   []string // since the last call of expectGrants
}

const (
	queued  = "queued"
	refused = "refused"
)

func newScene(t *testing.T, queueSize int) *scene {
	s := &scene{
		t:         t,
		now:       time.Unix(1e9, 0),
		requests:  map[string]*Waiter{},
		instances: map[string]*Instance{},
	}
	s.d = New(Config{QueueSize: queueSize}, func(w *Waiter, in *Instance) {
		s.granted = append(s.granted, fmt.Sprint(w.Owner, "→", in.Owner))
	})
	return s
}

func (s *scene) request(name string) *Waiter {
	if s.requests[name] == nil {
		s.requests[name] = &Waiter{Owner: name}
	}
	return s.requests[name]
}

// add adds an instance that has some requests in flight already.
func (s *scene) add(name string, inFlight, target, most int) {
	in := &Instance{Owner: name}
	s.instances[name] = in
	s.d.Add(in, Limits{Target: target, Max: most}, s.now)
	for range inFlight {
		s.d.occupy(in)
	}
}

func (s *scene) outcome(in *Instance, err error) string {
	switch {
	case errors.Is(err, ErrQueueFull):
		return refused
	case in == nil:
		return queued
	default:
		return in.Owner.(string)
	}
}

// acquire lets a request arrive and checks what becomes of it.
func (s *scene) acquire(name, want string) {
	s.t.Helper()
	if got := s.outcome(s.d.Acquire(s.request(name), s.now)); got != want {
		s.t.Fatalf("acquire %s: %s, want %s", name, got, want)
	}
}

func (s *scene) requeue(name, want string) {
	s.t.Helper()
	if got := s.outcome(s.d.Requeue(s.request(name)), nil); got != want {
		s.t.Fatalf("requeue %s: %s, want %s", name, got, want)
	}
}

func (s *scene) cancel(name string, want bool) {
	s.t.Helper()
	if got := s.d.Cancel(s.request(name)); got != want {
		s.t.Fatalf("cancel %s: %v, want %v", name, got, want)
	}
}

func (s *scene) release(name string) { s.d.Release(s.instances[name], s.now) }
func (s *scene) drain(name string)   { s.d.Drain(s.instances[name]) }
func (s *scene) remove(name string)  { s.d.Remove(s.instances[name]) }

func (s *scene) setLimits(name string, target, most int) {
	s.d.SetLimits(s.instances[name], Limits{Target: target, Max: most})
}

// expectGrants checks who was granted what since it was called last.
func (s *scene) expectGrants(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.granted, want) {
		s.t.Fatalf("granted %q, want %q", s.granted, want)
	}
	s.granted = nil
}

func (s *scene) expect(waiting, inFlight, free, readyCount, drainingCount int) {
	s.t.Helper()
	got := []int{s.d.Queued(), s.d.InFlight(), s.d.Free(), s.d.Ready(), s.d.Draining()}
	if want := []int{waiting, inFlight, free, readyCount, drainingCount}; !slices.Equal(got, want) {
		s.t.Fatalf("queued, in flight, free, ready, draining: %v, want %v", got, want)
	}
}

func (s *scene) expectIdlest(want string) {
	s.t.Helper()
	got := "none"
	if in := s.d.Idlest(); in != nil {
		got = in.Owner.(string)
	}
	if got != want {
		s.t.Fatalf("idlest is %s, want %s", got, want)
	}
}
