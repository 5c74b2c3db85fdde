package adapter

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// newStalledLambda reads nothing of an answer until it is told to.
func newStalledLambda(t *testing.T, until <-chan struct{}) *lambdaapi.Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-until
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(srv.Close)
	return clientOf(t, srv.Listener.Addr().String())
}

func clientOf(t *testing.T, address string) *lambdaapi.Client {
	t.Helper()
	client, err := lambdaapi.New(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// rawLambda answers the first bytes of a call with what answer says, and closes.
func rawLambda(t *testing.T, answer func(*bufio.Reader) string) *lambdaapi.Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			if _, err := r.Peek(1); err == nil {
				_, _ = io.WriteString(c, answer(r))
			}
			_, _ = io.Copy(io.Discard, r) // or the answer would be lost with the connection
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return clientOf(t, ln.Addr().String())
}
