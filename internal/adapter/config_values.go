package adapter

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

func parsePort(to *int, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 65535 {
		return errors.New("must be a port from 1 to 65535")
	}
	*to = n
	return nil
}

// parseHost takes IPv6 addresses with and without brackets. Apps are told to
// listen on all addresses; we connect to this machine's own.
func parseHost(to *string, v string) error {
	v = strings.TrimSuffix(strings.TrimPrefix(v, "["), "]")
	if ip, err := netip.ParseAddr(v); err == nil {
		switch {
		case ip == netip.IPv4Unspecified():
			v = "127.0.0.1"
		case ip == netip.IPv6Unspecified():
			v = "::1"
		}
	} else if v == "" || strings.ContainsAny(v, " \t\r\n/\\?#@:[]%") {
		return errors.New("must be the name or address of a host")
	}
	*to = v
	return nil
}

func parsePath(to *string, v string) error {
	if !strings.HasPrefix(v, "/") {
		return errors.New("must begin with a slash")
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] == 0x7f {
			return errors.New("must not contain spaces or control characters")
		}
	}
	*to = v
	return nil
}

// parseHookPath refuses what the guard could not tell from other paths.
func parseHookPath(to *string, v string) error {
	var path string
	if err := parsePath(&path, v); err != nil {
		return err
	}
	if strings.Contains(v, "%") {
		return errors.New("must not contain percent signs")
	}
	if canonicalPath(v) == "/" {
		return errors.New("must not be the root")
	}
	*to = path
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

func parseBool(to *bool, v string) error {
	switch strings.ToLower(v) {
	case "true", "1", "yes", "on":
		*to = true
	case "false", "0", "no", "off":
		*to = false
	default:
		return errors.New("must be true or false")
	}
	return nil
}

func parseAsync(to *asyncInitMode, v string) error {
	var on bool
	if err := parseBool(&on, v); err != nil {
		return err
	}
	*to = asyncOff
	if on {
		*to = asyncOn
	}
	return nil
}

func parseInvokeMode(stream *bool, v string) error {
	var mode string
	err := parseOneOf(&mode, v, "buffered", "response_stream")
	*stream = mode == "response_stream"
	return err
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
	if d, err := time.ParseDuration(v); err == nil && d == 0 {
		*to = 0
		return nil
	}
	return parseDuration(to, v)
}

func parseStatuses(to *statuses, v string) error {
	var set statuses
	for part := range strings.SplitSeq(v, ",") {
		r, err := parseStatusRange(part)
		if err != nil || r.from < 100 || r.to > 999 || r.from > r.to {
			return errors.New("must be a list of statuses and ranges, such as 200-399,404")
		}
		set = append(set, r)
	}
	*to = set
	return nil
}

func parseStatusRange(part string) (r statusRange, err error) {
	from, until, isRange := strings.Cut(strings.TrimSpace(part), "-")
	if !isRange {
		until = from
	}
	r.from, err = strconv.Atoi(strings.TrimSpace(from))
	if err != nil {
		return r, fmt.Errorf("reading a status: %w", err)
	}
	r.to, err = strconv.Atoi(strings.TrimSpace(until))
	if err != nil {
		return r, fmt.Errorf("reading a status: %w", err)
	}
	return r, nil
}

// parseRoutes reads pairs such as sqs=/queue,sns=/topic.
func parseRoutes(to *map[string]string, v string) error {
	routes := make(map[string]string)
	for pair := range strings.SplitSeq(v, ",") {
		source, path, ok := strings.Cut(pair, "=")
		source = strings.ToLower(strings.TrimSpace(source))
		if !ok || source == "" {
			return errors.New("must be a list of sources and paths, such as sqs=/queue,sns=/topic")
		}
		if from, ok := directevent.SourceNamed(source); !ok || from.HTTP() {
			return fmt.Errorf("has %q, which is no source of events that are no HTTP requests", source)
		}
		if _, twice := routes[source]; twice {
			return fmt.Errorf("has two paths for %s", source)
		}
		var to string
		if err := parsePath(&to, strings.TrimSpace(path)); err != nil {
			return fmt.Errorf("the path of %s %w", source, err)
		}
		routes[source] = to
	}
	*to = routes
	return nil
}

func parseHeaderName(to *string, v string) error {
	if !httprules.ValidFieldName(v) {
		return errors.New("must be the name of a header")
	}
	*to = v
	return nil
}

func parseAPI(to *string, v string) error {
	api, err := lambdaapi.New(v)
	if err != nil {
		return errors.New("must be host:port or http://host:port")
	}
	api.Close()
	*to = v
	return nil
}

func parseLevel(to *slog.Level, v string) error {
	level, ok := map[string]slog.Level{
		"trace": levelTrace, "debug": slog.LevelDebug, "info": slog.LevelInfo,
		"warn": slog.LevelWarn, "error": slog.LevelError, "fatal": levelFatal,
	}[strings.ToLower(v)]
	if !ok {
		return errors.New("must be trace, debug, info, warn, error or fatal")
	}
	*to = level
	return nil
}
