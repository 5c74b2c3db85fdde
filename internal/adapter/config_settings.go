package adapter

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// httpEndpoint is what AWS's own runtimes for web apps tell the app to listen
// on.
const httpEndpoint = "AWS_LAMBDA_HTTP_ENDPOINT"

// settings is every setting.
var settings = slices.Concat(appSettings, readinessSettings, eventSettings, lambdaSettings)

var appSettings = []setting{
	{
		names: []string{"LAMBDA_DISPATCH_PORT", "AWS_LWA_PORT", httpEndpoint, "PORT"}, dflt: "8080",
		help:    "port of the app",
		set:     func(c *Config, v string) error { return parsePort(&c.Port, v) },
		foreign: endpoint(endpointPort),
	},
	{
		names: []string{"LAMBDA_DISPATCH_HOST", "AWS_LWA_HOST", httpEndpoint, "HOST"}, dflt: "127.0.0.1",
		help:    "host of the app; an address that means all of this machine's is that of the machine itself",
		set:     func(c *Config, v string) error { return parseHost(&c.Host, v) },
		foreign: endpoint(endpointHost),
	},
	{
		names: []string{"LAMBDA_DISPATCH_APP_SOCKET"},
		help:  "Unix socket of the app, instead of host and port",
		set:   func(c *Config, v string) error { c.AppSocket = v; return nil },
	},
	{
		names: []string{"LAMBDA_DISPATCH_APP_PROTOCOL"}, dflt: protocolHTTP1,
		help: "http1, or h2c: HTTP/2 without TLS, as gRPC servers speak it",
		set:  func(c *Config, v string) error { return parseOneOf(&c.AppProtocol, v, protocolHTTP1, protocolH2C) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_APP_IDLE_TIMEOUT", "AWS_LWA_POOL_IDLE_TIMEOUT_SECONDS"}, dflt: "4s",
		help:    "how long a connection to the app is kept for the next request; 0 to keep none",
		set:     func(c *Config, v string) error { return parseDurationOrZero(&c.IdleTimeout, v) },
		foreign: seconds(true),
	},
	{
		names: []string{"LAMBDA_DISPATCH_APP_HANG_TIMEOUT"}, dflt: "30s",
		help: "how long an app may be silent, while requests wait and the readiness check gets no answer, before it is ended; 0 to let it",
		set:  func(c *Config, v string) error { return parseDurationOrZero(&c.HangTimeout, v) },
	},
}

var readinessSettings = []setting{
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_PORT", "AWS_LWA_READINESS_CHECK_PORT", "READINESS_CHECK_PORT"},
		help:  "port of the readiness check; the app's by default",
		set:   func(c *Config, v string) error { return parsePort(&c.ReadinessPort, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_PATH", "AWS_LWA_READINESS_CHECK_PATH", "READINESS_CHECK_PATH"}, dflt: "/",
		help:    "path of the readiness check",
		set:     func(c *Config, v string) error { return parsePath(&c.ReadinessPath, v) },
		foreign: lenientPath,
	},
	{
		names: []string{"LAMBDA_DISPATCH_READINESS_PROTOCOL", "AWS_LWA_READINESS_CHECK_PROTOCOL", "READINESS_CHECK_PROTOCOL"}, dflt: "http",
		help:    "http: the path answers with a healthy status; tcp: the port accepts connections",
		set:     func(c *Config, v string) error { return parseOneOf(&c.ReadinessProtocol, v, "http", "tcp") },
		foreign: oneOf("http", "http", "tcp"),
	},
	{
		names: []string{
			"LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS", "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS",
			"AWS_LWA_READINESS_CHECK_MIN_UNHEALTHY_STATUS", "READINESS_CHECK_MIN_UNHEALTHY_STATUS",
		}, dflt: "100-499",
		help:    "statuses and ranges of them that count as ready, such as 200-399,404",
		set:     func(c *Config, v string) error { return parseStatuses(&c.HealthyStatus, v) },
		foreign: healthyStatuses,
	},
	{
		names:   []string{"LAMBDA_DISPATCH_READINESS_TIMEOUT", "AWS_LWA_READINESS_CHECK_TIMEOUT_SECONDS"},
		help:    "how long the app may take to become ready, such as 30s, before the initialisation fails; by default there is no end",
		set:     func(c *Config, v string) error { return parseDuration(&c.ReadinessTimeout, v) },
		foreign: seconds(false),
	},
	{
		names: []string{"LAMBDA_DISPATCH_ASYNC_INIT", "AWS_LWA_ASYNC_INIT", "ASYNC_INIT"},
		help: "true: an app that is not ready after 9.8 s is waited for by the first invocation; " +
			"false: the initialisation goes on, and Lambda begins it anew after 10 s; " +
			"by default as true, except that the readiness timeout holds; " +
			"always false with snapshots, provisioned concurrency and managed instances, where there is time",
		set:     func(c *Config, v string) error { return parseAsync(&c.AsyncInit, v) },
		foreign: falseUnless,
	},
}

var eventSettings = []setting{
	{
		names:   []string{"LAMBDA_DISPATCH_BASE_PATH", "AWS_LWA_REMOVE_BASE_PATH", "REMOVE_BASE_PATH"},
		help:    "is removed once from the beginning of the paths of direct events, as far as it is whole segments",
		set:     func(c *Config, v string) error { return parsePath(&c.BasePath, v) },
		foreign: basePath,
	},
	{
		names: []string{"LAMBDA_DISPATCH_EVENT_PATH", "AWS_LWA_PASS_THROUGH_PATH"}, dflt: "/events",
		help:    "path that direct events are posted to which are no HTTP requests",
		set:     func(c *Config, v string) error { return parsePath(&c.EventPath, v) },
		foreign: eventPath,
	},
	{
		names: []string{"LAMBDA_DISPATCH_EVENT_ROUTES"},
		help:  "other paths for the events of some sources, such as sqs=/queue,sns=/topic",
		set:   func(c *Config, v string) error { return parseRoutes(&c.EventRoutes, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_EVENT_ERROR_STATUS"},
		help:  "statuses of the app, such as 400-599, that fail the invocation by a direct event which is no HTTP request",
		set:   func(c *Config, v string) error { return parseStatuses(&c.EventErrorStatus, v) },
	},
	{
		names:   []string{"LAMBDA_DISPATCH_ERROR_STATUS", "AWS_LWA_ERROR_STATUS_CODES"},
		help:    "statuses of the app, such as 500,502-504, that fail the invocation by any direct event",
		set:     func(c *Config, v string) error { return parseStatuses(&c.ErrorStatus, v) },
		foreign: lenientStatuses,
	},
	{
		names: []string{"LAMBDA_DISPATCH_INVOKE_MODE", "AWS_LWA_INVOKE_MODE"}, dflt: "buffered",
		help:    "buffered, or response_stream: answers to direct events are sent as they come, where their source understands it",
		set:     func(c *Config, v string) error { return parseInvokeMode(&c.Stream, v) },
		foreign: oneOf("buffered", "buffered", "response_stream"),
	},
	{
		names: []string{"LAMBDA_DISPATCH_COMPRESSION", "AWS_LWA_ENABLE_COMPRESSION"}, dflt: "false",
		help:    "true: answers to direct events are compressed if their client accepts it",
		set:     func(c *Config, v string) error { return parseBool(&c.Compress, v) },
		foreign: falseUnless,
	},
	{
		names:   []string{"LAMBDA_DISPATCH_AUTHORIZATION_SOURCE", "AWS_LWA_AUTHORIZATION_SOURCE"},
		help:    "request header of direct events that becomes the Authorization header",
		set:     func(c *Config, v string) error { return parseHeaderName(&c.AuthorizationSource, v) },
		foreign: headerName,
	},
}

var lambdaSettings = []setting{
	{
		names: []string{"LAMBDA_DISPATCH_RUNTIME_API_PROXY", "AWS_LWA_LAMBDA_RUNTIME_API_PROXY"},
		help:  "host:port of a proxy of Lambda's Runtime API, for everything but the registration of the extension",
		set:   func(c *Config, v string) error { return parseAPI(&c.RuntimeAPIProxy, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_BEFORE_CHECKPOINT_PATH", "AWS_LWA_SNAPSTART_BEFORE_CHECKPOINT_PATH"},
		help:  "path that is posted to before Lambda takes a snapshot of the environment; closed to everybody else",
		set:   func(c *Config, v string) error { return parseHookPath(&c.BeforeCheckpointPath, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_AFTER_RESTORE_PATH", "AWS_LWA_SNAPSTART_AFTER_RESTORE_PATH"},
		help:  "path that is posted to after Lambda has restored an environment from a snapshot; closed to everybody else",
		set:   func(c *Config, v string) error { return parseHookPath(&c.AfterRestorePath, v) },
	},
	{
		names: []string{"LAMBDA_DISPATCH_EXEC_WRAPPER"},
		help:  "program that the layer's /opt/bootstrap lets start the app, as AWS_LAMBDA_EXEC_WRAPPER would",
		set:   func(*Config, string) error { return nil },
	},
	{
		names: []string{"LAMBDA_DISPATCH_LOG_LEVEL", "AWS_LAMBDA_LOG_LEVEL", "RUST_LOG"}, dflt: "info",
		help:    "trace, debug, info, warn, error or fatal",
		set:     func(c *Config, v string) error { return parseLevel(&c.LogLevel, v) },
		foreign: logLevel,
	},
	{
		names: []string{"LAMBDA_DISPATCH_LOG_FORMAT", "AWS_LAMBDA_LOG_FORMAT"}, dflt: "text",
		help:    "text or json",
		set:     func(c *Config, v string) error { return parseOneOf(&c.LogFormat, v, "text", "json") },
		foreign: oneOf("text", "text", "json"),
	},
}

func usage(w io.Writer) {
	fmt.Fprint(w, `usage: lambdaadapter                       as an external extension, beside an app that Lambda starts
       lambdaadapter [--] <command> [args]  as a wrapper that starts the app

The adapter runs inside AWS Lambda and lets the app answer what comes through
a lambda-dispatch router and what comes directly from other services. It is
configured by environment variables; the first of several names wins. Names
that begin with AWS_LWA_ are those of AWS Lambda Web Adapter, with its forms of
values.

`)
	width := 0
	for _, s := range settings {
		width = max(width, len(s.names[0]))
	}
	for _, s := range settings {
		fmt.Fprintf(w, "%-*s  %s", width, s.names[0], s.help)
		if s.dflt != "" {
			fmt.Fprintf(w, " (default %s)", s.dflt)
		}
		if len(s.names) > 1 {
			fmt.Fprintf(w, "; also %s", strings.Join(s.names[1:], ", "))
		}
		fmt.Fprintln(w)
	}
}
