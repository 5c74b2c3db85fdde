package adapter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

const (
	// The app is restarted after a pause that doubles while it keeps dying,
	// and begins anew once it has lived for restartReset.
	minRestartPause = 100 * time.Millisecond
	maxRestartPause = 5 * time.Second
	restartReset    = 10 * time.Second

	// stopGrace is what the app gets between SIGTERM and SIGKILL. Lambda
	// itself waits less than that.
	stopGrace = 2 * time.Second
)

// supervisor runs the app as a child process and starts it again when it
// ends.
type supervisor struct {
	args   []string
	env    []string
	stdout *os.File
	stderr *os.File
	log    *slog.Logger
	ended  func(error) // told each time that the app has ended, and how

	mu      sync.Mutex
	process *os.Process // guarded by mu; nil while there is none
	stopped bool        // guarded by mu
	cause   error       // guarded by mu; why kill was called for the process
}

// run keeps the app running until ctx is done, and returns when it has ended.
func (s *supervisor) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()
	pause := minRestartPause
	for {
		began := time.Now()
		err := s.runOnce()
		if ctx.Err() != nil {
			return
		}
		s.log.Error("app ended", slog.Any("error", err))
		s.ended(err)
		if time.Since(began) > restartReset {
			pause = minRestartPause
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxRestartPause)
		case <-ctx.Done():
			return
		}
	}
}

// runOnce starts the app and waits for its end. The error is never nil.
func (s *supervisor) runOnce() error {
	// Linux sends the parent-death signal when the thread ends that started
	// the child (golang/go#27505), so this goroutine keeps it to itself.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Env = s.env
	cmd.Stdout, cmd.Stderr = s.stdout, s.stderr
	cmd.SysProcAttr = childAttributes()
	if err := s.start(cmd); err != nil {
		return err
	}
	s.log.Debug("app started", slog.Int("pid", cmd.Process.Pid))
	err := cmd.Wait()
	s.mu.Lock()
	s.process = nil
	cause := s.cause
	s.cause = nil
	s.mu.Unlock()
	// What the app has started and left behind may hold its port.
	killGroup(cmd.Process.Pid)
	if cause != nil {
		return cause
	}
	return endOf(cmd.ProcessState, err)
}

// appEndError is how the app ended.
type appEndError struct {
	status int // as a shell would report it
	text   string
}

func (e *appEndError) Error() string { return e.text }

// endOf says how a process ended, which is never nil.
func endOf(state *os.ProcessState, err error) error {
	if state == nil {
		return fmt.Errorf("waiting for the app: %w", err)
	}
	if code := state.ExitCode(); code >= 0 {
		return &appEndError{code, fmt.Sprintf("app exited with status %d", code)}
	}
	return &appEndError{signalStatus(state), fmt.Sprintf("app was ended by %s", state)}
}

// startError is why the app could not be started.
type startError struct{ err error }

func (e *startError) Error() string { return "app cannot be started: " + e.err.Error() }

func (e *startError) Unwrap() error { return e.err }

// startStatus is what a shell exits with when it cannot start a command.
func startStatus(err error) int {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return 127
	case errors.Is(err, fs.ErrPermission):
		return 126
	}
	return 1
}

func (s *supervisor) start(cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("app is not started again")
	}
	if err := cmd.Start(); err != nil {
		return &startError{err}
	}
	s.process = cmd.Process
	return nil
}

// signal passes a signal on to the app and its children.
func (s *supervisor) signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		signalGroup(s.process, sig)
	}
}

// kill ends the app at once and names the cause, which is reported as the
// app's end. It is started again like one that ended by itself.
func (s *supervisor) kill(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.cause = cause
		killGroup(s.process.Pid)
	}
}

// frozen reports whether a process of the app is stopped by a signal.
func (s *supervisor) frozen() bool {
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	return p != nil && groupStopped(p.Pid)
}

// stop asks the app to end, and ends it when it does not.
func (s *supervisor) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	p := s.process
	if p == nil {
		return
	}
	signalGroup(p, terminate)
	time.AfterFunc(stopGrace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.process == p {
			killGroup(p.Pid)
		}
	})
}
