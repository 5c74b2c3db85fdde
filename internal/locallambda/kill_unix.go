//go:build unix

package locallambda

import (
	"maps"
	"slices"
	"syscall"
	"time"
)

const (
	// killPatience is how long a killed process may take to go. Only one that
	// hangs in the kernel takes longer.
	killPatience = 5 * time.Second

	firstPause = time.Millisecond
	longPause  = 50 * time.Millisecond
)

// stop stops everything that belongs to the tree and returns it, and the
// process groups that it occupies. A process can fork while it is being
// stopped, so it looks again until there is nothing new; then nothing can.
func (t *tree) stop() (targets, groups []int) {
	stopped := make(map[int]bool)
	for {
		found, groups := t.walk()
		fresh := false
		for _, target := range found {
			if !stopped[target] {
				stopped[target], fresh = true, true
				_ = syscall.Kill(target, syscall.SIGSTOP) // what is gone is gone
			}
		}
		if !fresh {
			return slices.Collect(maps.Keys(stopped)), groups
		}
	}
}

// kill kills everything that belongs to the tree, waits until it is gone and
// returns what is not. Everything is stopped first: the children of a killed
// process are hard to find, so it had better have no new ones.
func (t *tree) kill() (left []int) {
	began := time.Now()
	for {
		targets, _ := t.stop()
		if len(targets) == 0 {
			return nil
		}
		for _, target := range targets {
			_ = syscall.Kill(target, syscall.SIGKILL)
		}
		// There is no event to wait for: most are nobody's children here.
		for pause := firstPause; len(targets) > 0; pause = min(2*pause, longPause) {
			if time.Since(began) > killPatience {
				return targets
			}
			time.Sleep(pause)
			targets = slices.DeleteFunc(targets, func(target int) bool { return !t.alive(target) })
		}
	}
}
