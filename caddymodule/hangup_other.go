//go:build !linux

package caddymodule

import "syscall"

// watchHangup needs something like Linux's EPOLLRDHUP.
func watchHangup(syscall.RawConn, func()) func() { return func() {} }
