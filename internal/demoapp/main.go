package demoapp

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	defaultPort       = "3000"
	readHeaderTimeout = 10 * time.Second
	shutdownTimeout   = 30 * time.Second
)

// Main runs the app as a program until SIGTERM or SIGINT, then lets running
// requests finish (for up to 30 s) and returns the exit status. The arguments
// come without the program's name:
//
//	-listen host:port   default 127.0.0.1:$PORT, or port 3000
//
// The variables of [ConfigFromEnv] apply. A bad argument or variable, or an
// address that is in use, is reported on standard error.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, args, os.Getenv, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		fmt.Fprintln(os.Stderr, "demo app:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, args []string, getenv func(string) string, output io.Writer) error {
	port := getenv("PORT")
	if port == "" {
		port = defaultPort
	}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(output)
	// Loopback by default: in an environment only the adapter is to reach the
	// app, and on a developer's machine nobody else is.
	listen := flags.String("listen", net.JoinHostPort("127.0.0.1", port), "`host:port` to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	cfg, err := ConfigFromEnv(getenv)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", *listen, err)
	}
	fmt.Fprintf(output, "demo app: pid %d listening on http://%s\n", os.Getpid(), ln.Addr())
	return serve(ctx, ln, New(cfg))
}

// serve answers on ln until the context ends, then until running requests
// have finished.
func serve(ctx context.Context, ln net.Listener, app http.Handler) error {
	// HTTP/2 with prior knowledge beside HTTP/1.1: adapters can speak either.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler:           app,
		ReadHeaderTimeout: readHeaderTimeout,
		Protocols:         protocols,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()

	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		err = errors.Join(fmt.Errorf("waiting for running requests: %w", err), srv.Close())
	}
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}
