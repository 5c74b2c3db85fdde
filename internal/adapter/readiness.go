package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// The pause between two attempts is a tenth of the time waited so far,
	// within these bounds: a quick app is not kept waiting, and a slow one not
	// kept busy.
	minReadinessPause = 10 * time.Millisecond
	maxReadinessPause = 250 * time.Millisecond

	// An attempt that hangs is given up after this, and the next after twice
	// as long: the app may lose the first request, or need long to answer.
	firstAttemptTimeout = time.Second
	maxAttemptTimeout   = 30 * time.Second

	// readinessLogEvery is how often waiting is logged.
	readinessLogEvery = 2 * time.Second
)

// readiness finds out whether the app is ready.
type readiness struct {
	network, address string
	tcp              bool          // whether it accepts connections is enough
	url              string        // of HTTP checks
	timeout          time.Duration // 0: no end
	healthy          statuses
	log              *slog.Logger
	client           *http.Client
}

func newReadiness(cfg *Config, log *slog.Logger) *readiness {
	r := &readiness{
		tcp: cfg.ReadinessProtocol == "tcp", timeout: cfg.ReadinessTimeout, healthy: cfg.HealthyStatus, log: log,
	}
	r.network, r.address = cfg.readinessNetwork()
	r.url = urlOf(r.network, r.address) + cfg.ReadinessPath
	// What another port than the app's speaks is not said; health checks
	// mostly speak HTTP/1.1.
	_, app := cfg.AppNetwork()
	r.client = newAppClient(r.network, r.address, r.address == app && cfg.AppProtocol == protocolH2C)
	return r
}

// newAppClient returns a client for the few requests that are the adapter's
// own. It keeps no connection, and follows no redirect.
func newAppClient(network, address string, h2c bool) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!h2c)
	protocols.SetUnencryptedHTTP2(h2c)
	return &http.Client{
		Transport: &http.Transport{
			Proxy: nil, // the app is on this machine
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			},
			DisableKeepAlives: true,
			Protocols:         &protocols,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// urlOf returns the URL of the root of a server, without its slash. A server
// on a Unix socket is asked for as localhost.
func urlOf(network, address string) string {
	if network == "unix" {
		return "http://localhost"
	}
	return "http://" + address
}

// wait returns nil as soon as the app is ready. When the context or the
// configured time ends first, the error says what was wrong with the last
// attempt.
func (r *readiness) wait(ctx context.Context) error {
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	began := time.Now()
	logAt := began.Add(readinessLogEvery)
	timeout := firstAttemptTimeout
	var last error
	for {
		actx, cancel := context.WithTimeout(ctx, timeout)
		err := r.try(actx)
		hung := actx.Err() != nil
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			if last == nil {
				last = fmt.Errorf("no answer from %s: %w", r.address, err)
			}
			return fmt.Errorf("app not ready after %v: %w", time.Since(began).Round(time.Millisecond), last)
		}
		if last = err; hung {
			last = fmt.Errorf("%s gave no answer within %v", r.address, timeout)
			timeout = min(2*timeout, maxAttemptTimeout)
		}
		if now := time.Now(); now.After(logAt) {
			logAt = now.Add(readinessLogEvery)
			r.log.Info("waiting for the app", slog.Duration("waited", now.Sub(began)), slog.Any("last_error", last))
		}
		pause := min(max(time.Since(began)/10, minReadinessPause), maxReadinessPause)
		select {
		case <-ctx.Done():
			return fmt.Errorf("app not ready after %v: %w", time.Since(began).Round(time.Millisecond), last)
		case <-time.After(pause):
		}
	}
}

func (r *readiness) try(ctx context.Context) error {
	if r.tcp {
		c, err := new(net.Dialer).DialContext(ctx, r.network, r.address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	status, err := ask(ctx, r.client, http.MethodGet, r.url)
	if err != nil {
		return err
	}
	if !r.healthy.has(status) {
		return &unhealthyError{r.url, status}
	}
	return nil
}

// ask makes a request without a body and returns the status of the answer.
func ask(ctx context.Context, client *http.Client, method, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the method and URL in front
		}
		return 0, err
	}
	_ = resp.Body.Close() // only the status counts
	return resp.StatusCode, nil
}

// unhealthyError: the app answers, but says that it is not ready.
type unhealthyError struct {
	url    string
	status int
}

func (e *unhealthyError) Error() string {
	return fmt.Sprintf("%s answers with status %d", e.url, e.status)
}
