package adapter

import "syscall"

// childAttributes give the app a process group of its own, which signals can
// be sent to, and let it not outlive the adapter.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
