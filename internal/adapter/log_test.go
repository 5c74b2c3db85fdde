package adapter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// TestJSONLog: Lambda reads the level and the time, and people look for the
// request ID, under the names that its own structured logs have.
func TestJSONLog(t *testing.T) {
	for level, name := range map[slog.Level]string{
		levelTrace: "TRACE", slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelWarn: "WARN", slog.LevelError: "ERROR", levelFatal: "FATAL",
	} {
		var out bytes.Buffer
		log := newLogger(&out, &Config{LogLevel: levelTrace, LogFormat: "json"})
		log.Log(context.Background(), level, "something happened",
			slog.String(requestID, "r-1"), slog.Any("error", errors.New("x")), slog.Duration("waited", 1500*time.Millisecond))
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", out.Bytes(), err)
		}
		stamp, _ := line["timestamp"].(string)
		if at, err := time.Parse(time.RFC3339, stamp); err != nil || time.Since(at) > time.Minute || stamp[len(stamp)-1] != 'Z' {
			t.Errorf("timestamp %q, %v", stamp, err)
		}
		delete(line, "timestamp")
		want := map[string]any{"level": name, "message": "something happened", "requestId": "r-1", "error": "x", "waited": "1.5s"}
		if len(line) != len(want) {
			t.Errorf("line %s", out.Bytes())
		}
		for k, v := range want {
			if line[k] != v {
				t.Errorf("%s is %v, want %v", k, line[k], v)
			}
		}
	}
}

func TestTextLog(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, &Config{LogLevel: slog.LevelWarn, LogFormat: "text"})
	log.Info("no")
	log.Warn("something happened", slog.String(requestID, "r-1"))
	if want := "level=WARN msg=\"something happened\" request_id=r-1\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
