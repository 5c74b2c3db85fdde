//go:build unix

package locallambda

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// These tests run environments whose processes are goroutines, in time that
// does not pass by itself, so that ten seconds and fifteen minutes are exact.

// stage is a service with such environments, and a record of what is done to
// them.
type stage struct {
	*Service
	start   time.Time
	runtime func(f *fake) // what the runtime does, until its context ends

	mu      sync.Mutex // guards what follows
	record  []string   // of what is done to sandboxes
	results []string   // of what callers get; apart, as they get it at the same time
}

// fake is a sandbox of goroutines.
type fake struct {
	stage  *stage
	ctx    context.Context // ends with the sandbox
	cancel context.CancelFunc
	ses    *session
	ends   chan exit
	work   sync.WaitGroup
	term   chan struct{}
	gone   sync.Once // the runtime
}

// newStage must be called in a bubble.
func newStage(runtime func(*fake)) *stage {
	s := &stage{Service: New(zap.NewNop()), start: time.Now(), runtime: runtime}
	s.newSandbox = func(c sandboxConfig) (sandbox, error) {
		f := &fake{stage: s, ses: newSession(c.settings.session(c.settings.Extensions)), ends: make(chan exit, 1+len(c.settings.Extensions)), term: make(chan struct{})}
		f.ctx, f.cancel = context.WithCancel(context.Background())
		return f, nil
	}
	return s
}

func (s *stage) log(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = append(s.record, fmt.Sprintf("%v %s", time.Since(s.start), what))
}

// expect compares the results so far, and the record with lines like "2s freeze".
func (s *stage) expect(t *testing.T, results string, want ...string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.results, ", "); got != results {
		t.Errorf("results are %s, want %s", got, results)
	}
	if !slices.Equal(s.record, want) {
		t.Errorf("record is\n\t%s\nwant\n\t%s", strings.Join(s.record, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (s *stage) deploy(t *testing.T, f Function) {
	t.Helper()
	f.Name, f.Command = "app", []string{"app"}
	if err := s.Deploy(f); err != nil {
		t.Fatal(err)
	}
}

// invoke returns status and body.
func (s *stage) invoke() string {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/2015-03-31/functions/app/invocations", http.NoBody))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, fmt.Sprintf("%d at %v", w.Code, time.Since(s.start)))
	return w.Body.String()
}

func (f *fake) session() *session  { return f.ses }
func (f *fake) exits() <-chan exit { return f.ends }
func (f *fake) pid() int           { return 1 }
func (f *fake) survey()            {}

func (f *fake) startExtensions() error {
	f.stage.log("start")
	for name := range f.ses.external {
		f.work.Go(func() {
			id, err := f.ses.register(name, []string{eventShutdown})
			if err != nil {
				panic(err)
			}
			event, err := f.ses.nextEvent(f.ctx, id)
			if err == nil {
				f.stage.log(name + " hears " + event.Type + " " + event.Reason)
				f.sleep(500 * time.Millisecond)
				f.ends <- exit{extension: name}
			}
		})
	}
	return nil
}

func (f *fake) startRuntime() error {
	f.work.Go(func() { f.stage.runtime(f) })
	return nil
}

func (f *fake) freeze()                { f.stage.log("freeze") }
func (f *fake) thaw()                  { f.stage.log("thaw") }
func (f *fake) killExtension(n string) { f.stage.log("kill " + n) }

func (f *fake) terminateRuntime() {
	f.stage.log("terminate")
	close(f.term)
}

func (f *fake) killRuntime() {
	f.stage.log("kill runtime")
	f.leave()
}

// leave is the end of the runtime.
func (f *fake) leave() { f.gone.Do(func() { f.ends <- exit{} }) }

func (f *fake) close() {
	f.stage.log("kill")
	f.cancel()
	f.ses.end()
	f.work.Wait()
}

func (f *fake) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.ctx.Done():
	}
}

// serve answers every invocation after a while.
func (f *fake) serve(took time.Duration) {
	for {
		d, err := f.ses.next(f.ctx)
		if err != nil {
			return
		}
		f.sleep(took)
		if d, err = f.ses.claim(d.inv.id); err != nil {
			return
		}
		f.ses.settle(d, result{payload: []byte(`"done"`)})
	}
}

// bubble runs a test in its own time, with a stage.
func bubble(t *testing.T, name string, runtime func(*fake), test func(t *testing.T, s *stage)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			s := newStage(runtime)
			defer func() {
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}()
			test(t, s)
		})
	})
}

func TestInitPhase(t *testing.T) {
	// slowly needs the given times to become ready, one after the other, and a
	// second for each invocation.
	slowly := func(times ...time.Duration) func(*fake) {
		return func(f *fake) {
			took := times[0]
			times = times[1:]
			f.sleep(took)
			f.serve(time.Second)
		}
	}
	const never = time.Hour

	bubble(t, "just in time", slowly(9999*time.Millisecond), func(t *testing.T, s *stage) {
		s.deploy(t, Function{ColdStart: time.Second})
		s.invoke()
		s.expect(t, "200 at 11.999s", "1s start", "11.999s freeze")
	})
	bubble(t, "the second time", slowly(never, 2*time.Second), func(t *testing.T, s *stage) {
		s.deploy(t, Function{ColdStart: time.Second, Timeout: 4 * time.Second})
		if got := s.invoke(); got != `"done"` {
			t.Error(got)
		}
		s.expect(t, "200 at 14s", "1s start", "11s kill", "11s start", "14s freeze")
	})
	bubble(t, "the second time, too late for the invocation", slowly(never, 4*time.Second), func(t *testing.T, s *stage) {
		s.deploy(t, Function{Timeout: 4500 * time.Millisecond})
		if got := s.invoke(); !strings.Contains(got, "Task timed out after 4.50 seconds") {
			t.Error(got)
		}
		s.expect(t, "200 at 14.5s", "0s start", "10s kill", "10s start", "14.5s kill")
	})
	bubble(t, "never", slowly(never, never), func(t *testing.T, s *stage) {
		s.deploy(t, Function{Timeout: 15 * time.Second})
		if got := s.invoke(); !strings.Contains(got, `"errorType":"Sandbox.Timedout"`) {
			t.Error(got)
		}
		s.expect(t, "200 at 25s", "0s start", "10s kill", "10s start", "25s kill")
	})
}

func TestFunctionTimeout(t *testing.T) {
	hang := func(f *fake) { f.serve(time.Hour) }
	bubble(t, "default", hang, func(t *testing.T, s *stage) {
		s.deploy(t, Function{})
		if got := s.invoke(); !strings.Contains(got, "Task timed out after 900.00 seconds") {
			t.Error(got)
		}
		s.expect(t, "200 at 15m0s", "0s start", "15m0s kill")
	})
	bubble(t, "with an extension", hang, func(t *testing.T, s *stage) {
		s.deploy(t, Function{Timeout: 3 * time.Second, Extensions: []string{"ext"}})
		s.invoke()
		time.Sleep(2 * time.Second)
		s.expect(t, "200 at 3s", "0s start", "3s terminate", "3.3s kill runtime",
			"3.3s ext hears SHUTDOWN timeout", "3.8s kill")
	})
	bubble(t, "a runtime that leaves at once", func(f *fake) {
		f.work.Go(func() { f.serve(time.Hour) })
		select {
		case <-f.term:
			f.sleep(100 * time.Millisecond)
			f.leave()
		case <-f.ctx.Done():
		}
	}, func(t *testing.T, s *stage) {
		s.deploy(t, Function{Timeout: 3 * time.Second, Extensions: []string{"ext"}})
		s.invoke()
		time.Sleep(2 * time.Second)
		s.expect(t, "200 at 3s", "0s start", "3s terminate", "3.1s kill runtime",
			"3.1s ext hears SHUTDOWN timeout", "3.6s kill")
	})
}

func TestWarmEnvironments(t *testing.T) {
	second := func(f *fake) { f.serve(time.Second) }
	bubble(t, "reclaimed", second, func(t *testing.T, s *stage) {
		s.deploy(t, Function{})
		s.invoke()
		time.Sleep(4 * time.Minute)
		s.invoke()
		time.Sleep(6 * time.Minute)
		s.expect(t, "200 at 1s, 200 at 4m2s", "0s start", "1s freeze", "4m1s thaw", "4m2s freeze", "9m2s kill")
		if n := len(s.Environments("app")); n != 0 {
			t.Errorf("%d environments are left", n)
		}
	})
	bubble(t, "reclaimed with an extension", second, func(t *testing.T, s *stage) {
		s.deploy(t, Function{WarmFor: time.Minute, Extensions: []string{"ext"}})
		s.invoke()
		time.Sleep(2 * time.Minute)
		s.expect(t, "200 at 1s", "0s start", "1s freeze", "1m1s thaw", "1m1s terminate", "1m1.3s kill runtime",
			"1m1.3s ext hears SHUTDOWN spindown", "1m1.8s kill")
	})
	bubble(t, "not kept", second, func(t *testing.T, s *stage) {
		s.deploy(t, Function{WarmFor: -1})
		s.invoke()
		s.expect(t, "200 at 1s", "0s start", "1s kill")
	})
	bubble(t, "the one that was used last", second, func(t *testing.T, s *stage) {
		s.deploy(t, Function{WarmFor: 150 * time.Second})
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { s.invoke() })
		}
		both.Wait()
		for range 3 {
			time.Sleep(time.Minute)
			s.invoke()
		}
		infos := s.Environments("app")
		if len(infos) != 1 || infos[0].Invocations != 4 {
			t.Errorf("environments: %+v", infos)
		}
	})
}

// A caller waits a moment for its environment, so that invocations in a row
// share one, but not longer.
func TestCallerDoesNotWaitForSlowEnvironments(t *testing.T) {
	for _, c := range []struct {
		pause time.Duration // of the runtime between answer and poll
		want  string
	}{
		{50 * time.Millisecond, "200 at 50ms"},
		{time.Minute, "200 at 100ms"},
	} {
		bubble(t, c.want, func(f *fake) {
			for {
				d, err := f.ses.next(f.ctx)
				if err != nil {
					return
				}
				if d, err = f.ses.claim(d.inv.id); err != nil {
					panic(err)
				}
				f.ses.settle(d, result{})
				f.sleep(c.pause)
			}
		}, func(t *testing.T, s *stage) {
			s.deploy(t, Function{})
			s.invoke()
			if s.results[0] != c.want {
				t.Errorf("got %v", s.results)
			}
		})
	}
}

func TestClose(t *testing.T) {
	second := func(f *fake) { f.serve(time.Second) }
	bubble(t, "during a cold start", second, func(t *testing.T, s *stage) {
		s.deploy(t, Function{ColdStart: time.Hour})
		var call sync.WaitGroup
		call.Go(func() { s.invoke() })
		time.Sleep(time.Minute)
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		call.Wait()
		s.expect(t, "500 at 1m0s")
	})
	bubble(t, "with patience", second, func(t *testing.T, s *stage) {
		s.deploy(t, Function{Extensions: []string{"ext"}})
		s.invoke()
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		s.expect(t, "200 at 1s", "0s start", "1s freeze", "1s thaw", "1s terminate", "1.3s kill runtime",
			"1.3s ext hears SHUTDOWN spindown", "1.8s kill")
	})
	bubble(t, "with little patience", second, func(t *testing.T, s *stage) {
		s.deploy(t, Function{Extensions: []string{"ext"}})
		s.invoke()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		if got := time.Since(s.start); got != 1200*time.Millisecond {
			t.Errorf("closed after %v", got)
		}
	})
}

func TestStateMachine(t *testing.T) {
	s := New(zap.NewNop())
	e := newEnvironment(s, &function{settings: &Function{}}, "")
	e.become(StateInitialising)
	defer func() {
		if recover() == nil {
			t.Error("an environment became idle without having been invoked")
		}
	}()
	e.become(StateIdle)
}
