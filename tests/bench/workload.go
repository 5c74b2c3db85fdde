//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"
)

const (
	verifyTimeout = 10 * time.Second

	// imageSize is what the demo app promises. It is not imported from there:
	// the benchmark knows what it measures from outside only.
	imageSize = 168_161
)

// workload is one kind of request.
type workload struct {
	name   string // for -workloads and JSON
	title  string // for people
	method string
	path   string
	body   []byte
	length int64 // of the response's body
}

// workloads are all kinds of request; those that are measured unless told
// otherwise come first.
var workloads = []workload{
	{name: "ping", title: "GET /ping (4 B)", method: http.MethodGet, path: "/ping", length: int64(len("pong"))},
	{name: "image", title: "GET /public/silly-test-image.jpg (168,161 B)", method: http.MethodGet, path: "/public/silly-test-image.jpg", length: imageSize},
	echoWorkload("echo-1k", "POST /echo (1 KB)", 1<<10),
	echoWorkload("echo-168k", "POST /echo (168,161 B)", imageSize),
}

const defaultWorkloads = 3

func echoWorkload(name, title string, size int) workload {
	body := bytes.Repeat([]byte("lambda-dispatch "), size/16+1)[:size]
	return workload{name: name, title: title, method: http.MethodPost, path: "/echo", body: body, length: int64(size)}
}

// request returns the bytes to send to a server.
func (w workload) request(addr netip.AddrPort) request {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\n", w.method, w.path, addr)
	if w.body != nil {
		fmt.Fprintf(&b, "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", len(w.body))
	}
	b.WriteString("\r\n")
	b.Write(w.body)
	return request{bytes: b.Bytes(), bodyLen: w.length}
}

// verify sends the request once with an ordinary client and returns a digest
// of the answer. The load generator looks at lengths only, so this is what
// shows that a variant answers with the right bytes.
func (w workload) verify(ctx context.Context, addr netip.AddrPort) ([sha256.Size]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, w.method, "http://"+addr.String()+w.path, bytes.NewReader(w.body))
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	if resp.StatusCode != http.StatusOK || int64(len(body)) != w.length {
		return [sha256.Size]byte{}, fmt.Errorf("%s: status %d with %d bytes, want 200 with %d", w.name, resp.StatusCode, len(body), w.length)
	}
	if w.body != nil && !bytes.Equal(body, w.body) {
		return [sha256.Size]byte{}, fmt.Errorf("%s: the answer differs from what was sent", w.name)
	}
	return sha256.Sum256(body), nil
}
