package adapter

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	// proxyPatience is how long a proxy of the Runtime API may take to listen. It
	// comes with an extension or a wrapper, and those start in no certain order.
	proxyPatience = 5 * time.Second
	proxyPause    = 10 * time.Millisecond
)

// awaitProxy waits until the proxy of the Runtime API accepts connections. The
// error says why it does not.
func awaitProxy(ctx context.Context, address string, dial func(ctx context.Context, network, address string) (net.Conn, error)) error {
	host := strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/")
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, "80")
	}
	ctx, cancel := context.WithTimeout(ctx, proxyPatience)
	defer cancel()
	for {
		conn, err := dial(ctx, "tcp", host)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(proxyPause):
		case <-ctx.Done():
			return fmt.Errorf("proxy of the Runtime API: %w", err)
		}
	}
}
