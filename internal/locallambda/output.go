package locallambda

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	maxLine    = 64 << 10 // longer lines are broken
	maxPending = 1 << 20  // bytes that wait for a slow Output; more lines are dropped
	tailSize   = 4 << 10  // what X-Amz-Log-Result returns
)

// output takes lines from many processes and gives them to one writer, one at
// a time. Adding a line never waits for the writer.
type output struct {
	wake    chan struct{} // capacity 1: something is pending, or the output was closed
	drained chan struct{} // closed when everything is written after close

	mu      sync.Mutex // guards what follows; not held while writing
	w       io.Writer
	pending []byte // whole lines
	dropped int
	closed  bool
}

func newOutput() *output {
	o := &output{wake: make(chan struct{}, 1), drained: make(chan struct{})}
	go o.run() // ends after close; see drained
	return o
}

// set changes the writer.
func (o *output) set(w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w = w
}

// add takes a line, which ends in a newline.
func (o *output) add(line []byte) {
	o.mu.Lock()
	switch {
	case o.w == nil || o.closed:
	case len(o.pending)+len(line) > maxPending:
		o.dropped++
	default:
		o.pending = append(o.pending, line...)
	}
	o.mu.Unlock()
	o.signal()
}

// close ends the output once what is pending has been written.
func (o *output) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.signal()
}

func (o *output) isDrained() bool {
	select {
	case <-o.drained:
		return true
	default:
		return false
	}
}

func (o *output) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *output) run() {
	defer close(o.drained)
	var lines []byte
	for range o.wake {
		o.mu.Lock()
		lines, o.pending = o.pending, lines[:0]
		w, dropped, closed := o.w, o.dropped, o.closed
		o.dropped = 0
		o.mu.Unlock()
		for line := range bytes.Lines(lines) {
			_, _ = w.Write(line) // there is nobody to tell
		}
		if dropped > 0 {
			_, _ = fmt.Fprintf(w, "local Lambda: %d lines of output were dropped\n", dropped)
		}
		if closed {
			return
		}
	}
}

// readLines gives what r holds to line, with the newline, until r ends.
func readLines(r io.Reader, line func([]byte)) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		b, err := br.ReadSlice('\n')
		if len(b) > 0 {
			if b[len(b)-1] != '\n' { // a long line, or the last one
				b = append(bytes.Clone(b), '\n')
			}
			line(b)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// tail keeps the end of what an environment writes during an invocation, for
// callers who ask for it with X-Amz-Log-Type: Tail.
type tail struct {
	mu   sync.Mutex // guards what follows
	text []byte
}

// begin begins an invocation. It forgets what came before unless others are
// running.
func (t *tail) begin(inv *invocation, alone bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if alone {
		t.text = t.text[:0]
	}
	t.text = fmt.Appendf(t.text, "START RequestId: %s Version: %s\n", inv.id, latest)
}

func (t *tail) add(line []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, line...)
	if n := len(t.text) - tailSize; n > tailSize { // not at every line
		t.text = append(t.text[:0], t.text[n:]...)
	}
}

// report returns the tail in base64, with the lines that Lambda adds.
func (t *tail) report(inv *invocation, r result, f *Function) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	began := inv.began
	if began.IsZero() { // it never got as far as to run
		began = inv.received
	}
	took := time.Since(began)
	text := bytes.Clone(t.text)
	text = fmt.Appendf(text, "END RequestId: %s\nREPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: %d MB\t",
		inv.id, inv.id, float64(took.Microseconds())/1000, (took + time.Millisecond - 1).Milliseconds(), f.Memory/mebibyte)
	if r.failed != nil {
		status := "error\tError Type: " + r.failed.kind
		if r.failed.kind == failTimeout(0).kind {
			status = "timeout"
		}
		text = fmt.Appendf(text, "Status: %s", status)
	}
	text = append(text, '\n')
	text = text[max(0, len(text)-tailSize):]
	return base64.StdEncoding.AppendEncode(nil, text)
}
