package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/whereami"
)

// here knows where this machine is, for all configurations.
var here whereami.Finder

// Where the advertised address comes from, besides the sources that whereami
// has.
const (
	sourceSetting = "advertise"
	sourceListen  = "listen"
	sourceLocal   = "local"
)

// place is where environments find a callback listener.
type place struct {
	address string // host:port
	source  string // who told it
	zone    string // the name of the availability zone, for people
	zoneID  string
	silent  string // why a service that seems to exist was of no use
}

// zoneSetting is what the configuration says about the zone.
type zoneSetting struct {
	id    string            // of this router
	names map[string]string // IDs by name
	off   bool
}

// Zones are told apart by IDs. A name means another zone in another account,
// and Lambda does not tell its environments any.
// Source: https://docs.aws.amazon.com/ram/latest/userguide/working-with-az-ids.html
var (
	zoneNames = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-\d(-[a-z]+-\d)?[a-z]$`)
	zoneIDs   = regexp.MustCompile(`^[a-z]{2,}[a-z0-9]*(-[a-z0-9]+)*-(az|wlz)\d+$`)
)

func parseZone(s string) (zoneSetting, error) {
	switch {
	case s == zoneAuto:
		return zoneSetting{}, nil
	case s == zoneOff:
		return zoneSetting{off: true}, nil
	case zoneIDs.MatchString(s):
		return zoneSetting{id: s}, nil
	case zoneNames.MatchString(s):
		return zoneSetting{}, fmt.Errorf("callback zone %q is a name, and which zone that is depends on the account: "+
			"give its ID, such as euc1-az2, as `aws ec2 describe-availability-zones` says", s)
	}
	set := zoneSetting{names: make(map[string]string)}
	for pair := range strings.SplitSeq(s, ",") {
		name, id, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || !zoneNames.MatchString(name) || !zoneIDs.MatchString(id) {
			return zoneSetting{}, fmt.Errorf("callback zone %q: must be auto, off, a zone ID such as euc1-az2, "+
				"or names with their IDs, such as eu-central-1a=euc1-az2", s)
		}
		set.names[name] = id
	}
	return set, nil
}

// locate finds out what environments dial to reach the listener, and in which
// zone that is. It does I/O only where the configuration leaves something open.
func locate(ctx context.Context, finder *whereami.Finder, conf *CallbackConfig, bound net.Addr, local bool) (place, error) {
	listens, err := netip.ParseAddrPort(bound.String())
	if err != nil {
		return place{}, err
	}
	port := strconv.Itoa(int(listens.Port()))
	zone, err := parseZone(conf.Zone)
	if err != nil {
		return place{}, err
	}
	p := place{zoneID: zone.id}
	switch {
	case conf.Advertise != advertiseAuto:
		p.address, p.source = withPort(conf.Advertise, port), sourceSetting
	case !listens.Addr().IsUnspecified():
		p.address, p.source = listens.String(), sourceListen
	case local:
		p.address, p.source = net.JoinHostPort("127.0.0.1", port), sourceLocal
	}
	open := p.address == "" || zone.id == "" && !zone.off
	if local || p.address != "" && (!open || listens.Addr().IsLoopback()) {
		return p, nil
	}
	found, err := finder.Find(ctx)
	if p.zone = found.Zone; p.zoneID == "" && !zone.off {
		if p.zoneID = found.ZoneID; p.zoneID == "" {
			p.zoneID = zone.names[found.Zone]
		}
	}
	if found.Silent != nil {
		p.silent = strings.ReplaceAll(found.Silent.Error(), "\n", "; ")
	}
	if p.address != "" {
		return p, nil
	}
	if err != nil {
		return place{}, fmt.Errorf("callback advertise auto: %w", err)
	}
	addr, err := reachable(found.Addrs, listens.Addr())
	if err != nil {
		return place{}, err
	}
	dialled, err := found.Dialled(netip.AddrPortFrom(addr, listens.Port()))
	if err != nil {
		return place{}, fmt.Errorf("callback advertise auto: %w", err)
	}
	p.address, p.source = dialled.String(), string(found.Source)
	return p, nil
}

// withPort returns the setting as host:port.
func withPort(advertise, port string) string {
	if host, port, err := net.SplitHostPort(advertise); err == nil {
		return net.JoinHostPort(host, port)
	}
	return net.JoinHostPort(strings.Trim(advertise, "[]"), port)
}

// reachable returns the first address that a listener on all addresses hears.
func reachable(addrs []netip.Addr, listens netip.Addr) (netip.Addr, error) {
	for _, a := range addrs {
		// 0.0.0.0 is all of IPv4, while :: hears IPv4 as well.
		if a.Is4() || !listens.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, errors.New("callback advertise auto: this machine has IPv6 addresses only, and the listener hears IPv4 only: leave the host out of listen")
}

// tell logs where environments will dial, once until it changes: the pools of a
// configuration share a listener, and reloads keep it.
func (l *callbackListener) tell(p place) {
	l.mu.Lock()
	known := l.told == p
	l.told = p
	l.mu.Unlock()
	if known {
		return
	}
	fields := []zap.Field{zap.String("address", p.address), zap.String("source", p.source),
		zap.String("zone", p.zone), zap.String("zone_id", p.zoneID)}
	if p.silent != "" {
		l.log.Warn("environments will call back here, but not everybody who could tell the address did", append(fields, zap.String("error", p.silent))...)
		return
	}
	l.log.Info("environments will call back here", fields...)
}
