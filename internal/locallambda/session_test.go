package locallambda

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func kindOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.kind
	}
	return fmt.Sprint(err)
}

func TestRegistration(t *testing.T) {
	s := newSession(sessionConfig{names: []string{"ext"}})
	register := func(want, name string, events ...string) {
		t.Helper()
		if _, err := s.register(name, events); kindOf(err) != want {
			t.Errorf("%q %v: %v, want %s", name, events, err, want)
		}
	}
	register("Extension.InvalidExtensionName", "")
	register("Extension.InvalidEventType", "ext", "RESTART")
	register("Extension.InvalidEventType", "internal", eventShutdown)
	if s.registered() {
		t.Error("the external extension counts as registered")
	}
	register("<nil>", "ext", eventInvoke, eventShutdown)
	register("Extension.InvalidExtensionState", "ext")
	if !s.registered() {
		t.Error("the external extension does not count as registered")
	}
	for i := range maxExtensions - 1 {
		register("<nil>", fmt.Sprint("internal", i), eventInvoke)
	}
	register("Extension.TooManyExtensions", "one more")

	for id, want := range map[string]string{
		"":        "Extension.MissingExtensionIdentifier",
		"x":       "Extension.InvalidExtensionIdentifier",
		newUUID(): "Extension.UnknownExtensionIdentifier",
	} {
		if _, err := s.nextEvent(t.Context(), id); kindOf(err) != want {
			t.Errorf("identifier %q: %v", id, err)
		}
	}

	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := s.next(gone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	register("Extension.RegistrationClosed", "late")
}

func TestGraceDependsOnExtensions(t *testing.T) {
	check := func(s *session, total, runtime time.Duration) {
		t.Helper()
		if a, b := s.grace(); a != total || b != runtime {
			t.Errorf("grace is %v, %v for the runtime; want %v, %v", a, b, total, runtime)
		}
	}
	s := newSession(sessionConfig{names: []string{"ext"}})
	check(s, 0, 0)
	mustRegister(t, s, "internal")
	check(s, 500*time.Millisecond, 500*time.Millisecond)
	mustRegister(t, s, "ext")
	check(s, 2*time.Second, 300*time.Millisecond)
	if got := s.shutDown(reasonSpindown, time.Now()); fmt.Sprint(got) != "[ext]" {
		t.Errorf("%v did not subscribe", got)
	}
}

func mustRegister(t *testing.T, s *session, name string, events ...string) string {
	t.Helper()
	id, err := s.register(name, events)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func testInvocation(id string) *invocation {
	return &invocation{id: id, done: make(chan struct{})}
}

// A poll that broke off before its event was delivered must not lose it.
func TestEventsSurviveBrokenPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSession(sessionConfig{names: []string{"ext"}})
		id := mustRegister(t, s, "ext", eventInvoke)
		ctx, breakOff := context.WithCancel(t.Context())
		for _, poll := range []func(){
			func() { _, _ = s.next(ctx) },
			func() { _, _ = s.nextEvent(ctx, id) },
		} {
			go poll()
		}
		synctest.Wait()
		if !s.idle() {
			t.Fatal("not idle")
		}
		breakOff()
		synctest.Wait()

		s.begin(testInvocation("1"), time.Now())
		d, err := s.next(t.Context())
		if err != nil || d.inv.id != "1" {
			t.Fatalf("%+v, %v", d, err)
		}
		event, err := s.nextEvent(t.Context(), id)
		if err != nil || event.Type != eventInvoke || event.RequestID != "1" {
			t.Fatalf("%+v, %v", event, err)
		}
		if _, err := s.next(t.Context()); kindOf(err) != "InvalidStateTransition" {
			t.Errorf("a runtime with an open invocation gets: %v", err)
		}
		if _, err := s.claim("1"); err != nil {
			t.Fatal(err)
		}
		s.settle(d, result{})
		last, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _, _ = s.next(last) }()
		synctest.Wait()
		if s.idle() {
			t.Error("idle while the extension works")
		}
	})
}

func TestAnswerIsGivenOnce(t *testing.T) {
	s := newSession(sessionConfig{})
	begun := s.begin(testInvocation("1"), time.Now())
	if _, err := s.claim("2"); kindOf(err) != "InvalidRequestID" {
		t.Error(err)
	}
	d, err := s.claim("1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.claim("1"); kindOf(err) != "InvalidStateTransition" {
		t.Error(err)
	}
	s.unclaim(d) // it broke off
	if _, err = s.claim("1"); err != nil {
		t.Error(err)
	}
	if _, ok := s.answer(begun); ok {
		t.Error("answered before the answer was there")
	}
	s.settle(d, result{payload: []byte("1")})
	if r, ok := s.answer(begun); !ok || string(r.payload) != "1" {
		t.Errorf("%+v, %v", r, ok)
	}
}

func TestEndReleasesEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSession(sessionConfig{})
		id := mustRegister(t, s, "internal")
		errs := make(chan error, 2)
		go func() { _, err := s.next(t.Context()); errs <- err }()
		go func() { _, err := s.nextEvent(t.Context(), id); errs <- err }()
		synctest.Wait()
		s.end()
		s.end()
		for range 2 {
			if err := <-errs; !errors.Is(err, errEnded) {
				t.Error(err)
			}
		}
	})
}
