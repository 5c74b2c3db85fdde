package pool

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/scale"
)

// fails makes requests for a while of a pool whose invocations fail, and returns
// the lines that say what to change.
func fails(s *scene, f *fakeLambda, cause error, lasts time.Duration) []observer.LoggedEntry {
	f.mu.Lock()
	f.fail = cause
	f.mu.Unlock()
	end := time.Now().Add(lasts)
	for time.Now().Before(end) {
		if l, err := s.pool.Enter(); err == nil {
			_ = l.Wait(s.Context())
			l.Release()
		}
		time.Sleep(time.Second) // in virtual time
	}
	return s.logs.FilterMessage("invocations fail").All()
}

// What fails a hundred times is explained once a minute, and counted.
func TestHintsAreFew(t *testing.T) {
	f := newFakeLambda()
	set := Settings{QueueSize: 10, QueueTimeout: 5 * time.Second,
		Scale: scale.Config{MaxConcurrent: 1, TargetConcurrent: 1, MaxInstances: 10, IdleTimeout: time.Minute}}
	play(t, set, f, func(s *scene) {
		denied := &invoke.Error{Kind: invoke.KindDenied, Code: "AccessDeniedException", Message: "no", Hint: "allow it"}
		lines := fails(s, f, denied, 5*time.Minute)
		if len(lines) < 4 || len(lines) > 6 {
			t.Errorf("%d lines in 5 minutes", len(lines))
		}
		if f.invocations() < 10 {
			t.Fatalf("only %d invocations", f.invocations())
		}
		omitted := 0
		for _, l := range lines {
			fields := l.ContextMap()
			if fields["hint"] != "allow it" || l.Level != zap.ErrorLevel || !strings.Contains(fields["error"].(string), "AccessDenied") {
				t.Errorf("line is %v %v", l.Level, fields)
			}
			omitted += int(fields["omitted"].(int64))
		}
		if all := len(lines) + omitted; all < f.invocations()-20 || all > f.invocations() {
			t.Errorf("%d lines and %d omitted of %d invocations", len(lines), omitted, f.invocations())
		}
		// Another cause is said at once.
		throttled := &invoke.Error{Kind: invoke.KindThrottled, Message: "no", Hint: "raise it"}
		before := len(lines)
		lines = fails(s, f, throttled, 30*time.Second)[before:]
		if len(lines) != 1 || lines[0].ContextMap()["hint"] != "raise it" || lines[0].Level != zap.WarnLevel {
			t.Errorf("lines are %v", lines)
		}
		// One that nobody can help is not.
		before += len(lines)
		if lines = fails(s, f, &invoke.Error{Kind: invoke.KindService, Message: "no"}, 30*time.Second)[before:]; len(lines) != 0 {
			t.Errorf("lines are %v", lines)
		}
	})
}

// What the adapter reports is explained with the address that it was told.
func TestHintsForResults(t *testing.T) {
	in := &instance{router: "10.0.1.117:7443"}
	for reason, want := range map[invoke.Reason][]string{
		invoke.ReasonRouterUnreachable: {"10.0.1.117:7443", "VPC", "security group", "TCP 7443", "advertise"},
		invoke.ReasonRouterRefused:     {"10.0.1.117:7443", "advertise", "TLS"},
		invoke.ReasonAppUnavailable:    {"the app", "LAMBDA_DISPATCH_PORT"},
		invoke.ReasonBadEvent:          {"version"},
		invoke.ReasonDrained:           nil,
	} {
		hint := in.hint(resultError(invoke.Result{Reason: reason, Error: "dial tcp: i/o timeout"}))
		if (hint == "") != (want == nil) {
			t.Errorf("%s: hint is %q", reason, hint)
		}
		for _, w := range want {
			if !strings.Contains(hint, w) {
				t.Errorf("%s: hint %q does not say %q", reason, hint, w)
			}
		}
	}
}

func TestHintForAnEnvironmentThatNeverCallsBack(t *testing.T) {
	f := newFakeLambda()
	f.mute = true
	play(t, settings(), f, func(s *scene) {
		if l, err := s.pool.Enter(); err == nil {
			_ = l.Wait(s.Context())
			l.Release()
		}
		synctest.Wait()
		time.Sleep(3 * time.Minute)
		lines := s.logs.FilterMessage("invocations fail").All()
		if len(lines) == 0 || !strings.Contains(lines[0].ContextMap()["hint"].(string), "lambdaadapter is the entry point") {
			t.Errorf("lines are %v", lines)
		}
	})
}

// Lambda's default timeout of 3 s works, and is not what anybody wants.
func TestAShortFunctionTimeoutIsMentionedOnce(t *testing.T) {
	for timeout, want := range map[time.Duration]int{3 * time.Second: 1, 15 * time.Minute: 0} {
		f := newFakeLambda()
		f.timeout = timeout
		play(t, settings(), f, func(s *scene) {
			for range 3 {
				s.lease().Release()
				time.Sleep(10 * time.Second)
			}
			lines := s.logs.FilterMessage("function timeout is short").All()
			if len(lines) != want {
				t.Fatalf("%d lines for a timeout of %v", len(lines), timeout)
			}
			for _, l := range lines {
				if l.Level != zap.WarnLevel || !strings.Contains(l.ContextMap()["hint"].(string), "900 s") {
					t.Errorf("line is %v", l)
				}
			}
		})
	}
}
