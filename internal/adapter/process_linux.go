package adapter

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// childAttributes give the app a process group of its own, which signals can
// be sent to, and let it not outlive the adapter.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// groupStopped reports whether a process of a group is stopped by a signal
// (proc_pid_stat(5), state T; t is a debugger's).
func groupStopped(pgid int) bool {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	want := []byte(strconv.Itoa(pgid))
	for _, p := range processes {
		if p.Name()[0] < '0' || p.Name()[0] > '9' {
			continue
		}
		stat, err := os.ReadFile("/proc/" + p.Name() + "/stat")
		if err != nil {
			continue // it has ended meanwhile
		}
		// The name, in parentheses, may hold anything; behind it are state,
		// parent and group.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 2 && fields[0][0] == 'T' && bytes.Equal(fields[2], want) {
			return true
		}
	}
	return false
}
