package caddymodule

import (
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// hangups tells when the peers of sockets hang up. Go's own poller cannot be
// asked for that: it tells of data that can be read, whoever waits for that may
// not leave it unread, and behind unread data there may be an end.
type hangups struct {
	epoll int

	mu   sync.Mutex        // guards the following
	gone map[uint64]func() // by the number of the watch
	last uint64
}

// allHangups lives as long as the process, like Go's own poller. It costs one
// thread that sleeps, and nothing as long as nobody asks for it.
var allHangups = sync.OnceValue(func() *hangups {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil // such as a limit of open files; net/http notices most
	}
	h := &hangups{epoll: epoll, gone: make(map[uint64]func())}
	go h.run()
	return h
})

// watchHangup calls gone, from another goroutine and at most once, when the
// peer of the socket has closed it or its own half of it.
func watchHangup(socket syscall.RawConn, gone func()) (unwatch func()) {
	h := allHangups()
	if h == nil {
		return func() {}
	}
	h.mu.Lock()
	h.last++
	id := h.last
	h.gone[id] = gone
	h.mu.Unlock()

	// Events carry the number of the watch and not that of the socket, which
	// can be another connection's by then. A hangup from before is told, too.
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(id)), Pad: int32(id >> 32)}
	var ctlErr error
	err := socket.Control(func(fd uintptr) {
		ctlErr = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, int(fd), &ev)
	})
	if err != nil || ctlErr != nil {
		h.take(id)
		return func() {}
	}
	return func() {
		h.take(id)
		// The kernel has done it already if the socket is closed.
		_ = socket.Control(func(fd uintptr) {
			_ = unix.EpollCtl(h.epoll, unix.EPOLL_CTL_DEL, int(fd), nil)
		})
	}
}

// take returns whom to tell, once.
func (h *hangups) take(id uint64) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	gone := h.gone[id]
	delete(h.gone, id)
	return gone
}

func (h *hangups) run() {
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := unix.EpollWait(h.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // never: the epoll is ours
		}
		for _, ev := range events[:max(n, 0)] {
			id := uint64(uint32(ev.Pad))<<32 | uint64(uint32(ev.Fd))
			if gone := h.take(id); gone != nil {
				gone()
			}
		}
	}
}
