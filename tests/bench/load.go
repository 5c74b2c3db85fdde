//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readBuffer  = 256 << 10
	loadTimeout = 30 * time.Second // without any answer at all
)

// request is what every connection of a load sends, over and over.
type request struct {
	bytes []byte
	// bodyLen is how long the body of every response must be.
	bodyLen int64
}

// load drives a server from one thread: a closed loop of keep-alive HTTP/1.1
// connections on one epoll instance, so that what it costs is small beside
// what it measures.
type load struct {
	addr  netip.AddrPort
	req   request
	conns []*loadConn // by index, which is what epoll gives back
	epoll int
	buf   []byte

	latencies []time.Duration
	failures  int
	firstErr  error
}

type loadConn struct {
	fd      int
	index   int32
	started time.Time
	unsent  []byte // of the request
	p       parser
}

// outcome is one measured period.
type outcome struct {
	elapsed   time.Duration
	latencies []time.Duration // of the answered requests, sorted
	failures  int
	firstErr  error
}

// run sends requests on c connections for the time of warm-up and measures
// those that are answered in the period behind it. It calls begin and end at
// the borders of the period, in which they must not dawdle.
func run(addr netip.AddrPort, req request, c int, warmup, period time.Duration, begin, end func() error) (outcome, error) {
	runtime.LockOSThread() // one thread's CPU cache, and none of the scheduler's moves
	defer runtime.UnlockOSThread()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return outcome{}, fmt.Errorf("creating epoll: %w", err)
	}
	l := &load{addr: addr, req: req, epoll: epoll, buf: make([]byte, readBuffer)}
	defer l.close()
	for i := range c {
		lc := &loadConn{fd: -1, index: int32(i)}
		l.conns = append(l.conns, lc)
		if err := l.connect(lc); err != nil {
			return outcome{}, err
		}
	}
	if err := l.until(time.Now().Add(warmup)); err != nil {
		return outcome{}, err
	}
	l.latencies, l.failures, l.firstErr = make([]time.Duration, 0, max(1024, 2*len(l.latencies))), 0, nil
	if err := begin(); err != nil {
		return outcome{}, err
	}
	started := time.Now()
	if err := l.until(started.Add(period)); err != nil {
		return outcome{}, err
	}
	out := outcome{elapsed: time.Since(started), latencies: l.latencies, failures: l.failures, firstErr: l.firstErr}
	if err := end(); err != nil {
		return outcome{}, err
	}
	slices.Sort(out.latencies)
	return out, nil
}

func (l *load) close() {
	for _, lc := range l.conns {
		if lc.fd >= 0 {
			_ = unix.Close(lc.fd)
		}
	}
	_ = unix.Close(l.epoll)
}

// connect opens a connection and sends its first request.
func (l *load) connect(lc *loadConn) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("creating socket: %w", err)
	}
	if lc.fd >= 0 {
		_ = unix.Close(lc.fd)
	}
	lc.fd = fd
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(l.addr.Port()), Addr: l.addr.Addr().As4()}); err != nil {
		return fmt.Errorf("connecting to %s: %w", l.addr, err)
	}
	if err := errors.Join(
		unix.SetNonblock(fd, true),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: lc.index}),
	); err != nil {
		return fmt.Errorf("preparing socket: %w", err)
	}
	return l.next(lc)
}

// next sends the next request.
func (l *load) next(lc *loadConn) error {
	lc.p.reset()
	lc.unsent = l.req.bytes
	lc.started = time.Now()
	return l.send(lc, false)
}

// send writes what is left of the request and has epoll say when there is room
// for the rest. waiting is whether epoll watches for room already.
func (l *load) send(lc *loadConn, waiting bool) error {
	n, err := unix.Write(lc.fd, lc.unsent)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return l.fail(lc, fmt.Errorf("sending request: %w", err))
	}
	lc.unsent = lc.unsent[max(n, 0):]
	if full := len(lc.unsent) > 0; full != waiting {
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: lc.index}
		if full {
			ev.Events |= unix.EPOLLOUT
		}
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, lc.fd, &ev); err != nil {
			return fmt.Errorf("watching socket: %w", err)
		}
	}
	return nil
}

// until serves the connections until the time has come.
func (l *load) until(deadline time.Time) error {
	events := make([]unix.EpollEvent, len(l.conns))
	last := time.Now() // when anything happened
	for {
		now := time.Now()
		if !now.Before(deadline) {
			return nil
		}
		if now.Sub(last) > loadTimeout {
			return fmt.Errorf("%s: no answer for %v", l.addr, loadTimeout)
		}
		n, err := unix.EpollWait(l.epoll, events, int(min(deadline.Sub(now), time.Second).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for sockets: %w", err)
		}
		for i := range max(n, 0) {
			last = now
			lc := l.conns[events[i].Fd]
			if events[i].Events&unix.EPOLLOUT != 0 {
				if err := l.send(lc, true); err != nil {
					return err
				}
			}
			if events[i].Events&^unix.EPOLLOUT != 0 {
				if err := l.receive(lc); err != nil {
					return err
				}
			}
		}
	}
}

// receive reads once; epoll comes back when there is more.
func (l *load) receive(lc *loadConn) error {
	n, err := unix.Read(lc.fd, l.buf)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return l.fail(lc, fmt.Errorf("reading response: %w", err))
	case n == 0:
		return l.fail(lc, fmt.Errorf("reading response: %w", io.ErrUnexpectedEOF))
	}
	rest, done, err := lc.p.feed(l.buf[:n])
	switch {
	case err != nil:
		return l.fail(lc, err)
	case !done:
		return nil
	case len(rest) > 0 || len(lc.unsent) > 0:
		return l.fail(lc, errors.New("response and request overlap"))
	case lc.p.status != 200 || lc.p.body != l.req.bodyLen:
		return l.fail(lc, fmt.Errorf("got status %d with a body of %d bytes, want 200 with %d", lc.p.status, lc.p.body, l.req.bodyLen))
	}
	l.latencies = append(l.latencies, time.Since(lc.started))
	return l.next(lc)
}

// fail counts a failure and goes on with a new connection.
func (l *load) fail(lc *loadConn, err error) error {
	if l.failures++; l.firstErr == nil {
		l.firstErr = err
	}
	return l.connect(lc)
}
