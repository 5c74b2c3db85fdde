//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// role is the place of a process on a request's way.
type role string

const (
	roleFirst  role = "first"  // Caddy, which the client talks to
	roleSecond role = "second" // the second Caddy, or the adapter
	roleApp    role = "app"
)

var roles = []role{roleFirst, roleSecond, roleApp}

// programs are the executables that the benchmark has built.
type programs struct{ caddy, adapter, demo string }

// variant is one way from the client to the app.
type variant struct {
	name     string // for -only and JSON
	title    string // for people
	dispatch bool   // runs the adapter
	start    func(s *system, ctx context.Context) error
}

// baseline is the variant that the others are compared with.
const baseline = "caddy"

var variants = []variant{
	{name: "app", title: "the app alone", start: (*system).startApp},
	{name: "caddy", title: "Caddy `reverse_proxy` → app", start: (*system).startCaddy},
	{name: "caddy-caddy", title: "Caddy → Caddy → app", start: (*system).startTwoCaddies},
	{name: "dispatch", title: "lambda_dispatch, `tls off`", dispatch: true, start: func(s *system, ctx context.Context) error {
		return s.startDispatch(ctx, "off")
	}},
	{name: "dispatch-tls", title: "lambda_dispatch, TLS", dispatch: true, start: func(s *system, ctx context.Context) error {
		return s.startDispatch(ctx, "auto")
	}},
}

// system is a running variant.
type system struct {
	variant    variant
	dir        string // for its files
	bin        programs
	concurrent int // requests at once
	target     netip.AddrPort
	children   []*child // in the order of their start
	roles      map[int]role
}

// startSystem starts the variant's processes and waits until they answer. The
// caller stops the system, also after an error.
func startSystem(ctx context.Context, v variant, dir string, bin programs, concurrent int) (*system, error) {
	s := &system{variant: v, dir: filepath.Join(dir, v.name), bin: bin, concurrent: concurrent, roles: map[int]role{}}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return s, err
	}
	return s, v.start(s, ctx)
}

// stop ends the processes, the client's end first.
func (s *system) stop() (errs []error) {
	for _, c := range slices.Backward(s.children) {
		if err := c.stop(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// processes returns the processes on the way of a request, by ID. The router
// may replace its instance at any time, so what it started is looked up.
func (s *system) processes() (map[int]role, error) {
	found := map[int]role{}
	for _, c := range s.children {
		family, err := tree(c.pid())
		if err != nil {
			return nil, err
		}
		for pid, name := range family {
			switch {
			case pid == c.pid():
				found[pid] = s.roles[pid]
			case name == filepath.Base(s.bin.adapter):
				found[pid] = roleSecond
			case name == filepath.Base(s.bin.demo):
				found[pid] = roleApp
			}
		}
	}
	return found, nil
}

// launch starts a process that listens on an address and waits for it.
func (s *system) launch(ctx context.Context, r role, addr netip.AddrPort, env []string, program string, args ...string) error {
	c, err := startChild(s.dir, string(r), env, program, args...)
	if err != nil {
		return err
	}
	s.children = append(s.children, c)
	s.roles[c.pid()] = r
	s.target = addr
	return c.ready(ctx, addr)
}

func (s *system) startApp(ctx context.Context) error {
	addr, err := freePort(ctx)
	if err != nil {
		return err
	}
	return s.launch(ctx, roleApp, addr, nil, s.bin.demo, "-listen", addr.String())
}

func (s *system) startCaddy(ctx context.Context) error {
	if err := s.startApp(ctx); err != nil {
		return err
	}
	return s.launchCaddy(ctx, roleFirst, "reverse_proxy "+s.target.String())
}

func (s *system) startTwoCaddies(ctx context.Context) error {
	if err := s.startApp(ctx); err != nil {
		return err
	}
	if err := s.launchCaddy(ctx, roleSecond, "reverse_proxy "+s.target.String()); err != nil {
		return err
	}
	return s.launchCaddy(ctx, roleFirst, "reverse_proxy "+s.target.String())
}

// startDispatch starts a router with the local Lambda inside and exactly one
// warm instance, which may take all requests at once: what is compared is the
// way of a request, not the scaling.
func (s *system) startDispatch(ctx context.Context, tls string) error {
	callback, err := freePort(ctx)
	if err != nil {
		return err
	}
	return s.launchCaddy(ctx, roleFirst, fmt.Sprintf(`lambda_dispatch bench {
	max_concurrent %[1]d
	target_concurrent %[1]d
	min_instances 1
	max_instances 1
	callback {
		listen %[2]s
		advertise %[2]s
		tls %[3]s
	}
	invoker local {
		adapter %[4]s
		command %[5]s
		timeout 15m
	}
}`, s.concurrent, callback, tls, s.bin.adapter, s.bin.demo))
}

// launchCaddy starts Caddy with one site of one directive.
func (s *system) launchCaddy(ctx context.Context, r role, directive string) error {
	addr, err := freePort(ctx)
	if err != nil {
		return err
	}
	config := filepath.Join(s.dir, string(r)+".Caddyfile")
	text := fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	log {
		level WARN
	}
}

:%d {
	bind %s
	%s
}
`, addr.Port(), addr.Addr(), strings.ReplaceAll(directive, "\n", "\n\t"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	env := []string{"XDG_DATA_HOME=" + s.dir, "XDG_CONFIG_HOME=" + s.dir}
	return s.launch(ctx, r, addr, env, s.bin.caddy, "run", "--adapter", "caddyfile", "--config", config)
}
