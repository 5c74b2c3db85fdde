package locallambda

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// maxWaitingEvents bounds the asynchronous invocations that wait for an
// environment of one function.
const maxWaitingEvents = 1000

// outputGrace is how long Close waits for an Output that does not take its
// last lines.
const outputGrace = time.Second

// Service is a local Lambda service. It is an [http.Handler] that speaks the
// Invoke API. It is safe for concurrent use.
type Service struct {
	logger     *zap.Logger
	host       *host
	newSandbox func(sandboxConfig) (sandbox, error) // replaced in tests

	stopping context.Context // done once Close has begun: environments go, gracefully
	stop     context.CancelFunc
	killing  context.Context // done when Close's patience is over: no more grace
	kill     context.CancelFunc

	lives sync.WaitGroup // goroutines of environments

	mu        sync.Mutex // guards what follows and the fields of function and environment that say so
	closed    bool
	functions map[string]*function
	draining  []*output // of functions that are gone, with lines still to write
}

// function is a deployed function with its environments.
type function struct {
	ref    reference
	output *output

	// The rest is guarded by Service.mu.

	settings *Function      // for new environments; nil once removed
	all      []*environment // that are not gone, oldest first
	warm     []*environment // of those the idle ones, most recently used last
	busy     int            // of those the initialising and invoking ones
	waiting  []*invocation  // events for which there was no environment
}

// New returns a service without functions. Call Close when done with it.
func New(logger *zap.Logger) *Service {
	s := &Service{
		logger:     logger,
		host:       newHost(logger),
		newSandbox: newProcesses,
		functions:  make(map[string]*function),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.killing, s.kill = context.WithCancel(context.Background())
	return s
}

// Deploy makes a function known, or gives a known one new settings: running
// environments finish with the old ones, idle ones of the old settings are
// shut down. Deploying equal settings again changes nothing but the Output.
func (s *Service) Deploy(f Function) error {
	ref, err := f.deployable()
	if err != nil {
		return err
	}
	f = f.withDefaults()
	f.Command, f.Env = slices.Clone(f.Command), slices.Clone(f.Env)
	f.Extensions, f.Layers = slices.Clone(f.Extensions), slices.Clone(f.Layers)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	fn := s.functions[ref.key()]
	if fn == nil {
		fn = &function{ref: ref, output: newOutput()}
		s.functions[ref.key()] = fn
	}
	fn.output.set(f.Output)
	if fn.settings != nil && fn.settings.same(f) {
		return nil
	}
	fn.settings = &f
	fn.retireWarm()
	return nil
}

// Validate returns the error that [Service.Deploy] would return for the function
// itself.
func (f Function) Validate() error {
	_, err := f.deployable()
	return err
}

func (f Function) deployable() (reference, error) {
	if err := supported(); err != nil {
		return reference{}, err
	}
	ref, err := parseReference(f.Name)
	if err != nil {
		return reference{}, fmt.Errorf("deploying function: %w", err)
	}
	if err := f.validate(); err != nil {
		return reference{}, fmt.Errorf("deploying function %s: %w", ref.key(), err)
	}
	return ref, nil
}

// Remove makes a function unknown: running invocations finish, idle
// environments are shut down and waiting events are dropped. It does nothing
// if there is no such function.
func (s *Service) Remove(name string) {
	ref, err := parseReference(name)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fn := s.functions[ref.key()]
	if fn == nil {
		return
	}
	fn.settings = nil
	fn.drop()
	fn.retireWarm()
	s.forget(fn)
}

// forget lets go of a removed function once its last environment is gone.
// Until then it is kept so that Environments shows them. Called with s.mu held.
func (s *Service) forget(fn *function) {
	if fn.settings == nil && len(fn.all) == 0 && s.functions[fn.ref.key()] == fn {
		delete(s.functions, fn.ref.key())
		fn.output.close()
		s.draining = slices.DeleteFunc(append(s.draining, fn.output), (*output).isDrained)
	}
}

// drop ends the events that wait. Called with Service.mu held.
func (fn *function) drop() {
	for _, inv := range fn.waiting {
		inv.finish(result{refused: errNotFound(fn.ref)})
	}
	fn.waiting = nil
}

// retireWarm sends every idle environment away, beyond the reach of
// invocations from now on. Called with Service.mu held.
func (fn *function) retireWarm() {
	for _, e := range fn.warm {
		e.become(StateShuttingDown)
		close(e.retire)
	}
	fn.warm = nil
}

// Environments describes the environments of a function that are not gone,
// oldest first. It is empty for an unknown function.
func (s *Service) Environments(name string) []EnvironmentInfo {
	ref, err := parseReference(name)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fn := s.functions[ref.key()]
	if fn == nil {
		return nil
	}
	infos := make([]EnvironmentInfo, 0, len(fn.all))
	for _, e := range fn.all {
		infos = append(infos, EnvironmentInfo{
			ID: e.id, State: e.state, Since: e.since, PID: e.pid, AppPort: e.port, Tenant: e.tenant,
			Running: e.load, Invocations: e.served,
		})
	}
	return infos
}

// find returns the function that an invocation of ref runs.
// Called with s.mu held.
func (s *Service) find(ref reference) *function {
	if fn := s.functions[ref.key()]; fn != nil && fn.settings != nil {
		return fn
	}
	if fn := s.functions[ref.name]; fn != nil && fn.settings != nil {
		return fn
	}
	return nil
}

// known reports whether an invocation of ref would find a function.
func (s *Service) known(ref reference) *apiError {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errService(ErrClosed)
	case s.find(ref) == nil:
		return errNotFound(ref)
	default:
		return nil
	}
}

// Close shuts every environment down, in the order that Lambda documents and
// within its two seconds, and waits until no process is left. Invocations that
// are running fail. When ctx ends earlier everything is killed at once.
// Further calls wait for the same end.
//
// The error is non-nil only if an Output did not take its last lines.
func (s *Service) Close(ctx context.Context) error {
	release := context.AfterFunc(ctx, s.kill)
	defer release()

	s.mu.Lock()
	s.closed = true
	for _, fn := range s.functions {
		fn.drop()
	}
	s.mu.Unlock()

	s.stop()
	s.lives.Wait()
	s.kill()
	s.host.close()

	s.mu.Lock()
	outputs := slices.Clone(s.draining)
	for _, fn := range s.functions {
		fn.output.close()
		outputs = append(outputs, fn.output)
	}
	s.mu.Unlock()
	late, cancel := context.WithTimeout(context.Background(), outputGrace)
	defer cancel()
	for _, o := range outputs {
		select {
		case <-o.drained:
		case <-late.Done():
			return errors.New("closing the local Lambda: an output does not take its last lines")
		}
	}
	return nil
}
