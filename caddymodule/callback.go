package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

const (
	defaultCallbackPort   = 7443
	defaultCallbackListen = ":7443"
	// The local Lambda's environments run on this machine: nobody else needs
	// to reach the listener, and any free port will do.
	localCallbackListen = "127.0.0.1:0"

	advertiseAuto = "auto"
	zoneAuto      = "auto"
	zoneOff       = "off"
)

// CallbackConfig is the listener that instances connect back to, the second
// one beside those of the HTTP server.
type CallbackConfig struct {
	// The TCP address to listen on, `host:port` or `:port`. Pools may share
	// one. Default: `:7443`; with the local Lambda a free port of 127.0.0.1.
	Listen string `json:"listen,omitempty"`

	// What the environments dial to get here: a host, `host:port`, or `auto`.
	// That is the host of `listen`, or else the first of: `POD_IPS` or `POD_IP`
	// (Kubernetes), the network interface of the ECS task, the address of the
	// EC2 instance (for an ECS task in network mode `bridge` with the port that
	// the instance publishes), a pod's only address, and this machine's first
	// private address. Without a port it is the one of `listen`. Default: `auto`.
	Advertise string `json:"advertise,omitempty"`

	// Which availability zone this router is in, so that `tunnel_bytes_total`
	// can tell what crosses zones: a zone ID such as `euc1-az2`; or `auto`, as
	// EC2 says; or what the names of zones mean in this account, such as
	// `eu-central-1a=euc1-az2,eu-central-1b=euc1-az3`, because ECS says names
	// only; or `off`. Default: `auto`.
	Zone string `json:"zone,omitempty"`

	// How the tunnel is encrypted. Default: TLS 1.3 with a key pair that the
	// router makes for itself and whose hash travels in the invocation, so
	// that there is no certificate to manage.
	TLS *CallbackTLS `json:"tls,omitempty"`
}

// CallbackTLS changes how the tunnel is encrypted.
type CallbackTLS struct {
	// Use plain TCP. Both ends still prove who they are, but requests cross
	// the network in clear: for a VPC that you trust.
	Off bool `json:"off,omitempty"`

	// A PEM file with the certificate to use instead of a made one. It is read
	// whenever a configuration is started: after a renewal, reload with
	// `caddy reload --force`.
	Certificate string `json:"certificate,omitempty"`

	// A PEM file with the private key of the certificate.
	Key string `json:"key,omitempty"`
}

func (c *CallbackConfig) provision(local bool) error {
	repl := caddy.NewReplacer()
	c.Listen = repl.ReplaceAll(c.Listen, "")
	c.Advertise = repl.ReplaceAll(c.Advertise, "")
	c.Zone = repl.ReplaceAll(c.Zone, "")
	if c.Listen == "" {
		c.Listen = defaultCallbackListen
		if local {
			c.Listen = localCallbackListen
		}
	}
	if c.Advertise == "" {
		c.Advertise = advertiseAuto
	}
	if c.Zone == "" {
		c.Zone = zoneAuto
	}
	if c.TLS == nil {
		c.TLS = new(CallbackTLS)
	}
	if _, err := c.address(); err != nil {
		return err
	}
	if err := checkAdvertise(c.Advertise); err != nil {
		return err
	}
	if _, err := parseZone(c.Zone); err != nil {
		return err
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		return errors.New("callback tls: certificate and key go together")
	}
	if c.TLS.Off && c.TLS.Certificate != "" {
		return errors.New("callback tls: a certificate makes no sense with tls off")
	}
	return nil
}

// address returns Listen as host:port.
func (c *CallbackConfig) address() (string, error) {
	na, err := caddy.ParseNetworkAddressWithDefaults(c.Listen, "tcp", defaultCallbackPort)
	if err != nil {
		return "", fmt.Errorf("callback listen %q: %w", c.Listen, err)
	}
	if na.Network != "tcp" || na.PortRangeSize() != 1 || na.StartPort > 65535 {
		return "", fmt.Errorf("callback listen %q: must be one TCP address, such as :%d", c.Listen, defaultCallbackPort)
	}
	return na.JoinHostPort(0), nil
}

// checkAdvertise accepts auto, a host, and host:port.
func checkAdvertise(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if strings.Contains(s, ":") && net.ParseIP(strings.Trim(s, "[]")) == nil {
			return fmt.Errorf("callback advertise %q: must be auto, a host, or host:port", s)
		}
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("callback advertise %q: must be auto, a host, or host:port with a port from 1 to 65535", s)
	}
	return nil
}

// callbackListener is one bound socket for callbacks. It lives in a UsagePool
// for as long as somebody may dial it, so that a reload neither closes nor
// doubles it: the backlog of a second socket with SO_REUSEPORT would be lost
// when the first is closed.
type callbackListener struct {
	*tunnel.Listener
	// made is the identity that the router makes for itself, for all who want
	// no other.
	made   func() (*tunnel.Identity, error)
	served chan struct{}
	log    *zap.Logger
	// rejects writes a few lines a second of each kind, because whoever can
	// reach the port decides how many there are. The metric counts them all.
	rejects *zap.Logger

	mu   sync.Mutex // guards told
	told place      // what was logged last
}

// rejectLines is how many rejected callbacks are logged in a second.
const rejectLines = 10

// callbackListeners holds the bound sockets by the address they were asked for.
var callbackListeners = caddy.NewUsagePool()

// callback is where one configuration wants the instances of its pool to call
// back to. It keeps the listener for as long as the configuration is in use,
// or an instance that was told to come this way has not come.
type callback struct {
	listener *callbackListener
	address  string // the listener's key in callbackListeners
	identity *tunnel.Identity
	place    place

	mu    sync.Mutex // guards users
	users int
}

// listenCallback returns the way back for a configuration, with its listener
// bound and served. Its first user is the caller, who must release it.
func listenCallback(ctx context.Context, c *CallbackConfig, local bool, log *zap.Logger) (*callback, error) {
	address, err := c.address()
	if err != nil {
		return nil, err
	}
	v, _, err := callbackListeners.LoadOrNew(address, func() (caddy.Destructor, error) {
		return bindCallback(address, log)
	})
	if err != nil {
		return nil, err
	}
	cb := &callback{listener: v.(*callbackListener), address: address, users: 1}
	// A file is read each time: the certificate in it may have been renewed.
	if cb.identity, err = c.TLS.identity(cb.listener.made); err == nil {
		cb.place, err = locate(ctx, &here, c, cb.listener.Addr(), local)
	}
	if err != nil {
		cb.release()
		return nil, err
	}
	cb.listener.tell(cb.place)
	return cb, nil
}

// Expect implements pool.Callback. The instance is a user until it is expected
// no more.
func (c *callback) Expect(id string, secret []byte, accept func(tunnel.Tunnel)) (cancel func()) {
	c.mu.Lock()
	c.users++
	c.mu.Unlock()
	forget := c.listener.ExpectAs(c.identity, id, secret, accept)
	return sync.OnceFunc(func() {
		forget()
		c.release()
	})
}

// Advertise implements pool.Callback.
func (c *callback) Advertise() string { return c.place.address }

// Pin implements pool.Callback.
func (c *callback) Pin() string { return c.identity.Pin() }

// Zone returns the ID of the availability zone that the listener is in, "" if
// it is not known.
func (c *callback) Zone() string { return c.place.zoneID }

// release is called once by each user. After the last one the listener is let
// go.
func (c *callback) release() {
	c.mu.Lock()
	c.users--
	last := c.users == 0
	c.mu.Unlock()
	if !last {
		return
	}
	if _, err := callbackListeners.Delete(c.address); err != nil {
		c.listener.log.Warn("closing callback listener", zap.String("address", c.address), zap.Error(err))
	}
}

func bindCallback(address string, log *zap.Logger) (*callbackListener, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true}}
	ln, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("callback listener: %w", err)
	}
	l := &callbackListener{made: sync.OnceValues(tunnel.NewIdentity), served: make(chan struct{}), log: log}
	l.rejects = log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Second, rejectLines, 0)
	}))
	l.Listener = tunnel.NewListener(ln, tunnel.ListenerConfig{OnReject: l.rejected})
	log.Info("callback listener bound", zap.String("address", ln.Addr().String()))
	go func() {
		defer close(l.served)
		if err := l.Serve(); err != nil && !errors.Is(err, tunnel.ErrClosed) {
			log.Error("callback listener failed", zap.Error(err))
		}
	}()
	return l, nil
}

func (c CallbackTLS) identity(made func() (*tunnel.Identity, error)) (*tunnel.Identity, error) {
	switch {
	case c.Off:
		return nil, nil //nolint:nilnil // no identity is what tls off means
	case c.Certificate != "":
		return tunnel.LoadIdentity(c.Certificate, c.Key)
	default:
		return made()
	}
}

// rejected counts and logs a connection that did not become a tunnel. Whoever
// can reach the port can cause it, so most of it is not worth a warning; that
// somebody names an instance wrongly is.
func (l *callbackListener) rejected(remote net.Addr, err error) {
	reject := tunnel.RejectProtocol
	if e, ok := errors.AsType[*tunnel.RejectError](err); ok {
		reject = e.Reject
	}
	rejectedCallbacks.WithLabelValues(string(reject)).Inc()
	level := zap.DebugLevel
	if reject == tunnel.RejectInstance || reject == tunnel.RejectMAC {
		level = zap.WarnLevel
	}
	if c := l.rejects.Check(level, "callback rejected"); c != nil {
		c.Write(zap.Stringer("remote", remote), zap.Error(err))
	}
}

// Destruct closes the socket. Established tunnels live on: they are their
// instances'.
func (l *callbackListener) Destruct() error {
	err := l.Close()
	<-l.served
	l.log.Info("callback listener closed", zap.Stringer("address", l.Addr()))
	return err
}
