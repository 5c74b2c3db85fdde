//go:build unix && !linux

package adapter

import "syscall"

func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// groupStopped is known on Linux only.
func groupStopped(int) bool { return false }
