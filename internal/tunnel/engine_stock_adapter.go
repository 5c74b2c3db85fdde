package tunnel

import (
	"net"
	"net/http"
	"sync"
)

// serveStock is an adapterEngine: net/http's HTTP/2 server.
func serveStock(c *conn, cfg engineConfig, h http.Handler) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true) // TLS, if any, is already in c
	ended := make(chan struct{})
	var once sync.Once
	srv := &http.Server{
		Handler:                      h,
		Protocols:                    &protocols,
		MaxHeaderBytes:               cfg.MaxHeaderBytes,
		ErrorLog:                     cfg.ErrorLog,
		DisableGeneralOptionsHandler: true, // OPTIONS * is the app's
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          cfg.MaxStreams,
			MaxReadFrameSize:              cfg.FrameSize,
			MaxReceiveBufferPerStream:     cfg.StreamWindow,
			MaxReceiveBufferPerConnection: cfg.ConnWindow,
			SendPingTimeout:               cfg.PingInterval,
			PingTimeout:                   cfg.PingTimeout,
			WriteByteTimeout:              cfg.WriteTimeout,
		},
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				once.Do(func() { close(ended) })
			}
		},
	}
	// The error is always that the listener has no more connections.
	_ = srv.Serve(&oneConn{conn: c})
	<-ended
}

// oneConn is a listener with one connection, closed together with it.
type oneConn struct {
	conn     *conn
	accepted bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.accepted {
		l.accepted = true
		return l.conn, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error { return nil }

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
