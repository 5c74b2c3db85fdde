//go:build unix

package locallambda

import (
	"syscall"
	"time"
)

const (
	// killPatience is how long processes are killed again and again. Only one
	// that hangs in the kernel lasts longer.
	killPatience = 5 * time.Second

	firstPause = time.Millisecond
	longPause  = 50 * time.Millisecond
)

// kill kills what belongs to the tree until nothing is left, and returns what
// is left all the same. There is no event to wait for: the processes at the
// bottom of the tree are nobody's children here.
func (t *tree) kill() []int {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		left, _ := t.walk()
		if len(left) == 0 || time.Since(began) > killPatience {
			return left
		}
		for _, target := range left {
			_ = syscall.Kill(target, syscall.SIGKILL) // what is gone is gone
		}
		time.Sleep(pause)
	}
}
