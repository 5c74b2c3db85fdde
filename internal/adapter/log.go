package adapter

import (
	"io"
	"log/slog"
)

// Levels that Lambda has and slog has not.
const (
	levelTrace = slog.LevelDebug - 4
	levelFatal = slog.LevelError + 4
)

// requestID is the key of an invocation's request ID in the log.
const requestID = "request_id"

// newLogger logs to w, which Lambda collects. Lambda adds the time to text
// lines but not to JSON ones.
func newLogger(w io.Writer, cfg *Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		options.ReplaceAttr = asLambda
		return slog.New(slog.NewJSONHandler(w, options))
	}
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// asLambda names things as Lambda's own structured logs do, by which it filters
// levels and finds the lines of an invocation ("Log-level filtering" and
// "Configuring JSON and plain text log formats" in the developer guide).
func asLambda(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("timestamp", a.Value.Time().UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	case slog.MessageKey:
		a.Key = "message"
	case slog.LevelKey:
		a.Value = slog.StringValue(lambdaLevel(a.Value.Any()))
	case requestID:
		a.Key = "requestId"
	}
	return a
}

func lambdaLevel(level any) string {
	l, ok := level.(slog.Level)
	switch {
	case !ok:
		return "INFO"
	case l <= levelTrace:
		return "TRACE"
	case l >= levelFatal:
		return "FATAL"
	}
	return l.String()
}
