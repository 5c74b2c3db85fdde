// Package demoapp is the web app of the quick start, the tests and the
// benchmark: an ordinary HTTP server with routes that show what a path between
// client and app does to a request. It stands for any app of a user, so it
// must not import another package of this module and it does nothing that is
// special to Lambda, apart from reading the name of its environment from the
// variable that Lambda sets in every environment.
package demoapp

import (
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// EnvironmentHeader is set on every response to the name of the execution
// environment that answered. It does not begin with Lambda-Dispatch-, because
// the tunnel keeps those headers to itself.
const EnvironmentHeader = "X-Environment"

// Config is what distinguishes one process of the app from another.
type Config struct {
	// Environment names the execution environment. Default: "pid-" and the
	// process ID.
	Environment string
	// Function is the name of the Lambda function, if there is one.
	Function string
	// InitSleep is how long the app pretends to initialise: until that much
	// time has passed since [New], /health does not answer. Default: none.
	InitSleep time.Duration
}

// ConfigFromEnv reads the configuration from environment variables:
// AWS_LAMBDA_LOG_STREAM_NAME, which Lambda makes unique for each environment
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html),
// AWS_LAMBDA_FUNCTION_NAME, and INIT_SLEEP_MS in milliseconds.
func ConfigFromEnv(getenv func(string) string) (Config, error) {
	cfg := Config{
		Environment: getenv("AWS_LAMBDA_LOG_STREAM_NAME"),
		Function:    getenv("AWS_LAMBDA_FUNCTION_NAME"),
	}
	if s := getenv("INIT_SLEEP_MS"); s != "" {
		d, err := parseMilliseconds(s)
		if err != nil {
			return Config{}, &valueError{name: "INIT_SLEEP_MS", err: err}
		}
		cfg.InitSleep = d
	}
	return cfg, nil
}

// App is the demo app. It is an [http.Handler] and safe for concurrent use.
type App struct {
	environment []string // as a header value, shared by all responses
	function    string
	started     time.Time
	initialised time.Time
	mux         *http.ServeMux

	// served counts requests, without the /health checks that no user sent.
	served atomic.Uint64
}

// New returns the app, whose uptime starts now.
func New(cfg Config) *App {
	if cfg.Environment == "" {
		cfg.Environment = "pid-" + strconv.Itoa(os.Getpid())
	}
	now := time.Now()
	a := &App{
		environment: []string{cfg.Environment},
		function:    cfg.Function,
		started:     now,
		initialised: now.Add(cfg.InitSleep),
		mux:         http.NewServeMux(),
	}
	a.mux.HandleFunc("GET /{$}", a.index)
	a.mux.HandleFunc("GET /ping", ping)
	a.mux.HandleFunc("GET /health", a.health)
	a.mux.HandleFunc("GET /headers", headers)
	a.mux.HandleFunc("GET /delay", delay)
	a.mux.HandleFunc("POST /echo", echo)
	a.mux.HandleFunc("GET /chunked-response", chunkedResponse)
	a.mux.HandleFunc("GET /env", a.env)
	a.mux.HandleFunc("GET /odd-status", oddStatus)
	a.mux.HandleFunc("GET /public/silly-test-image.jpg", silly)
	return a
}

// ServeHTTP implements [http.Handler].
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()[EnvironmentHeader] = a.environment
	if r.URL.Path != "/health" {
		a.served.Add(1)
	}
	a.mux.ServeHTTP(w, r)
}

// info is the app's account of itself: the body of /env.
type info struct {
	App         string `json:"app"`
	Environment string `json:"environment"`
	Function    string `json:"function,omitempty"`
	PID         int    `json:"pid"`
	Requests    uint64 `json:"requests"`
	UptimeMS    int64  `json:"uptime_ms"`
}

func (a *App) info() info {
	return info{
		App:         "demo",
		Environment: a.environment[0],
		Function:    a.function,
		PID:         os.Getpid(),
		Requests:    a.served.Load(),
		UptimeMS:    time.Since(a.started).Milliseconds(),
	}
}
