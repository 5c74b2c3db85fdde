package adapter

import (
	"log/slog"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
)

// Config is what the adapter reads from the environment. See settings for
// names, defaults and meanings.
type Config struct {
	// The app.

	Host        string
	Port        int
	AppSocket   string        // path of a Unix socket; empty: Host and Port
	AppProtocol string        // "http1" or "h2c"
	IdleTimeout time.Duration // of connections to the app; 0: none is used twice
	HangTimeout time.Duration // 0: off

	ReadinessPort     int // 0: Port, or AppSocket
	ReadinessPath     string
	ReadinessProtocol string // "http" or "tcp"
	HealthyStatus     statuses
	ReadinessTimeout  time.Duration // 0: no end
	AsyncInit         asyncInitMode

	// Direct events.

	BasePath            string
	EventPath           string
	EventRoutes         map[string]string // source → path
	EventErrorStatus    statuses
	ErrorStatus         statuses
	Stream              bool
	Compress            bool
	AuthorizationSource string // header; empty: none

	// Lambda.

	RuntimeAPIProxy      string // host:port or URL; empty: none
	BeforeCheckpointPath string // empty: no hook
	AfterRestorePath     string // empty: no hook

	LogLevel  slog.Level
	LogFormat string // "text" or "json"
}

// asyncInitMode says whether the initialisation may end before the app is
// ready.
type asyncInitMode int

const (
	// asyncAuto is asyncOn, but a readiness timeout holds.
	asyncAuto asyncInitMode = iota
	asyncOn
	asyncOff
)

// The values of Config.AppProtocol.
const (
	protocolHTTP1 = "http1"
	protocolH2C   = "h2c"
)

// AppNetwork returns where the app takes requests, as [net.Dial] wants it.
func (c *Config) AppNetwork() (network, address string) {
	if c.AppSocket != "" {
		return "unix", c.AppSocket
	}
	return "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
}

// readinessNetwork returns who is asked whether the app is ready.
func (c *Config) readinessNetwork() (network, address string) {
	if c.ReadinessPort == 0 {
		return c.AppNetwork()
	}
	return "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.ReadinessPort))
}

// direct returns what can be set about direct events.
func (c *Config) direct() directConfig {
	return directConfig{
		Options: directevent.Options{
			BasePath:            c.BasePath,
			PassThroughPath:     c.EventPath,
			Routes:              c.EventRoutes,
			AuthorizationSource: c.AuthorizationSource,
		},
		Stream:           c.Stream,
		Compress:         c.Compress,
		ErrorStatus:      c.ErrorStatus.has,
		EventErrorStatus: c.EventErrorStatus.has,
		HangTimeout:      c.HangTimeout,
	}
}

// statusRange is a range of HTTP status codes, both ends included.
type statusRange struct{ from, to int }

// statuses is a set of HTTP status codes.
type statuses []statusRange

func (s statuses) has(status int) bool {
	return slices.ContainsFunc(s, func(r statusRange) bool { return status >= r.from && status <= r.to })
}
