//go:build unix && !linux

package locallambda

import (
	"errors"
	"syscall"
)

// tree is the process groups of one environment. There is no portable way to
// find descendants that have left them.
type tree struct{ roots []int }

func newTree(string) *tree { return new(tree) }

func (t *tree) forAnyAge() {}

func (t *tree) add(root int) { t.roots = append(t.roots, root) }

// walk returns the groups that have members, negated as kill(2) wants them,
// and as they are.
func (t *tree) walk() (targets, groups []int) {
	for _, group := range t.roots {
		if t.alive(-group) {
			targets = append(targets, -group)
			groups = append(groups, group)
		}
	}
	return targets, groups
}

// alive reports whether a group has members.
func (t *tree) alive(target int) bool {
	return !errors.Is(syscall.Kill(target, 0), syscall.ESRCH)
}
