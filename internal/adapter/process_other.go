//go:build !unix

package adapter

import (
	"errors"
	"os"
	"syscall"
)

// Lambda runs Linux. Elsewhere the adapter is good for trying things out.

var (
	terminate = os.Interrupt
	forwarded []os.Signal
	ending    = []os.Signal{os.Interrupt}
)

func childAttributes() *syscall.SysProcAttr { return nil }

func signalGroup(p *os.Process, _ os.Signal) { _ = p.Kill() }

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
	}
}

func execute(string, []string, []string) error { return errors.ErrUnsupported }

func groupStopped(int) bool { return false }

func signalStatus(*os.ProcessState) int { return 1 }
