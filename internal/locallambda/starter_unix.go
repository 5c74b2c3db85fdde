//go:build unix && !linux

package locallambda

import (
	"os/exec"
	"syscall"
)

// starter starts processes. Without parent death signals any thread will do.
type starter struct{}

func newStarter() *starter { return new(starter) }

func (*starter) start(cmd *exec.Cmd) error { return cmd.Start() }

func (*starter) close() {}

func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
