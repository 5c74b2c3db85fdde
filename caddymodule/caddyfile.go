package caddymodule

import (
	"math"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("lambda_dispatch", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("lambda_dispatch", httpcaddyfile.Before, "reverse_proxy")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if handler.Proxy != nil {
		if err := handler.Proxy.FinalizeUnmarshalCaddyfile(h); err != nil {
			return nil, err
		}
	}
	return handler, nil
}

// Subdirectives that are reverse_proxy's, with its syntax and meaning.
var proxySubdirectives = []string{
	"flush_interval", "handle_response", "header_down", "header_up", "method",
	"replace_status", "request_buffers", "response_buffers", "rewrite",
	"stream_buffer_size", "stream_close_delay", "stream_timeout",
	"trusted_proxies", "verbose_logs",
}

var ownSubdirectives = []string{
	"allow_functions", "callback", "function", "idle_timeout", "invoker",
	"max_concurrent", "max_functions", "max_instances", "min_instances",
	"queue_size", "queue_timeout", "target_concurrent",
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	lambda_dispatch [<matcher>] [<function>] {
//	    function          <name | name:qualifier | ARN>
//	    allow_functions   <glob...>
//	    max_functions     <n>
//	    max_concurrent    <n>
//	    target_concurrent <n>
//	    min_instances     <n>
//	    max_instances     <n>
//	    idle_timeout      <duration>
//	    queue_size        <n|off>
//	    queue_timeout     <duration|off>
//	    callback {
//	        listen    <address>
//	        advertise <host[:port]|auto>
//	        zone      <zone ID|name=ID...|auto|off>
//	        tls       <off|auto|cert_file key_file>
//	    }
//	    invoker aws {
//	        region   <region>
//	        endpoint <url>
//	    }
//	    invoker local {
//	        command          <app> [<args...>]
//	        dir              <path>
//	        adapter          <path>
//	        env              <name> <value>
//	        port             <n>
//	        cold_start       <duration>
//	        timeout          <duration>
//	        memory           <size>
//	        max_environments <n>
//	        warm_for         <duration>
//	    }
//
//	    # as in reverse_proxy:
//	    # flush_interval, handle_response, header_down, header_up, method,
//	    # replace_status, request_buffers, response_buffers, rewrite,
//	    # stream_buffer_size, stream_close_delay, stream_timeout,
//	    # trusted_proxies, verbose_logs, and named response matchers
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	start := d.Token()
	if d.NextArg() {
		h.Function = d.Val()
	}
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': lambda_dispatch takes one function", d.Val())
	}
	var proxyTokens []caddyfile.Token
	var seen once
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if strings.HasPrefix(name, "@") || slices.Contains(proxySubdirectives, name) {
			proxyTokens = append(proxyTokens, d.NextSegment()...)
			continue
		}
		if name != "allow_functions" { // lists of ARNs are long
			if err := seen.check(d); err != nil {
				return err
			}
		}
		var err error
		switch name {
		case "function":
			if h.Function != "" {
				return d.Errf("function is given twice: as '%s' and here", h.Function)
			}
			err = oneArg(d, &h.Function)
		case "allow_functions":
			globs := d.RemainingArgs()
			if len(globs) == 0 {
				err = d.ArgErr()
			}
			h.AllowFunctions = append(h.AllowFunctions, globs...)
		case "max_functions":
			err = intArg(d, &h.MaxFunctions, 1, maxFunctionsLimit)
		case "max_concurrent":
			err = intArg(d, &h.MaxConcurrent, 1, maxConcurrentLimit)
		case "target_concurrent":
			err = intArg(d, &h.TargetConcurrent, 1, maxConcurrentLimit)
		case "min_instances":
			err = intArg(d, &h.MinInstances, 0, math.MaxInt32)
		case "max_instances":
			err = intArg(d, &h.MaxInstances, 1, math.MaxInt32)
		case "idle_timeout":
			err = durationArg(d, &h.IdleTimeout, false)
		case "queue_size":
			if peekOff(d) {
				h.QueueSize = -1
				continue
			}
			err = intArg(d, &h.QueueSize, 1, math.MaxInt32)
		case "queue_timeout":
			err = durationArg(d, &h.QueueTimeout, true)
		case "callback":
			err = h.unmarshalCallback(d)
		case "invoker":
			err = h.unmarshalInvoker(d)
		default:
			err = unknown(d, "lambda_dispatch", ownSubdirectives, proxySubdirectives)
		}
		if err != nil {
			return err
		}
	}
	if err := h.checkTogether(); err != nil {
		return d.WrapErr(err)
	}
	return h.unmarshalProxy(start, proxyTokens)
}

// checkTogether checks values against each other. It is done again when the
// configuration is provisioned, but only here are file and line known.
func (h *Handler) checkTogether() error {
	if err := h.checkFunctionEarly(); err != nil {
		return err
	}
	conf := h.PoolConfig // defaults must not get into the JSON
	conf.setDefaults()
	if err := conf.validate(); err != nil {
		return err
	}
	if c := conf.Callback; c != nil && !strings.Contains(c.Listen+c.Advertise+c.Zone, "{") { // placeholders are not known here
		callback := *c
		if err := callback.provision(false); err != nil {
			return err
		}
	}
	if conf.Invoker != nil && conf.Invoker.Local != nil {
		local := *conf.Invoker.Local
		return local.provision()
	}
	return nil
}

// unmarshalProxy hands reverse_proxy's subdirectives to reverse_proxy.
func (h *Handler) unmarshalProxy(start caddyfile.Token, tokens []caddyfile.Token) error {
	if len(tokens) == 0 {
		return nil
	}
	open, end := start, tokens[len(tokens)-1]
	open.Text = "{"
	end.Text = "}"
	end.Line++
	all := append([]caddyfile.Token{start, open}, tokens...)
	h.Proxy = new(reverseproxy.Handler)
	return h.Proxy.UnmarshalCaddyfile(caddyfile.NewDispenser(append(all, end)))
}

func (h *Handler) unmarshalCallback(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': callback takes a block", d.Val())
	}
	h.Callback = new(CallbackConfig)
	var seen once
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		var err error
		switch d.Val() {
		case "listen":
			err = oneArg(d, &h.Callback.Listen)
		case "advertise":
			err = oneArg(d, &h.Callback.Advertise)
		case "zone":
			err = h.Callback.unmarshalZone(d)
		case "tls":
			err = h.Callback.unmarshalTLS(d)
		default:
			err = unknown(d, "callback", []string{"advertise", "listen", "tls", "zone"})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unmarshalZone reads one zone, or a line of name=ID for each zone.
func (c *CallbackConfig) unmarshalZone(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	c.Zone = strings.Join(args, ",")
	return nil
}

func (c *CallbackConfig) unmarshalTLS(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch {
	case len(args) == 1 && args[0] == "off":
		c.TLS = &CallbackTLS{Off: true}
	case len(args) == 1 && args[0] == "auto":
		c.TLS = nil
	case len(args) == 2:
		c.TLS = &CallbackTLS{Certificate: args[0], Key: args[1]}
	default:
		return d.Errf("bad tls value '%s': must be off, auto, or a certificate file and a key file", strings.Join(args, " "))
	}
	return nil
}

func (h *Handler) unmarshalInvoker(d *caddyfile.Dispenser) error {
	var name string
	if err := oneArg(d, &name); err != nil {
		return err
	}
	h.Invoker = new(InvokerConfig)
	switch name {
	case "aws":
		h.Invoker.AWS = new(AWSInvoker)
		return h.Invoker.AWS.unmarshalCaddyfile(d)
	case "local":
		h.Invoker.Local = new(LocalInvoker)
		return h.Invoker.Local.unmarshalCaddyfile(d)
	default:
		return d.Errf("unrecognized invoker '%s', must be one of: aws, local", name)
	}
}

func (a *AWSInvoker) unmarshalCaddyfile(d *caddyfile.Dispenser) error {
	var seen once
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return err
		}
		var err error
		switch d.Val() {
		case "region":
			err = oneArg(d, &a.Region)
		case "endpoint":
			err = oneArg(d, &a.Endpoint)
		default:
			err = unknown(d, "invoker aws", []string{"endpoint", "region"})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *LocalInvoker) unmarshalCaddyfile(d *caddyfile.Dispenser) error {
	var seen once
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "env" { // the only one that may be repeated
			if err := seen.check(d); err != nil {
				return err
			}
		}
		var err error
		switch d.Val() {
		case "command":
			if l.Command = d.RemainingArgs(); len(l.Command) == 0 {
				err = d.ArgErr()
			}
		case "dir":
			err = oneArg(d, &l.Dir)
		case "adapter":
			err = oneArg(d, &l.Adapter)
		case "env":
			err = l.unmarshalEnv(d)
		case "port":
			err = intArg(d, &l.Port, 1, 65535)
		case "cold_start":
			err = durationArg(d, &l.ColdStart, false)
		case "timeout":
			err = durationArg(d, &l.Timeout, false)
		case "memory":
			err = sizeArg(d, &l.Memory)
		case "max_environments":
			err = intArg(d, &l.MaxEnvironments, 1, math.MaxInt32)
		case "warm_for":
			err = durationArg(d, &l.WarmFor, false)
		default:
			err = unknown(d, "invoker local", []string{
				"adapter", "cold_start", "command", "dir", "env",
				"max_environments", "memory", "port", "timeout", "warm_for",
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *LocalInvoker) unmarshalEnv(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("env takes a name and a value, got %d arguments", len(args))
	}
	if l.Env == nil {
		l.Env = make(map[string]string)
	}
	if _, dup := l.Env[args[0]]; dup {
		return d.Errf("env %s is given twice", args[0])
	}
	l.Env[args[0]] = args[1]
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
