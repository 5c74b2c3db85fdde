//go:build unix

package locallambda

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

const canRun = true

func unsupportedOn(system string) error { return fmt.Errorf("%w: this is %s", ErrUnsupported, system) }

// pipeGrace is how long the output of a killed environment is read at most. It
// ends at once unless a process that escaped holds on to the pipe.
const pipeGrace = time.Second

// processes is the sandbox made of real processes.
type processes struct {
	sandboxConfig
	extensions []string // paths of the external ones

	ses    *session
	api    *http.Server
	env    []string
	tree   *tree
	pipes  []*os.File     // read ends of the processes' output
	groups map[string]int // process groups by extension name; "" is the runtime's
	ends   chan exit      // capacity: every process
	work   sync.WaitGroup // goroutines of this sandbox
	conns  sync.WaitGroup // connections to the APIs
	frozen []int
}

// newProcesses prepares a sandbox and its APIs. It starts no process yet.
func newProcesses(c sandboxConfig) (sandbox, error) {
	executables, err := allExtensions(c.settings.Extensions, c.opt)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(executables))
	for _, path := range executables {
		names = append(names, filepath.Base(path))
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the runtime: %w", err)
	}
	p := &processes{
		sandboxConfig: c,
		extensions:    executables,
		ses:           newSession(c.settings.session(names)),
		env:           variables(os.Environ(), c, ln.Addr().String()),
		tree:          newTree(c.id),
		groups:        make(map[string]int),
		ends:          make(chan exit, 1+len(names)),
	}
	p.api = &http.Server{
		Handler:           newProcessAPI(p.ses, c.ref, c.settings.Handler),
		ReadHeaderTimeout: 0, // a frozen process may stop in the middle of a request
		ErrorLog:          zap.NewStdLog(c.logger),
		// The server does not wait for its connections when it is closed.
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				p.conns.Add(1)
			}
			if state == http.StateClosed {
				p.conns.Done()
			}
		},
	}
	p.work.Go(func() { _ = p.api.Serve(ln) }) // always ends with ErrServerClosed
	return p, nil
}

func (p *processes) session() *session  { return p.ses }
func (p *processes) exits() <-chan exit { return p.ends }
func (p *processes) pid() int           { return p.groups[""] }

func (p *processes) startExtensions() error {
	for _, path := range p.extensions {
		if err := p.start(filepath.Base(path), path); err != nil {
			return &failure{kind: "Extension.LaunchError", message: err.Error()}
		}
	}
	return nil
}

func (p *processes) startRuntime() error {
	command := runtimeCommand(p.sandboxConfig)
	if err := p.start("", command[0], command[1:]...); err != nil {
		return &failure{kind: "Runtime.InvalidEntrypoint", message: err.Error()}
	}
	return nil
}

// start starts a process as the leader of a group of its own.
func (p *processes) start(extension, path string, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env = p.settings.Dir, p.env
	cmd.Stdout, cmd.Stderr = w, w
	err = p.host.start(cmd, p.id)
	_ = w.Close() // the child has its own
	if err != nil {
		_ = r.Close()
		return fmt.Errorf("starting %s: %w", path, err)
	}
	p.pipes = append(p.pipes, r)
	p.groups[extension] = cmd.Process.Pid
	p.tree.add(cmd.Process.Pid)
	p.host.guard(p.id, p.tree.roots)
	p.work.Go(func() { readLines(r, p.line) })
	p.work.Go(func() { p.ends <- exit{extension: extension, err: cmd.Wait()} })
	return nil
}

// survey tells the guard what the processes have started meanwhile.
func (p *processes) survey() {
	_, groups := p.tree.walk()
	p.host.guard(p.id, groups)
}

func (p *processes) freeze() {
	targets, groups := p.tree.stop()
	p.frozen = targets
	p.host.guard(p.id, groups)
}

// thaw undoes freeze. What is stopped cannot have forked meanwhile.
func (p *processes) thaw() {
	for _, target := range p.frozen {
		p.signal(target, syscall.SIGCONT)
	}
	p.frozen = nil
}

func (p *processes) terminateRuntime() { p.signalGroup("", syscall.SIGTERM) }
func (p *processes) killRuntime()      { p.signalGroup("", syscall.SIGKILL) }

func (p *processes) killExtension(name string) { p.signalGroup(name, syscall.SIGKILL) }

func (p *processes) signalGroup(name string, sig syscall.Signal) {
	if group, ok := p.groups[name]; ok {
		p.signal(-group, sig)
	}
}

func (p *processes) signal(target int, sig syscall.Signal) {
	if err := syscall.Kill(target, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.logger.Warn("signalling a process", zap.Int("pid", target), zap.Stringer("signal", sig), zap.Error(err))
	}
}

// close kills first and asks questions later: no call to the APIs can start a
// process any more once the tree is dead.
func (p *processes) close() {
	if left := p.tree.kill(); len(left) > 0 {
		p.logger.Error("processes cannot be killed", zap.Ints("pids", left))
	}
	for _, r := range p.pipes {
		_ = r.SetReadDeadline(time.Now().Add(pipeGrace))
	}
	p.ses.end()
	_ = p.api.Close()
	p.work.Wait()
	p.conns.Wait()
	for _, r := range p.pipes {
		_ = r.Close()
	}
	p.host.unguard(p.id)
}
