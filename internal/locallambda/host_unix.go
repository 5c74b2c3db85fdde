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

	mu      sync.Mutex // guards what follows; held while the two start, once
	started bool
	starter *starter
	watch   *guard
}

func newHost(logger *zap.Logger) *host { return &host{logger: logger} }

// open starts the starter and the guard with the first process, so that a
// service that runs nothing costs nothing.
func (h *host) open() (*starter, *guard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.started {
		h.started = true
		h.starter = newStarter()
		watch, err := startGuard()
		if err != nil {
			h.logger.Warn("starting the guard process; children of environments may outlive a crash", zap.Error(err))
		}
		h.watch = watch
	}
	return h.starter, h.watch
}

// start starts a process of an environment in a process group of its own.
func (h *host) start(cmd *exec.Cmd, id string) error {
	starter, watch := h.open()
	h.tell(watch.watch(id, nil)) // before it exists
	cmd.SysProcAttr = childAttributes()
	if err := starter.start(cmd); err != nil {
		return err
	}
	return nil
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

// close ends the starter and the guard. No process may be left.
func (h *host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.started {
		h.starter.close()
		h.watch.close()
		h.started, h.starter, h.watch = false, nil, nil
	}
}
