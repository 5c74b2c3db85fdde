package adapter

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigDefaults(t *testing.T) {
	got, remarks, err := ParseConfig(nil)
	want := Config{
		Host: "127.0.0.1", Port: 8080, AppProtocol: "http1", IdleTimeout: 4 * time.Second, HangTimeout: 30 * time.Second,
		ReadinessPath: "/", ReadinessProtocol: "http", HealthyStatus: statuses{{100, 499}},
		EventPath: "/events", LogLevel: slog.LevelInfo, LogFormat: "text",
	}
	if err != nil || remarks != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, %v; want %+v", got, remarks, err, want)
	}
}

// configTest is one environment: what it changes of the defaults, or the error.
type configTest struct {
	env  string // settings, separated by semicolons
	want func(*Config)
	err  string
	// warns is what the one warning has in it; empty: there is none.
	warns string
}

func runConfigTests(t *testing.T, tests []configTest) {
	t.Helper()
	for _, tt := range tests {
		got, remarks, err := ParseConfig(strings.Split(tt.env, ";"))
		checkRemarks(t, tt, remarks)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: error %v, want one line with %q", tt.env, err, tt.err)
			}
			continue
		}
		want, _, _ := ParseConfig(nil)
		if tt.want != nil {
			tt.want(&want)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", tt.env, got, err, want)
		}
	}
}

func checkRemarks(t *testing.T, tt configTest, remarks []Remark) {
	t.Helper()
	var lines []string
	for _, r := range remarks {
		if r.Level < slog.LevelWarn {
			continue
		}
		lines = append(lines, fmt.Sprint(r.Level, " ", r.Message, " ", r.Attrs))
	}
	switch {
	case tt.warns == "" && len(lines) > 0:
		t.Errorf("%q: warns %q", tt.env, lines)
	case tt.warns != "" && (len(lines) != 1 || !strings.HasPrefix(lines[0], "WARN ") || !strings.Contains(lines[0], tt.warns)):
		t.Errorf("%q: warns %q, want one line with %q", tt.env, lines, tt.warns)
	}
}

// TestOwnNames: a value that makes no sense is an error.
func TestOwnNames(t *testing.T) {
	tests := []configTest{
		{env: "LAMBDA_DISPATCH_PORT=5000", want: func(c *Config) { c.Port = 5000 }},
		{env: "LAMBDA_DISPATCH_PORT=http", err: `LAMBDA_DISPATCH_PORT is "http": must be a port from 1 to 65535`},
		{env: "LAMBDA_DISPATCH_HOST=::1", want: func(c *Config) { c.Host = "::1" }},
		{env: "LAMBDA_DISPATCH_HOST=0.0.0.0", want: func(*Config) {}},
		{env: "LAMBDA_DISPATCH_HOST=a b", err: "host"},
		{env: "LAMBDA_DISPATCH_APP_SOCKET=/tmp/app.sock", want: func(c *Config) { c.AppSocket = "/tmp/app.sock" }},
		{env: "LAMBDA_DISPATCH_APP_PROTOCOL=H2C", want: func(c *Config) { c.AppProtocol = "h2c" }},
		{env: "LAMBDA_DISPATCH_APP_PROTOCOL=h3", err: "http1 or h2c"},
		{env: "LAMBDA_DISPATCH_APP_IDLE_TIMEOUT=1m", want: func(c *Config) { c.IdleTimeout = time.Minute }},
		{env: "LAMBDA_DISPATCH_APP_IDLE_TIMEOUT=0", want: func(c *Config) { c.IdleTimeout = 0 }},
		{env: "LAMBDA_DISPATCH_APP_IDLE_TIMEOUT=5", err: "unit"},
		{env: "LAMBDA_DISPATCH_APP_HANG_TIMEOUT=0", want: func(c *Config) { c.HangTimeout = 0 }},
		{env: "LAMBDA_DISPATCH_APP_HANG_TIMEOUT=2m", want: func(c *Config) { c.HangTimeout = 2 * time.Minute }},
		{env: "LAMBDA_DISPATCH_APP_HANG_TIMEOUT=-1s", err: "positive duration"},
		{env: "LAMBDA_DISPATCH_READINESS_PORT=9", want: func(c *Config) { c.ReadinessPort = 9 }},
		{env: "LAMBDA_DISPATCH_READINESS_PATH=/h", want: func(c *Config) { c.ReadinessPath = "/h" }},
		{env: "LAMBDA_DISPATCH_READINESS_PATH=health", err: "slash"},
		{env: "LAMBDA_DISPATCH_READINESS_PATH=/a\r\n", err: "control"},
		{env: "LAMBDA_DISPATCH_READINESS_PROTOCOL=TCP", want: func(c *Config) { c.ReadinessProtocol = "tcp" }},
		{env: "LAMBDA_DISPATCH_READINESS_PROTOCOL=udp", err: "http or tcp"},
		{env: "LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=200-299,404", want: func(c *Config) { c.HealthyStatus = statuses{{200, 299}, {404, 404}} }},
		{env: "LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=299-200", err: "ranges"},
		{env: "LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=200,", err: "ranges"},
		{env: "LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=20", err: "ranges"},
		{env: "LAMBDA_DISPATCH_READINESS_TIMEOUT=1.5s", want: func(c *Config) { c.ReadinessTimeout = 1500 * time.Millisecond }},
		{env: "LAMBDA_DISPATCH_READINESS_TIMEOUT=30", err: "unit"},
		{env: "LAMBDA_DISPATCH_READINESS_TIMEOUT=-1s", err: "positive"},
		{env: "LAMBDA_DISPATCH_ASYNC_INIT=1", want: func(c *Config) { c.AsyncInit = asyncOn }},
		{env: "LAMBDA_DISPATCH_ASYNC_INIT=No", want: func(c *Config) { c.AsyncInit = asyncOff }},
		{env: "LAMBDA_DISPATCH_ASYNC_INIT=maybe", err: "true or false"},
		{env: "LAMBDA_DISPATCH_BASE_PATH=/api", want: func(c *Config) { c.BasePath = "/api" }},
		{env: "LAMBDA_DISPATCH_BASE_PATH=api", err: "slash"},
		{env: "LAMBDA_DISPATCH_EVENT_PATH=/e", want: func(c *Config) { c.EventPath = "/e" }},
		{env: "LAMBDA_DISPATCH_EVENT_PATH=e", err: "slash"},
		{env: "LAMBDA_DISPATCH_EVENT_ROUTES=sqs=/q, SNS=/t", want: func(c *Config) { c.EventRoutes = map[string]string{"sqs": "/q", "sns": "/t"} }},
		{env: "LAMBDA_DISPATCH_EVENT_ROUTES=sqs", err: "such as sqs=/queue"},
		{env: "LAMBDA_DISPATCH_EVENT_ROUTES=sqs=q", err: "path of sqs must begin with a slash"},
		{env: "LAMBDA_DISPATCH_EVENT_ROUTES=sqs=/q,sqs=/r", err: "two paths for sqs"},
		{env: "LAMBDA_DISPATCH_EVENT_ROUTES=sqz=/q", err: `has "sqz"`},
		{env: "LAMBDA_DISPATCH_EVENT_ROUTES=alb=/q", err: `has "alb"`},
		{env: "LAMBDA_DISPATCH_EVENT_ERROR_STATUS=400-599", want: func(c *Config) { c.EventErrorStatus = statuses{{400, 599}} }},
		{env: "LAMBDA_DISPATCH_EVENT_ERROR_STATUS=bad", err: "ranges"},
		{env: "LAMBDA_DISPATCH_ERROR_STATUS=500,502-504", want: func(c *Config) { c.ErrorStatus = statuses{{500, 500}, {502, 504}} }},
		{env: "LAMBDA_DISPATCH_ERROR_STATUS=5xx", err: "ranges"},
		{env: "LAMBDA_DISPATCH_INVOKE_MODE=Response_Stream", want: func(c *Config) { c.Stream = true }},
		{env: "LAMBDA_DISPATCH_INVOKE_MODE=stream", err: "buffered or response_stream"},
		{env: "LAMBDA_DISPATCH_COMPRESSION=on", want: func(c *Config) { c.Compress = true }},
		{env: "LAMBDA_DISPATCH_COMPRESSION=gzip", err: "true or false"},
		{env: "LAMBDA_DISPATCH_AUTHORIZATION_SOURCE=x-auth", want: func(c *Config) { c.AuthorizationSource = "x-auth" }},
		{env: "LAMBDA_DISPATCH_AUTHORIZATION_SOURCE=x auth", err: "header"},
		{env: "LAMBDA_DISPATCH_RUNTIME_API_PROXY=127.0.0.1:9002", want: func(c *Config) { c.RuntimeAPIProxy = "127.0.0.1:9002" }},
		{env: "LAMBDA_DISPATCH_RUNTIME_API_PROXY=https://proxy/x", err: "host:port"},
		{env: "LAMBDA_DISPATCH_BEFORE_CHECKPOINT_PATH=/b", want: func(c *Config) { c.BeforeCheckpointPath = "/b" }},
		{env: "LAMBDA_DISPATCH_AFTER_RESTORE_PATH=/a", want: func(c *Config) { c.AfterRestorePath = "/a" }},
		{env: "LAMBDA_DISPATCH_EXEC_WRAPPER=/opt/otel", want: func(*Config) {}},
		{env: "LAMBDA_DISPATCH_LOG_LEVEL=WARN", want: func(c *Config) { c.LogLevel = slog.LevelWarn }},
		{env: "LAMBDA_DISPATCH_LOG_LEVEL=loud", err: "trace, debug"},
		{env: "LAMBDA_DISPATCH_LOG_FORMAT=JSON", want: func(c *Config) { c.LogFormat = "json" }},
		{env: "LAMBDA_DISPATCH_LOG_FORMAT=xml", err: "text or json"},
	}
	runConfigTests(t, tests)
	// Each name has a row.
	for _, s := range settings {
		if !slices.ContainsFunc(tests, func(tt configTest) bool { return strings.HasPrefix(tt.env, s.names[0]+"=") }) {
			t.Errorf("%s is not tested", s.names[0])
		}
	}
}

// TestHookPaths: what LWA refuses at start is refused under both names.
func TestHookPaths(t *testing.T) {
	for _, name := range []string{
		"LAMBDA_DISPATCH_BEFORE_CHECKPOINT_PATH", "LAMBDA_DISPATCH_AFTER_RESTORE_PATH",
		"AWS_LWA_SNAPSTART_BEFORE_CHECKPOINT_PATH", "AWS_LWA_SNAPSTART_AFTER_RESTORE_PATH",
	} {
		runConfigTests(t, []configTest{
			{env: name + "=/", err: name + ` is "/": must not be the root`},
			{env: name + "=//.;x", err: "root"},
			{env: name + "=/%68ook", err: "percent"},
			{env: name + "=hook", err: "slash"},
			{env: name + "=/a b", err: "spaces"},
			{env: name + "=/events", err: "/events is both"},
			{env: name + "=/x/../EVENTS/", err: "both"},
			{env: name + "=/in;AWS_LWA_PASS_THROUGH_PATH=in", err: "both"},
			{env: name + "=/q;LAMBDA_DISPATCH_EVENT_ROUTES=sqs=/q", err: "both"},
		})
	}
}

func TestUnknownSettings(t *testing.T) {
	runConfigTests(t, []configTest{
		{env: "LAMBDA_DISPATCH_PRT=1", warns: "unknown setting is ignored [name=LAMBDA_DISPATCH_PRT did_you_mean=LAMBDA_DISPATCH_PORT]"},
		{env: "AWS_LWA_READINESS_CHECK_TIMEOUT=5", warns: "did_you_mean=AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS"},
		{env: "AWS_LWA_REMOVE_BASEPATH=/x", warns: "did_you_mean=AWS_LWA_REMOVE_BASE_PATH"},
		{env: "LAMBDA_DISPATCH_=", warns: "[name=LAMBDA_DISPATCH_]"},
		{env: "AWS_LWA_ENABLE_TLS=1", warns: "[name=AWS_LWA_ENABLE_TLS]"},
		{env: "HOME=/;junk;AWS_LAMBDA_WHATEVER=1"},
	})
}

func TestDeprecatedNamesMakeNoNoise(t *testing.T) {
	_, remarks, err := ParseConfig([]string{"ASYNC_INIT=true", "PORT=1", "HOST=h"})
	got := fmt.Sprint(remarks)
	want := "[{DEBUG setting has a newer name [name=HOST newer=LAMBDA_DISPATCH_HOST]} " +
		"{DEBUG setting has a newer name [name=ASYNC_INIT newer=LAMBDA_DISPATCH_ASYNC_INIT]}]"
	if err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

func TestTwoBadValuesAreOneError(t *testing.T) {
	_, _, err := ParseConfig([]string{"LAMBDA_DISPATCH_PORT=x", "LAMBDA_DISPATCH_COMPRESSION=y"})
	if err == nil || strings.Count(err.Error(), "; ") != 1 {
		t.Errorf("error %v", err)
	}
}

func TestAddresses(t *testing.T) {
	c := Config{Host: "::1", Port: 80}
	check := func(wantApp, wantReadiness string) {
		t.Helper()
		n1, a1 := c.AppNetwork()
		n2, a2 := c.readinessNetwork()
		if got := n1 + " " + a1; got != wantApp {
			t.Errorf("app at %s, want %s", got, wantApp)
		}
		if got := n2 + " " + a2; got != wantReadiness {
			t.Errorf("readiness at %s, want %s", got, wantReadiness)
		}
	}
	check("tcp [::1]:80", "tcp [::1]:80")
	c.ReadinessPort = 81
	check("tcp [::1]:80", "tcp [::1]:81")
	c.AppSocket = "/run/app"
	check("unix /run/app", "tcp [::1]:81")
	c.ReadinessPort = 0
	check("unix /run/app", "unix /run/app")
}

func TestHelpNamesEverySetting(t *testing.T) {
	var help strings.Builder
	usage(&help)
	for _, s := range settings {
		line := ""
		for l := range strings.SplitSeq(help.String(), "\n") {
			if strings.HasPrefix(l, s.names[0]+" ") {
				line = l
			}
		}
		for _, part := range append([]string{s.help, "(default " + s.dflt + ")"}, s.names...) {
			if part != "(default )" && !strings.Contains(line, part) {
				t.Errorf("line %q lacks %q", line, part)
			}
		}
	}
}
