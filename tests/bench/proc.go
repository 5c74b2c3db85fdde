//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHz is the unit of the times in /proc, which Linux fixes at 100 per
// second for user space whatever the kernel's own tick is (proc_stat(5)).
const userHz = 100

// cpuTime returns how much CPU a process has used since it was started, on all
// its threads, to the nanosecond. It reads the process's CPU-time clock,
// because the times in /proc/PID/stat come in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED of a process, see clock_getcpuclockid(3)
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("reading CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// procStat is what the benchmark needs of /proc/PID/stat.
type procStat struct {
	ppid   int
	system time.Duration // CPU time in the kernel
}

// parseStat reads /proc/PID/stat. The command's name is skipped from the back,
// because it may hold blanks and parentheses.
func parseStat(data []byte) (procStat, error) {
	const ppid, stime = 1, 12 // fields behind the name, counted from 0
	i := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[i+1:]))
	if i < 0 || len(fields) <= stime {
		return procStat{}, errors.New("malformed /proc/PID/stat")
	}
	parent, err1 := strconv.Atoi(fields[ppid])
	ticks, err2 := strconv.ParseInt(fields[stime], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return procStat{}, fmt.Errorf("malformed /proc/PID/stat: %w", err)
	}
	return procStat{ppid: parent, system: time.Duration(ticks) * time.Second / userHz}, nil
}

func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(data)
}

// parseRSS reads the resident memory, in bytes, from /proc/PID/status.
func parseRSS(data []byte) (uint64, error) {
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("malformed VmRSS: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, errors.New("no VmRSS: the process has ended")
}

func rss(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseRSS(data)
}

// parseBusy reads from /proc/stat how long all CPUs together were not idle.
// Time that a hypervisor gave to others counts: it was not ours.
func parseBusy(data []byte) (time.Duration, error) {
	const idle, iowait, guests = 3, 4, 8
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) <= guests || fields[0] != "cpu" {
		return 0, errors.New("malformed /proc/stat")
	}
	var ticks int64
	for i, f := range fields[1 : guests+1] { // the guests' time is part of user time
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("malformed /proc/stat: %w", err)
		}
		if i != idle && i != iowait {
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / userHz, nil
}

func busy() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(data)
}

// tree returns the IDs of a process and of all that descend from it, by the
// names of their executables.
func tree(root int) (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil { // otherwise it has just ended
			children[st.ppid] = append(children[st.ppid], pid)
		}
	}
	found := map[int]string{}
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			found[pid] = filepath.Base(exe)
		}
		queue = append(queue, children[pid]...)
	}
	return found, nil
}
