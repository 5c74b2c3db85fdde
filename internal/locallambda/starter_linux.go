package locallambda

import (
	"os/exec"
	"runtime"
	"syscall"
)

// starter starts all processes on one operating system thread. The kernel
// sends a child's parent death signal when the thread that started it ends,
// and Go ends threads as it likes; this one lasts as long as the service.
// https://go.dev/issue/27505
type starter struct {
	work chan func()
	done chan struct{}
}

func newStarter() *starter {
	s := &starter{work: make(chan func()), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *starter) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	defer close(s.done)
	for f := range s.work {
		f()
	}
}

func (s *starter) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	s.work <- func() { result <- cmd.Start() }
	return <-result
}

// close ends the thread, which kills what it has started and still runs.
func (s *starter) close() {
	close(s.work)
	<-s.done
}

func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
