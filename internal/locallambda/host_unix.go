//go:build unix

package locallambda

import (
	"os/exec"
	"sync"

	"go.uber.org/zap"
)

// host starts the processes of a service's environments and sees to it that
// they do not outlive it.
type host struct {
	logger *zap.Logger

	opening sync.Once // with the first process
	closing sync.Once
	starter *starter
	watch   *guard
}

func newHost(logger *zap.Logger) *host { return &host{logger: logger} }

// open starts the starter and the guard with the first process, so that a
// service that runs nothing costs nothing.
func (h *host) open() (*starter, *guard) {
	h.opening.Do(func() {
		h.starter = newStarter()
		watch, err := startGuard()
		if err != nil {
			h.logger.Warn("there is no guard process; children of environments may outlive a crash", zap.Error(err))
		}
		h.watch = watch
	})
	return h.starter, h.watch
}

// start starts a process of an environment in a process group of its own.
func (h *host) start(cmd *exec.Cmd, id string) error {
	starter, watch := h.open()
	h.tell(watch.watch(id, nil)) // before it exists
	cmd.SysProcAttr = childAttributes()
	return starter.start(cmd)
}

// guard tells the guard which process groups an environment occupies.
func (h *host) guard(id string, groups []int) {
	_, watch := h.open()
	h.tell(watch.watch(id, groups))
}

// unguard tells the guard that nothing of an environment is left.
func (h *host) unguard(id string) {
	_, watch := h.open()
	h.tell(watch.forget(id))
}

func (h *host) tell(err error) {
	if err != nil {
		h.logger.Warn("telling the guard process", zap.Error(err))
	}
}

// close ends the starter and the guard. No environment may be left.
func (h *host) close() {
	h.closing.Do(func() {
		if h.starter != nil {
			h.starter.close()
			h.watch.close()
		}
	})
}
