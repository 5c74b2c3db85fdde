package adapter

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is what the adapter reads from the environment. See settings for
// names, defaults and meanings.
type Config struct {
	Host        string
	Port        int
	AppProtocol string        // "http1" or "h2c"
	HangTimeout time.Duration // 0: off

	ReadinessPort     int // 0: Port
	ReadinessPath     string
	ReadinessProtocol string // "http" or "tcp"
	HealthyStatus     []statusRange
	ReadinessTimeout  time.Duration // 0: until the initialisation ends

	LogLevel  slog.Level
	LogFormat string // "text" or "json"
}

// AppAddress is the host:port of the app.
func (c *Config) AppAddress() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// readinessAddress is the host:port that is asked whether the app is ready.
func (c *Config) readinessAddress() string {
	port := c.ReadinessPort
	if port == 0 {
		port = c.Port
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(port))
}

// The values of Config.AppProtocol.
const (
	protocolHTTP1 = "http1"
	protocolH2C   = "h2c"
)

// statusRange is a range of HTTP status codes, both ends included.
type statusRange struct{ from, to int }

func (c *Config) healthy(status int) bool {
	return slices.ContainsFunc(c.HealthyStatus, func(r statusRange) bool {
		return status >= r.from && status <= r.to
	})
}

// setting is one thing that can be configured: the first of its names that is
// in the environment wins.
type setting struct {
	names []string
	dflt  string // used when no name is set; for help and for parsing
	help  string
	set   func(c *Config, value string) error
}

// settings is every setting. A name that begins with ownPrefix and is not here
// is reported, because it is most likely a typo.
var settings = []setting{
	{
		names: []string{"LAMBDA_DISPATCH_PORT", "AWS_LWA_PORT", "PORT"}, dflt: "8080",
		help: "port of the app",
		set:  func(c *Config, v string) error { return parsePort(&c.Port, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_HOST", "AWS_LWA_HOST"}, dflt: "127.0.0.1",
		help: "host of the app",
		set:  func(c *Config, v string) error { c.Host = v; return nil },
	},
	{
		names: []string{"LAMBDA_DISPATCH_APP_PROTOCOL"}, dflt: protocolHTTP1,
		help: "http1, or h2c: HTTP/2 without TLS, as gRPC servers speak it",
		set:  func(c *Config, v string) error { return parseOneOf(&c.AppProtocol, v, protocolHTTP1, protocolH2C) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_APP_HANG_TIMEOUT"}, dflt: "30s",
		help: "how long an app may be silent, while requests wait and the readiness check gets no answer, before it is ended; 0 to let it",
		set:  func(c *Config, v string) error { return parseDurationOrZero(&c.HangTimeout, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_PORT", "AWS_LWA_READINESS_CHECK_PORT"},
		help:  "port of the readiness check; the app's by default",
		set:   func(c *Config, v string) error { return parsePort(&c.ReadinessPort, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_PATH", "AWS_LWA_READINESS_CHECK_PATH"}, dflt: "/",
		help: "path of the readiness check",
		set:  func(c *Config, v string) error { return parsePath(&c.ReadinessPath, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_PROTOCOL", "AWS_LWA_READINESS_CHECK_PROTOCOL"}, dflt: "http",
		help: "http: the path answers with a healthy status; tcp: the port accepts connections",
		set:  func(c *Config, v string) error { return parseOneOf(&c.ReadinessProtocol, v, "http", "tcp") },
	},
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS", "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS"}, dflt: "100-499",
		help: "statuses and ranges of them that count as ready, such as 200-399,404",
		set:  func(c *Config, v string) error { return parseStatuses(&c.HealthyStatus, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_TIMEOUT"},
		help:  "how long the app may take to become ready, such as 30s; by default as long as Lambda lets it",
		set:   func(c *Config, v string) error { return parseDuration(&c.ReadinessTimeout, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_LOG_LEVEL", "AWS_LAMBDA_LOG_LEVEL"}, dflt: "info",
		help: "trace, debug, info, warn, error or fatal",
		set:  func(c *Config, v string) error { return parseLevel(&c.LogLevel, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_LOG_FORMAT", "AWS_LAMBDA_LOG_FORMAT"}, dflt: "text",
		help: "text or json",
		set:  func(c *Config, v string) error { return parseOneOf(&c.LogFormat, v, "text", "json") },
	},
}

// ownPrefix begins the names that nobody but the adapter reads.
const ownPrefix = "LAMBDA_DISPATCH_"

// ParseConfig reads the configuration from an environment in the form of
// [os.Environ]. The error has one line for all values that make no sense. The
// unknown names are those that look like the adapter's and are not.
func ParseConfig(environ []string) (c Config, unknown []string, err error) {
	env := environment(environ)
	var bad []string
	known := make(map[string]bool)
	for _, s := range settings {
		name, value := "default", s.dflt
		for _, n := range slices.Backward(s.names) {
			known[n] = true
			if v, ok := env[n]; ok && v != "" {
				name, value = n, v
			}
		}
		if value == "" {
			continue
		}
		if err := s.set(&c, value); err != nil {
			bad = append(bad, fmt.Sprintf("%s is %q: %v", name, value, err))
		}
	}
	for name := range env {
		if strings.HasPrefix(name, ownPrefix) && !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	if len(bad) > 0 {
		return c, unknown, errors.New(strings.Join(bad, "; "))
	}
	return c, unknown, nil
}

// environment is the map of an environment; the last of equal names counts.
func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return env
}

func parsePort(to *int, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 65535 {
		return errors.New("must be a port from 1 to 65535")
	}
	*to = n
	return nil
}

func parsePath(to *string, v string) error {
	if !strings.HasPrefix(v, "/") {
		return errors.New("must begin with a slash")
	}
	for _, r := range v {
		if r <= ' ' || r == 0x7f {
			return errors.New("must not contain spaces or control characters")
		}
	}
	*to = v
	return nil
}

func parseOneOf(to *string, v string, allowed ...string) error {
	v = strings.ToLower(v)
	if !slices.Contains(allowed, v) {
		return errors.New("must be " + strings.Join(allowed, " or "))
	}
	*to = v
	return nil
}

func parseDuration(to *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return errors.New("must be a positive duration with a unit, such as 30s")
	}
	*to = d
	return nil
}

func parseDurationOrZero(to *time.Duration, v string) error {
	if v == "0" {
		*to = 0
		return nil
	}
	return parseDuration(to, v)
}

func parseStatuses(to *[]statusRange, v string) error {
	var ranges []statusRange
	for part := range strings.SplitSeq(v, ",") {
		from, until, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			until = from
		}
		r := statusRange{}
		var err1, err2 error
		r.from, err1 = strconv.Atoi(strings.TrimSpace(from))
		r.to, err2 = strconv.Atoi(strings.TrimSpace(until))
		if err1 != nil || err2 != nil || r.from < 100 || r.to > 999 || r.from > r.to {
			return errors.New("must be a list of statuses and ranges, such as 200-399,404")
		}
		ranges = append(ranges, r)
	}
	*to = ranges
	return nil
}

func parseLevel(to *slog.Level, v string) error {
	level, ok := map[string]slog.Level{
		"trace": slog.LevelDebug - 4, "debug": slog.LevelDebug, "info": slog.LevelInfo,
		"warn": slog.LevelWarn, "error": slog.LevelError, "fatal": slog.LevelError + 4,
	}[strings.ToLower(v)]
	if !ok {
		return errors.New("must be trace, debug, info, warn, error or fatal")
	}
	*to = level
	return nil
}
