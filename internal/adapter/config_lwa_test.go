package adapter

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLWANames has every name of AWS Lambda Web Adapter, with what values mean
// there. One that makes no sense is a warning, and counts as it does there.
func TestLWANames(t *testing.T) {
	port := func(n int) func(*Config) { return func(c *Config) { c.Port = n } }
	host := func(h string) func(*Config) { return func(c *Config) { c.Host = h } }
	healthy := func(s ...statusRange) func(*Config) { return func(c *Config) { c.HealthyStatus = s } }
	async := func(m asyncInitMode) func(*Config) { return func(c *Config) { c.AsyncInit = m } }
	tests := []configTest{
		{env: "PORT=3000", want: port(3000)},
		{env: "AWS_LWA_PORT=4000;PORT=3000", want: port(4000)},
		{env: "LAMBDA_DISPATCH_PORT=5000;AWS_LWA_PORT=4000;PORT=x", want: port(5000)},
		{env: "PORT=", want: port(8080)},
		{env: "PORT=0", err: `PORT is "0"`}, // LWA does not start either
		{env: "AWS_LWA_PORT=65536", err: `AWS_LWA_PORT is "65536"`},
		{env: "AWS_LAMBDA_HTTP_ENDPOINT=0.0.0.0:3000;PORT=1", want: port(3000)},
		{env: "AWS_LAMBDA_HTTP_ENDPOINT=http://127.0.0.2:3000/", want: func(c *Config) { c.Host, c.Port = "127.0.0.2", 3000 }},
		{env: "AWS_LAMBDA_HTTP_ENDPOINT=[::]:3000;AWS_LWA_PORT=4000", want: func(c *Config) { c.Host, c.Port = "::1", 4000 }},
		{env: "AWS_LAMBDA_HTTP_ENDPOINT=:3000", want: port(3000)},
		{env: "AWS_LAMBDA_HTTP_ENDPOINT=3000;PORT=81;HOST=h", want: func(c *Config) { c.Host, c.Port = "h", 81 },
			warns: "setting is not understood [name=AWS_LAMBDA_HTTP_ENDPOINT value=3000 problem=must be host:port using=81]"},

		{env: "HOST=0.0.0.0", want: host("127.0.0.1")},
		{env: "AWS_LWA_HOST=app.local;HOST=x", want: host("app.local")},
		{env: "AWS_LWA_HOST=[::1]", want: host("::1")},
		{env: "AWS_LWA_HOST=a/b", err: `AWS_LWA_HOST is "a/b"`},

		{env: "READINESS_CHECK_PORT=1", want: func(c *Config) { c.ReadinessPort = 1 }},
		{env: "AWS_LWA_READINESS_CHECK_PORT=2;READINESS_CHECK_PORT=1", want: func(c *Config) { c.ReadinessPort = 2 }},
		{env: "AWS_LWA_READINESS_CHECK_PORT=x", err: "AWS_LWA_READINESS_CHECK_PORT"},

		{env: "READINESS_CHECK_PATH=/a", want: func(c *Config) { c.ReadinessPath = "/a" }},
		{env: "AWS_LWA_READINESS_CHECK_PATH=/health?x", want: func(c *Config) { c.ReadinessPath = "/health?x" }},
		{env: "AWS_LWA_READINESS_CHECK_PATH=?x", want: func(c *Config) { c.ReadinessPath = "/?x" }},
		{env: "AWS_LWA_READINESS_CHECK_PATH=/a b\t ", want: func(c *Config) { c.ReadinessPath = "/a%20b" }},
		{env: "AWS_LWA_READINESS_CHECK_PATH=health", err: "slash"},

		{env: "READINESS_CHECK_PROTOCOL=tcp", want: func(c *Config) { c.ReadinessProtocol = "tcp" }},
		{env: "AWS_LWA_READINESS_CHECK_PROTOCOL=TCP", want: func(c *Config) { c.ReadinessProtocol = "tcp" }},
		{env: "AWS_LWA_READINESS_CHECK_PROTOCOL=udp", warns: "name=AWS_LWA_READINESS_CHECK_PROTOCOL value=udp problem=must be http or tcp using=http"},

		{env: "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS=200-399, 404", want: healthy(statusRange{200, 399}, statusRange{404, 404})},
		{env: "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS=0-204,", want: healthy(statusRange{100, 204})},
		{env: "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS=2xx,204,9-1", want: healthy(statusRange{204, 204}), warns: `"2xx", "9-1" is no status`},
		{env: "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS=ok", err: `AWS_LWA_READINESS_CHECK_HEALTHY_STATUS is "ok"`}, // never ready there
		{env: "AWS_LWA_READINESS_CHECK_MIN_UNHEALTHY_STATUS=400", want: healthy(statusRange{100, 399})},
		{env: "READINESS_CHECK_MIN_UNHEALTHY_STATUS=600", want: healthy(statusRange{100, 599})},
		{env: "AWS_LWA_READINESS_CHECK_MIN_UNHEALTHY_STATUS=x", warns: "using=100-499"},
		{env: "AWS_LWA_READINESS_CHECK_MIN_UNHEALTHY_STATUS=400;AWS_LWA_READINESS_CHECK_HEALTHY_STATUS=200", want: healthy(statusRange{200, 200})},
		{env: "AWS_LWA_READINESS_CHECK_MIN_UNHEALTHY_STATUS=100", err: `is "100"`}, // never ready there

		{env: "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=2.5", want: func(c *Config) { c.ReadinessTimeout = 2500 * time.Millisecond }},
		{env: "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=0", warns: "positive number of seconds using=nothing"},
		{env: "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=-1", warns: "positive number of seconds using=nothing"},
		{env: "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=30s", warns: "positive number of seconds using=nothing"},
		{env: "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=NaN", warns: "positive number of seconds using=nothing"},
		{env: "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS=inf", warns: "positive number of seconds using=nothing"},

		{env: "ASYNC_INIT=true", want: async(asyncOn)},
		{env: "AWS_LWA_ASYNC_INIT=false;ASYNC_INIT=true", want: async(asyncOff)},
		{env: "AWS_LWA_ASYNC_INIT=TRUE", want: async(asyncOn)},
		{env: "AWS_LWA_ASYNC_INIT=2", want: async(asyncOff), warns: "value=2 problem=must be true or false using=false"},

		{env: "REMOVE_BASE_PATH=/a", want: func(c *Config) { c.BasePath = "/a" }},
		{env: "AWS_LWA_REMOVE_BASE_PATH=/b/;REMOVE_BASE_PATH=/a", want: func(c *Config) { c.BasePath = "/b/" }},
		{env: "AWS_LWA_REMOVE_BASE_PATH=b", warns: "matches no path"},
		{env: "AWS_LWA_REMOVE_BASE_PATH=/my app", want: func(c *Config) { c.BasePath = "/my%20app" }},

		{env: "AWS_LWA_PASS_THROUGH_PATH=/in", want: func(c *Config) { c.EventPath = "/in" }},
		{env: "AWS_LWA_PASS_THROUGH_PATH=in", want: func(c *Config) { c.EventPath = "/in" }},

		{env: "AWS_LWA_INVOKE_MODE=RESPONSE_STREAM", want: func(c *Config) { c.Stream = true }},
		{env: "AWS_LWA_INVOKE_MODE=buffered", want: func(*Config) {}},
		{env: "AWS_LWA_INVOKE_MODE=streaming", warns: "using=buffered"},

		{env: "AWS_LWA_ENABLE_COMPRESSION=true", want: func(c *Config) { c.Compress = true }},
		{env: "AWS_LWA_ENABLE_COMPRESSION=gzip", warns: "using=false"},

		{env: "AWS_LWA_AUTHORIZATION_SOURCE=x-token", want: func(c *Config) { c.AuthorizationSource = "x-token" }},
		{env: "AWS_LWA_AUTHORIZATION_SOURCE=x token", warns: "using=nothing"},

		{env: "AWS_LWA_ERROR_STATUS_CODES=500, 502-504", want: func(c *Config) { c.ErrorStatus = statuses{{500, 500}, {502, 504}} }},
		{env: "AWS_LWA_ERROR_STATUS_CODES=5xx", warns: `"5xx" is no status`},

		{env: "AWS_LWA_LAMBDA_RUNTIME_API_PROXY=127.0.0.1:9002", want: func(c *Config) { c.RuntimeAPIProxy = "127.0.0.1:9002" }},
		{env: "AWS_LWA_LAMBDA_RUNTIME_API_PROXY=http://127.0.0.1:9002/", want: func(c *Config) { c.RuntimeAPIProxy = "http://127.0.0.1:9002/" }},
		{env: "AWS_LWA_LAMBDA_RUNTIME_API_PROXY=ftp://x", err: "host:port"},

		{env: "AWS_LWA_SNAPSTART_BEFORE_CHECKPOINT_PATH=/b", want: func(c *Config) { c.BeforeCheckpointPath = "/b" }},
		{env: "AWS_LWA_SNAPSTART_AFTER_RESTORE_PATH=/a", want: func(c *Config) { c.AfterRestorePath = "/a" }},

		{env: "AWS_LWA_POOL_IDLE_TIMEOUT_SECONDS=0.5", want: func(c *Config) { c.IdleTimeout = 500 * time.Millisecond }},
		{env: "AWS_LWA_POOL_IDLE_TIMEOUT_SECONDS=0", want: func(c *Config) { c.IdleTimeout = 0 }},
		{env: "AWS_LWA_POOL_IDLE_TIMEOUT_SECONDS=1e20", want: func(c *Config) { c.IdleTimeout = 1e9 * time.Second }},
		{env: "AWS_LWA_POOL_IDLE_TIMEOUT_SECONDS=-1", warns: "using=4s"},
		{env: "AWS_LWA_POOL_IDLE_TIMEOUT_SECONDS=4s", warns: "using=4s"},

		{env: "AWS_LAMBDA_LOG_LEVEL=DEBUG;RUST_LOG=error", want: func(c *Config) { c.LogLevel = slog.LevelDebug }},
		{env: "AWS_LAMBDA_LOG_LEVEL=TRACE", want: func(c *Config) { c.LogLevel = levelTrace }},
		{env: "AWS_LAMBDA_LOG_LEVEL=loud;RUST_LOG=warn", want: func(c *Config) { c.LogLevel = slog.LevelWarn }, warns: "value=loud"},
		{env: "RUST_LOG=error", want: func(c *Config) { c.LogLevel = slog.LevelError }},
		{env: "RUST_LOG=off", want: func(c *Config) { c.LogLevel = levelFatal }},
		{env: "RUST_LOG=hyper=debug,info", warns: "using=info"},
		{env: "AWS_LAMBDA_LOG_FORMAT=JSON", want: func(c *Config) { c.LogFormat = "json" }},
		{env: "AWS_LAMBDA_LOG_FORMAT=xml", warns: "using=text"},
	}
	runConfigTests(t, tests)
	for _, s := range settings {
		for _, name := range s.names[1:] {
			if !slices.ContainsFunc(tests, func(tt configTest) bool { return strings.HasPrefix(tt.env, name+"=") }) {
				t.Errorf("%s is not tested", name)
			}
		}
	}
}

// TestOwnNamesWin: of two names that make sense, ours.
func TestOwnNamesWin(t *testing.T) {
	runConfigTests(t, []configTest{
		{env: "AWS_LWA_PORT=1;LAMBDA_DISPATCH_PORT=2", want: func(c *Config) { c.Port = 2 }},
		{env: "AWS_LWA_INVOKE_MODE=what;LAMBDA_DISPATCH_INVOKE_MODE=response_stream", want: func(c *Config) { c.Stream = true }},
		{env: "AWS_LWA_ASYNC_INIT=true;LAMBDA_DISPATCH_ASYNC_INIT=false", want: func(c *Config) { c.AsyncInit = asyncOff }},
	})
}
