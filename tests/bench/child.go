//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	readyTimeout = 60 * time.Second
	readyPause   = 50 * time.Millisecond
	stopTimeout  = 20 * time.Second
	outputTail   = 4 << 10
)

// child is a process that the benchmark started.
type child struct {
	name   string
	cmd    *exec.Cmd
	output string        // file
	done   chan struct{} // closed when it has ended
	err    error         // how it ended; valid once done is closed
}

// startChild starts a program whose output goes to a file in dir.
func startChild(dir, name string, env []string, program string, args ...string) (*child, error) {
	out, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	// Not tied to a context: a process that is killed leaves its own children
	// behind, so every end is a SIGTERM, in stop.
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: Ctrl-C reaches the benchmark only, which stops its
	// children in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, output: out.Name(), done: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// ready waits until the address answers /ping.
func (c *child) ready(ctx context.Context, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		_, err := workloads[0].verify(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", c.name, c.err, c.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", c.name, err, c.tail())
		case <-time.After(readyPause):
		}
	}
}

// stop ends the process and what it has started. It reports what did not end
// by itself, because that is a fault of what is being measured.
func (c *child) stop() error {
	family, err := tree(c.pid())
	if err != nil {
		return err
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var errs []error
	select {
	case <-c.done:
	case <-time.After(stopTimeout):
		errs = append(errs, fmt.Errorf("%s did not end within %v\n%s", c.name, stopTimeout, c.tail()), c.cmd.Process.Kill())
		<-c.done
	}
	for pid, name := range family {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err == nil && filepath.Base(exe) == name {
			errs = append(errs, fmt.Errorf("%s left process %d (%s) behind", c.name, pid, name), syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	return errors.Join(errs...)
}

// tail returns the end of what the process has written.
func (c *child) tail() string {
	f, err := os.Open(c.output)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > outputTail {
		_, _ = f.Seek(-outputTail, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// freePort returns a loopback address that nobody listens on just now.
func freePort(ctx context.Context) (netip.AddrPort, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	return addr, ln.Close()
}
