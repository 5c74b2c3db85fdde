// Package appproxy hands HTTP requests to the app: it writes them as HTTP/1.1
// over pooled keep-alive connections and passes the answers back as they
// arrive. It is the adapter's hot path, so it does by hand what
// httputil.ReverseProxy does with an http.Transport and two goroutines per
// connection: a request without a body runs on the caller's goroutine alone.
//
// It knows nothing of Lambda and tunnels, adds no header of its own, follows
// no redirect and changes no body. It must not trust the request's names,
// values and path to be free of what would smuggle a second request.
package appproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Codes tell who failed when the app gave no answer. They are those of the
// tunnel's AdapterError.
const (
	// CodeUnavailable: the app could not be reached; it saw nothing.
	CodeUnavailable = "app_unavailable"
	// CodeFailed: the app may have seen the request and gave no valid answer.
	CodeFailed = "app_failed"
	// CodeTimeout: the app had not answered when the request was ended.
	CodeTimeout = "app_timeout"
	// CodeRefused: the request is not one that may be put to an app. It is told
	// to Scope.Report only; the client gets a 400.
	CodeRefused = "bad_request"
	// CodeCancelled: the client gave up. It is told to Scope.Report only.
	CodeCancelled = "cancelled"
)

const (
	// DefaultIdleTimeout is below the 5 s after which Node closes a connection.
	DefaultIdleTimeout = 4 * time.Second
	// DefaultDialTimeout bounds a connect to the same machine, which fails or
	// succeeds at once unless the app's accept queue is full.
	DefaultDialTimeout = 5 * time.Second
)

// Config says where the app is.
type Config struct {
	// Network and Address are those of [net.Dial]; Network defaults to "tcp".
	Network, Address string

	// IdleTimeout is how long a connection may wait for its next request, by
	// the wall clock or the monotonic one, whichever makes it longer. Default
	// 4 s; negative: no connection is used twice, of HTTP/2 none that was idle.
	IdleTimeout time.Duration

	// DialTimeout bounds a connect to the app. Default 5 s.
	DialTimeout time.Duration

	// Fail answers a request that the app did not answer. The default writes
	// status 502 and the message; it is what makes the codes meaningful.
	Fail func(w http.ResponseWriter, code, message string)

	// CloseWrite ends what the client receives of an upgraded connection
	// while it may go on sending. By default a method of that name of the
	// writer is used, if it has one.
	CloseWrite func(w http.ResponseWriter) error

	// Unreachable, if set, is told each time that a connect to the app
	// fails. It must not block.
	Unreachable func(err error)

	// Logger gets why requests failed: at level warn for the app's faults, of
	// which 100 at once and 5 a second are logged, and at debug for the
	// clients'. Default: nothing.
	Logger *slog.Logger
}

// Proxy is an [http.Handler] that lets the app answer. Use one for the life
// of the app and [Proxy.Close] it in the end.
type Proxy struct {
	cfg      Config
	dialer   net.Dialer
	faults   *faults
	activity activity
	scope    *Scope // of the requests that come through ServeHTTP

	mu     sync.Mutex
	idle   []*conn     // guarded by mu; the longest idle first
	reaper *time.Timer // guarded by mu; nil until the first idle connection
	closed bool        // guarded by mu
}

var _ App = (*Proxy)(nil)

// withDefaults fills in what is not set.
func (cfg Config) withDefaults() Config {
	if cfg.Network == "" {
		cfg.Network = "tcp"
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = DefaultDialTimeout
	}
	if cfg.Fail == nil {
		cfg.Fail = func(w http.ResponseWriter, _, message string) {
			http.Error(w, message, http.StatusBadGateway)
		}
	}
	if cfg.CloseWrite == nil {
		cfg.CloseWrite = closeWriteMethod
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

func (cfg *Config) faults() *faults {
	return &faults{log: cfg.Logger, fail: cfg.Fail, unreachable: cfg.Unreachable, lines: NewLogLimit()}
}

// New returns a proxy for the app at the configured address. It connects
// when there are requests.
func New(cfg Config) *Proxy {
	cfg = cfg.withDefaults()
	p := &Proxy{cfg: cfg, dialer: net.Dialer{Timeout: cfg.DialTimeout}, faults: cfg.faults()}
	p.scope = NewScope(p)
	return p
}

// ServeHTTP is [Scope.ServeHTTP] in a scope that [Proxy.Abort] ends.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.Serve(w, r, p.scope) }

// Activity implements [App].
func (p *Proxy) Activity() Activity { return p.activity.look() }

// Serve implements [App].
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, s *Scope) {
	buf := headBuffers.Get().(*[]byte)
	defer headBuffers.Put(buf)
	head, framing, err := appendHead((*buf)[:0], r)
	if err != nil {
		p.faults.refused(w, r, s, err)
		return
	}
	*buf = head

	fresh := false
	for {
		c, err := p.get(r.Context(), fresh)
		if err != nil {
			p.faults.notReached(w, r, s, err)
			return
		}
		if f := s.enter(c); f != nil {
			c.close()
			p.faults.failed(w, r, s, ended{fault: f})
			return
		}
		x := exchange{p: p, s: s, c: c, w: w, r: r, framing: framing}
		err = x.run(head)
		if err == nil {
			return
		}
		if err == errStale { //nolint:errorlint // never wrapped
			// Once is enough: a fresh connection is never stale.
			fresh = true
			if r, err = again(r); err == nil {
				continue
			}
		}
		p.faults.failed(w, r, s, ended{
			began: x.began, fault: x.fault, client: errors.Is(err, errRequestBody), lost: x.lost, code: CodeFailed, err: err,
		})
		return
	}
}

// again returns r with its body from the beginning, where r can have it again.
func again(r *http.Request) (*http.Request, error) {
	if r.GetBody == nil {
		return r, nil // no attempt has touched the body
	}
	body, err := r.GetBody()
	if err != nil {
		return r, fmt.Errorf("%w: %w", errRequestBody, err)
	}
	out := *r
	out.Body = body
	return &out, nil
}

// get returns a connection for one request: the one used last if the app has
// not closed it, since that keeps the others free to expire.
func (p *Proxy) get(ctx context.Context, fresh bool) (*conn, error) {
	if !fresh {
		if c := p.reuse(); c != nil {
			return c, nil
		}
	}
	nc, err := p.dialer.DialContext(ctx, p.cfg.Network, p.cfg.Address)
	if err != nil {
		return nil, err
	}
	c := newConn(nc, &p.activity.reads)
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		c.close()
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *Proxy) reuse() *conn {
	for {
		p.mu.Lock()
		last := len(p.idle) - 1
		if last < 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[last]
		p.idle[last] = nil
		p.idle = p.idle[:last]
		p.mu.Unlock()
		// The reaper may be late: the environment was frozen, for example.
		if idleTime(c.idleSince) < c.idleFor && c.quiet() {
			c.reused = true
			return c
		}
		c.close()
	}
}

// idleTime is how long ago since was. While an environment is frozen the wall
// clock goes on and the monotonic one may not, and which of them the app goes by
// is not known, so the longer time counts.
func idleTime(since time.Time) time.Duration {
	return max(time.Since(since), time.Now().Round(0).Sub(since.Round(0)))
}

// put keeps the connection for another request.
func (p *Proxy) put(c *conn) {
	if c.idleFor <= 0 {
		c.close()
		return
	}
	c.idleSince = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.close()
		return
	}
	p.idle = append(p.idle, c)
	if p.reaper == nil {
		p.reaper = time.AfterFunc(p.cfg.IdleTimeout, p.reap)
	} else if len(p.idle) == 1 {
		p.reaper.Reset(p.cfg.IdleTimeout)
	}
}

// reap closes the connections that have waited too long.
func (p *Proxy) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, n := time.Now(), 0
	for n < len(p.idle) && now.Sub(p.idle[n].idleSince) >= p.cfg.IdleTimeout {
		p.idle[n].close()
		n++
	}
	kept := copy(p.idle, p.idle[n:])
	clear(p.idle[kept:])
	p.idle = p.idle[:kept]
	if kept > 0 {
		p.reaper.Reset(p.cfg.IdleTimeout - now.Sub(p.idle[0].idleSince))
	}
}

// CloseIdle closes the connections that have no request. Call it before the
// environment can be frozen: an app that wakes up finds its idle connections
// expired, whatever we have sent on them meanwhile.
func (p *Proxy) CloseIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeIdle()
}

func (p *Proxy) closeIdle() { // with mu held
	for _, c := range p.idle {
		c.close()
	}
	clear(p.idle)
	p.idle = p.idle[:0]
	if p.reaper != nil {
		p.reaper.Stop()
	}
}

// Abort ends the requests that came through ServeHTTP, see [Scope.Abort].
func (p *Proxy) Abort() { p.scope.Abort(Fault{CodeTimeout, "the app ran out of time"}) }

// Close implements [App]. It ends the requests that came through ServeHTTP;
// those of other scopes are their owners'.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.closeIdle()
	p.mu.Unlock()
	p.Abort()
}
