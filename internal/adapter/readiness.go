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
	cfg    *Config
	log    *slog.Logger
	client *http.Client
}

func newReadiness(cfg *Config, log *slog.Logger) *readiness {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	if cfg.AppProtocol == protocolH2C && (cfg.ReadinessPort == 0 || cfg.ReadinessPort == cfg.Port) {
		// What another port speaks is not said; health checks mostly speak
		// HTTP/1.1.
		protocols.SetHTTP1(false)
		protocols.SetUnencryptedHTTP2(true)
	}
	return &readiness{cfg: cfg, log: log, client: &http.Client{
		Transport: &http.Transport{
			Proxy:             nil,  // the app is on this machine
			DisableKeepAlives: true, // it is asked seldom
			Protocols:         &protocols,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// wait returns nil as soon as the app is ready. When the context or the
// configured time ends first, the error says what was wrong with the last
// attempt.
func (r *readiness) wait(ctx context.Context) error {
	if r.cfg.ReadinessTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.cfg.ReadinessTimeout)
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
				last = fmt.Errorf("no answer from %s: %w", r.cfg.readinessAddress(), err)
			}
			return fmt.Errorf("app not ready after %v: %w", time.Since(began).Round(time.Millisecond), last)
		}
		if last = err; hung {
			last = fmt.Errorf("%s gave no answer within %v", r.cfg.readinessAddress(), timeout)
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
	if r.cfg.ReadinessProtocol == "tcp" {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", r.cfg.readinessAddress())
		if err != nil {
			return err
		}
		return c.Close()
	}
	url := "http://" + r.cfg.readinessAddress() + r.cfg.ReadinessPath
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the method and URL in front
		}
		return err
	}
	_ = resp.Body.Close() // only the status counts
	if !r.cfg.healthy(resp.StatusCode) {
		return &unhealthyError{url, resp.StatusCode}
	}
	return nil
}

// unhealthyError: the app answers, but says that it is not ready.
type unhealthyError struct {
	url    string
	status int
}

func (e *unhealthyError) Error() string {
	return fmt.Sprintf("%s answers with status %d", e.url, e.status)
}
