package caddymodule

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// once finds subdirectives that are given twice, of which one would be lost.
type once map[string]struct{}

func (o *once) check(d *caddyfile.Dispenser) error {
	if *o == nil {
		*o = make(once)
	}
	if _, dup := (*o)[d.Val()]; dup {
		return d.Errf("%s is given twice", d.Val())
	}
	(*o)[d.Val()] = struct{}{}
	return nil
}

func unknown(d *caddyfile.Dispenser, where string, known ...[]string) error {
	all := slices.Concat(known...)
	slices.Sort(all)
	return d.Errf("unrecognized subdirective '%s' of %s, must be one of: %s", d.Val(), where, strings.Join(all, ", "))
}

func oneArg(d *caddyfile.Dispenser, into *string) error {
	name := d.Val()
	if !d.NextArg() {
		return d.Errf("%s needs a value", name)
	}
	*into = d.Val()
	if d.NextArg() {
		return d.Errf("%s takes one value, '%s' is too much", name, d.Val())
	}
	return nil
}

func intArg(d *caddyfile.Dispenser, into *int, least, most int) error {
	name := d.Val()
	var arg string
	if err := oneArg(d, &arg); err != nil {
		return err
	}
	n, err := strconv.Atoi(arg)
	if err != nil || n < least || n > most {
		return d.Errf("bad %s value '%s': must be a whole number from %d to %d", name, arg, least, most)
	}
	*into = n
	return nil
}

func durationArg(d *caddyfile.Dispenser, into *caddy.Duration, mayBeOff bool) error {
	name := d.Val()
	var arg string
	if err := oneArg(d, &arg); err != nil {
		return err
	}
	if mayBeOff && arg == "off" {
		*into = -1
		return nil
	}
	dur, err := caddy.ParseDuration(arg)
	if err != nil || dur <= 0 {
		off := ""
		if mayBeOff {
			off = ", or off"
		}
		return d.Errf("bad %s value '%s': must be a duration above zero such as 30s or 5m%s", name, arg, off)
	}
	*into = caddy.Duration(dur)
	return nil
}

func sizeArg(d *caddyfile.Dispenser, into *uint64) error {
	name := d.Val()
	var arg string
	if err := oneArg(d, &arg); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(arg)
	if err != nil || n == 0 {
		return d.Errf("bad %s value '%s': must be a size such as 512MiB", name, arg)
	}
	*into = n
	return nil
}

// peekOff consumes the argument if it is the word off.
func peekOff(d *caddyfile.Dispenser) bool {
	if d.CountRemainingArgs() != 1 {
		return false
	}
	d.NextArg()
	if d.Val() == "off" {
		return true
	}
	d.Prev()
	return false
}
