package tunnel

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"
)

// Ready is what an instance tells the router when its tunnel is up.
type Ready struct {
	// MaxConcurrent is the most requests it takes at once. At least 1.
	MaxConcurrent int
	// Deadline is when its invocation ends at the latest, on the local clock:
	// what crosses the tunnel is the time left, because the clocks of the two
	// ends may differ. Zero means unknown.
	Deadline time.Time
	// FunctionVersion, Environment and Adapter name the function's version,
	// the execution environment and the adapter's version, for people.
	FunctionVersion, Environment, Adapter string
	// Zone is the ID of the availability zone that the execution environment is
	// in, such as "euc1-az2". Empty if it is not known.
	Zone string
}

// Stats is what an instance reports about itself when it likes to.
type Stats struct {
	InFlight int    // requests being served
	Requests uint64 // requests begun since the tunnel is up
}

// The types of control messages. Others are ignored, so that a newer peer can
// say more.
const (
	msgReady    = "ready"    // adapter → router, first
	msgDraining = "draining" // adapter → router: no new requests from now on
	msgStats    = "stats"    // adapter → router
	msgDrain    = "drain"    // router → adapter: please drain
	msgIdle     = "idle"     // router → adapter, once after draining: no request is open and none will come
	msgPing     = "ping"     // router → adapter: do you live?
	msgPong     = "pong"     // adapter → router: the answer
)

// control is one line of the control stream, in either direction.
type control struct {
	Type   string `json:"type"`
	Reason string `json:"reason,omitempty"`

	MaxConcurrent   int    `json:"max_concurrent,omitempty"`
	RemainingMS     int64  `json:"remaining_ms,omitempty"`
	FunctionVersion string `json:"function_version,omitempty"`
	Environment     string `json:"environment,omitempty"`
	Adapter         string `json:"adapter,omitempty"`
	Zone            string `json:"zone,omitempty"`

	InFlight int    `json:"in_flight,omitempty"`
	Requests uint64 `json:"requests,omitempty"`
}

// maxText bounds each text of a control message, so that a line stays below
// maxLine even if JSON escapes every byte of it as \u00xx.
const maxText = 150

// maxZone bounds the ID of a zone. AWS's longest have less than 20 bytes.
const maxZone = 40

var errBadControl = errors.New("not a control message")

func parseControl(line []byte) (control, error) {
	var c control
	if err := json.Unmarshal(line, &c); err != nil {
		return control{}, errBadControl // the cause would quote the peer
	}
	if c.Type == "" || c.InFlight < 0 || c.RemainingMS < 0 {
		return control{}, errBadControl
	}
	if c.Type == msgReady && c.MaxConcurrent < 1 {
		return control{}, errBadControl
	}
	c.Reason = clip(c.Reason)
	c.FunctionVersion, c.Environment, c.Adapter = clip(c.FunctionVersion), clip(c.Environment), clip(c.Adapter)
	c.Zone = zoneOf(c.Zone)
	return c, nil
}

// zoneOf leaves out what cannot be the ID of a zone: part of one would be
// another zone.
func zoneOf(s string) string {
	if len(s) > maxZone {
		return ""
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return ""
		}
	}
	return s
}

func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText]
	}
	return s
}

func readyMessage(r Ready, now time.Time) control {
	c := control{
		Type:            msgReady,
		MaxConcurrent:   r.MaxConcurrent,
		FunctionVersion: clip(r.FunctionVersion),
		Environment:     clip(r.Environment),
		Adapter:         clip(r.Adapter),
		Zone:            zoneOf(r.Zone),
	}
	if !r.Deadline.IsZero() {
		// 0 would mean unknown, and a deadline that has passed is not that.
		c.RemainingMS = max(1, r.Deadline.Sub(now).Milliseconds())
	}
	return c
}

func (c *control) ready(now time.Time) Ready {
	r := Ready{
		MaxConcurrent:   c.MaxConcurrent,
		FunctionVersion: c.FunctionVersion,
		Environment:     c.Environment,
		Adapter:         c.Adapter,
		Zone:            c.Zone,
	}
	if c.RemainingMS > 0 {
		// A duration holds 292 years of milliseconds; a peer may say more.
		const most = int64(10 * 365 * 24 * time.Hour / time.Millisecond)
		r.Deadline = now.Add(time.Duration(min(c.RemainingMS, most)) * time.Millisecond)
	}
	return r
}

// lineReader reads lines of at most maxLine bytes.
type lineReader struct{ br *bufio.Reader }

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{bufio.NewReaderSize(r, maxLine)}
}

// next returns the next line, valid until the call after. A line that has no
// end is not one: the stream was cut.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.br.ReadSlice('\n')
	switch {
	case err == nil:
		return trimLine(line), nil
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errLineLong
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	default:
		return nil, err
	}
}

// control returns the next control message.
func (l *lineReader) control() (control, error) {
	line, err := l.next()
	if err != nil {
		return control{}, err
	}
	return parseControl(line)
}

// lineQueue holds lines on their way out. Putting one in never blocks, so that
// nobody has to wait for the network to announce something; taking them out is
// the engine's, which reads the queue as a request body, or the control
// handler's.
type lineQueue struct {
	mu     sync.Mutex
	lines  [][]byte      // guarded by mu
	closed bool          // guarded by mu
	wake   chan struct{} // holds a token if there is something new
}

// maxQueuedLines is far above what this package sends before the other end has
// read it.
const maxQueuedLines = 64

func newLineQueue() *lineQueue { return &lineQueue{wake: make(chan struct{}, 1)} }

// put adds a line, unless the queue is closed or full.
func (q *lineQueue) put(line []byte) {
	q.mu.Lock()
	if !q.closed && len(q.lines) < maxQueuedLines {
		q.lines = append(q.lines, line)
	}
	q.mu.Unlock()
	q.signal()
}

func (q *lineQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns all lines that are waiting. The error is io.EOF once the queue
// is closed and empty.
func (q *lineQueue) take() ([][]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines := q.lines
	q.lines = nil
	if len(lines) == 0 && q.closed {
		return nil, io.EOF
	}
	return lines, nil
}

// Read implements [io.Reader] for one reader.
func (q *lineQueue) Read(p []byte) (int, error) {
	for {
		q.mu.Lock()
		if len(q.lines) > 0 {
			n := copy(p, q.lines[0])
			if n < len(q.lines[0]) {
				q.lines[0] = q.lines[0][n:]
			} else {
				q.lines = q.lines[1:]
			}
			q.mu.Unlock()
			return n, nil
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return 0, io.EOF
		}
		<-q.wake
	}
}

// Close ends the queue; what waits can still be read.
func (q *lineQueue) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
	return nil
}
