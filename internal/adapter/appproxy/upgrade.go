package appproxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
)

type closeWriter interface{ CloseWrite() error }

func closeWriteMethod(w http.ResponseWriter) error {
	if cw, ok := w.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// switched passes bytes both ways after the app has answered 101. Each way ends
// on its own where that is possible: the client's end becomes a FIN for the
// app, and the app's end goes to the client if the server has a way to say so
// before the handler returns.
func (x *exchange) switched(resp *http.Response) error {
	h := x.w.Header()
	copyHeader(h, resp.Header, true)
	x.began = true
	x.w.WriteHeader(http.StatusSwitchingProtocols)

	var up error // readable after sent
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		up = x.sendUpgraded()
	}()
	down := x.copyUpgraded()
	if down == nil {
		if x.p.cfg.CloseWrite(x.w) == nil {
			<-sent // the client may go on sending
			return up
		}
	}
	x.c.close()
	_ = x.r.Body.Close()
	<-sent
	return down
}

// sendUpgraded copies from the client to the app until one of them ends.
func (x *exchange) sendUpgraded() error {
	buf := uploadBuffers.Get().(*[uploadBuffer]byte)
	defer uploadBuffers.Put(buf)
	for {
		n, err := x.r.Body.Read(buf[:])
		if n > 0 {
			if _, err := x.c.Write(buf[:n]); err != nil {
				return fmt.Errorf("writing to the app: %w", err)
			}
		}
		if err == io.EOF {
			return x.closeWrite()
		}
		if err != nil {
			x.c.close() // the app must not take this for an orderly end
			return fmt.Errorf("%w: %w", errRequestBody, err)
		}
	}
}

func (x *exchange) closeWrite() error {
	cw, ok := x.c.Conn.(closeWriter)
	if !ok {
		return errors.New("connection to the app cannot be half-closed")
	}
	return cw.CloseWrite()
}

// copyUpgraded copies from the app to the client, beginning with what came
// right behind the head.
func (x *exchange) copyUpgraded() error {
	x.c.in.stream(flusherOf(x.w))
	b := uploadBuffers.Get().(*[uploadBuffer]byte)
	defer uploadBuffers.Put(b)
	return x.copy(x.c.r, b[:])
}
