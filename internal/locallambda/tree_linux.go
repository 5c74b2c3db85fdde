package locallambda

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is the unit of times in /proc, the same on all Linux systems
// that Go supports (USER_HZ).
const ticksPerSecond = 100

// tree finds the processes of one environment in /proc: those that were
// started as its roots, their descendants, the members of the roots' process
// groups, and whatever has the environment's mark in its initial environment,
// with all descendants of those. Its methods are for one goroutine.
type tree struct {
	roots []int  // leaders of process groups
	mark  []byte // an environment variable with its value and the closing NUL
	since uint64 // nothing that is older can be part of it; ticks since boot

	starts map[int]uint64 // of everything that was found, to tell it from a later process with its ID
}

func newTree(id string) *tree {
	t := &tree{mark: []byte(streamVariable + "=" + id + "\x00"), starts: make(map[int]uint64)}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil {
		t.since = uint64(max(0, now.Sec-1)) * ticksPerSecond
	}
	return t
}

// forAnyAge has the tree include processes that are older than itself.
func (t *tree) forAnyAge() { t.since = 0 }

func (t *tree) add(root int) { t.roots = append(t.roots, root) }

// walk returns the process IDs that belong to the tree and are alive, parents
// before their children as far as they are related, and the process groups
// that they are in.
func (t *tree) walk() (members, groups []int) {
	all := readProcesses()
	children := make(map[int][]int, len(all))
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p.pid)
	}
	self := os.Getpid()
	seen := map[int]bool{self: true} // never itself, whatever the marks say
	var add func(pid int)
	add = func(pid int) {
		p, ok := all[pid]
		if !ok || seen[pid] {
			return
		}
		seen[pid] = true
		if p.state != 'Z' && p.state != 'X' {
			members = append(members, pid)
			t.starts[pid] = p.start
		}
		for _, child := range children[pid] {
			add(child)
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(all)) {
		// Not the roots' own IDs: a root that has ended may have left its ID to
		// another process, while a group keeps its ID as long as it has members.
		if p := all[pid]; p.start >= t.since && slices.Contains(t.roots, p.group) {
			add(pid)
		}
	}
	for pid, p := range all {
		if !seen[pid] && p.start >= t.since && p.state != 'Z' && t.marked(pid) {
			add(pid)
		}
	}
	for _, pid := range members {
		if group := all[pid].group; !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return members, groups
}

// alive reports whether something that walk has returned is still there.
func (t *tree) alive(pid int) bool {
	p, ok := readStat(pid, make([]byte, statSize))
	return ok && p.start == t.starts[pid] && p.state != 'Z' && p.state != 'X'
}

// marked reports whether the process was given the tree's mark. The processes
// of other users cannot be looked at; they are not ours.
func (t *tree) marked(pid int) bool {
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && (bytes.HasPrefix(environ, t.mark) || bytes.Contains(environ, append([]byte{0}, t.mark...)))
}

// statSize is more than the fields that are needed take up.
const statSize = 1024

// processStat is what is needed of /proc/<pid>/stat.
type processStat struct {
	pid, parent, group int
	state              byte
	start              uint64 // ticks since boot
}

// readProcesses lists all processes.
func readProcesses() map[int]processStat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what could be read is better than nothing
	all := make(map[int]processStat, len(names))
	buf := make([]byte, statSize)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readStat(pid, buf); ok {
			all[pid] = p
		}
	}
	return all
}

// readStat reads one process, without os.File's overhead: freezing walks all
// processes of the machine.
func readStat(pid int, buf []byte) (processStat, bool) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return processStat{}, false
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	if err != nil || n <= 0 {
		return processStat{}, false
	}
	return parseStat(pid, buf[:n])
}

// parseStat reads the fields of proc_pid_stat(5). The second one, the name,
// can hold anything, so it starts after the last parenthesis.
func parseStat(pid int, line []byte) (processStat, bool) {
	const state, parent, group, start = 0, 1, 2, 19 // counted from field 3
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return processStat{}, false
	}
	fields := bytes.Fields(line[end+1:])
	if len(fields) <= start {
		return processStat{}, false
	}
	p := processStat{pid: pid, state: fields[state][0]}
	var errs [3]error
	p.parent, errs[0] = strconv.Atoi(string(fields[parent]))
	p.group, errs[1] = strconv.Atoi(string(fields[group]))
	p.start, errs[2] = strconv.ParseUint(string(fields[start]), 10, 64)
	return p, errs == [3]error{}
}
