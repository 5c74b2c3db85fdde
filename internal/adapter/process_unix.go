//go:build unix

package adapter

import (
	"os"
	"syscall"
)

const terminate = syscall.SIGTERM

// forwarded are the signals that are passed on to the app without ending the
// adapter.
var forwarded = []os.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}

// ending are the signals that end the adapter and the app.
var ending = []os.Signal{syscall.SIGTERM, syscall.SIGINT}

func signalGroup(p *os.Process, sig os.Signal) {
	if s, ok := sig.(syscall.Signal); ok {
		_ = syscall.Kill(-p.Pid, s) // it may have ended just now
	}
}

// killGroup ends all processes of a group.
func killGroup(pid int) {
	_ = syscall.Kill(-pid, syscall.SIGKILL) // there may be none left
}

// execute replaces this process by the command.
func execute(path string, args, env []string) error {
	return syscall.Exec(path, args, env)
}

// signalStatus is the status of a process that was ended by a signal.
func signalStatus(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return 1
}
