package adapter

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/lambda-dispatch/lambda-dispatch/internal/directevent"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// Lambda's limits, in bytes.
// https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
const (
	// maxPayload is of an event, and of a result that is not streamed.
	maxPayload = 6 << 20
	// maxStreamed is of a streamed answer.
	maxStreamed = 200 << 20
	// maxALBResult is a load balancer's own limit.
	// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html
	maxALBResult = 1 << 20
)

var errTooLarge = errors.New("the answer is too large")

// answer takes the app's answer to one event. It is the http.ResponseWriter that
// appproxy writes to. What is streamed goes on as it comes, so that nothing of
// it is kept here and a slow client slows the app.
type answer struct {
	x        *direct
	compress bool

	header http.Header // as the app's proxy fills it
	status int         // 0 until the head is here
	head   http.Header
	body   []byte // what is not streamed, in its coding
	most   int64  // how many bytes may come out
	sent   int64  // how many have

	coding string     // to make; empty for none
	forced bool       // even if the body is tiny
	coder  compressor // nil until there is something to compress

	stream *lambdaapi.ResponseStream // nil for what is not streamed
	err    error                     // for good
}

func (x *direct) newAnswer() *answer {
	return &answer{x: x, compress: x.d.cfg.Compress, header: make(http.Header), most: maxPayload}
}

// maxResult is how large the result of the invocation may be.
func (x *direct) maxResult() int {
	if x.ev.Source == directevent.ALB {
		return maxALBResult
	}
	return maxPayload
}

// streams reports whether the answer's head is on its way to Lambda, so that
// nothing of it can be taken back.
func (a *answer) streams() bool { return a != nil && a.stream != nil }

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter. Lambda knows no informational
// answers and no trailers.
func (a *answer) WriteHeader(status int) {
	if a.status != 0 || status < 200 {
		return
	}
	a.status, a.head = status, make(http.Header, len(a.header)+3)
	for name, values := range a.header {
		if len(values) > 0 && name != "Trailer" {
			a.head[name] = values
		}
	}
	cfg := &a.x.d.cfg
	failing := is(cfg.ErrorStatus, status)
	stream := cfg.Stream && a.x.ev.Streams() && !failing
	if a.compress && !failing {
		a.choose(stream)
	}
	if stream {
		a.begin()
	} else if n, err := strconv.Atoi(a.head.Get("Content-Length")); err == nil && a.coding == "" && n > 0 && n <= maxPayload {
		a.body = make([]byte, 0, n)
	}
}

// choose decides about the content coding. Function URLs that stream take a
// gzip coding off again on the way, and behind CloudFront streamed answers with
// any coding fail now and then, so those stay as they are:
// https://github.com/aws/aws-lambda-nodejs-runtime-interface-client/issues/96
func (a *answer) choose(stream bool) {
	ev := a.x.ev
	if !ev.Source.HTTP() || stream && ev.Source == directevent.FunctionURL || !compressible(ev.Method, a.status, a.head) {
		return
	}
	varyByEncoding(a.head)
	p := preferredCoding(ev.Header["Accept-Encoding"])
	if p.forced || !tooSmall(a.head) {
		a.coding, a.forced = p.coding, p.forced
	}
}

// begin sends the head of a streamed answer.
func (a *answer) begin() {
	a.most = maxStreamed
	a.stream = a.x.d.api.RespondStream(a.x.life, a.x.inv.RequestID, directevent.PreludeType)
	if a.coding != "" {
		a.startCoder()
	}
	prelude, err := a.x.ev.Prelude(a.status, a.head)
	if err == nil {
		_, err = out{a}.Write(prelude) // which counts it, as Lambda does
	}
	a.err = err
}

func (a *answer) startCoder() {
	setCoding(a.head, a.coding)
	a.coder = newCompressor(a.coding, out{a})
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.err != nil {
		return 0, a.err
	}
	if a.coding != "" && a.coder == nil && (a.forced || len(a.body)+len(p) >= minCompress) {
		kept := a.body
		a.body, a.sent = nil, 0
		a.startCoder()
		if _, err := a.coder.Write(kept); err != nil {
			return 0, a.failed(err)
		}
	}
	var err error
	if a.coder != nil {
		_, err = a.coder.Write(p)
	} else {
		_, err = out{a}.Write(p)
	}
	if err != nil {
		return 0, a.failed(err)
	}
	return len(p), nil
}

// FlushError sends what a compressor holds back. Everything else is on its way
// already.
func (a *answer) FlushError() error {
	if a.err == nil && a.stream != nil && a.coder != nil {
		a.err = a.coder.Flush()
	}
	return a.err
}

func (a *answer) failed(err error) error {
	if a.err == nil {
		a.err = err
	}
	return a.err
}

// out is where the answer's bytes go in the end.
type out struct{ a *answer }

func (o out) Write(p []byte) (int, error) {
	a := o.a
	if a.sent += int64(len(p)); a.sent > a.most {
		return 0, a.failed(errTooLarge)
	}
	if a.stream != nil {
		if len(p) == 0 {
			return 0, nil
		}
		return a.stream.Write(p)
	}
	a.body = append(a.body, p...)
	return len(p), nil
}

// complete ends an answer that the app has given to its end.
func (a *answer) complete() error {
	err := a.err
	if a.coder != nil {
		if err == nil {
			err = a.coder.Close()
		}
		a.freeCoder()
	}
	if err == nil && a.stream != nil {
		err = a.stream.Close()
	}
	return a.failed(err)
}

func (a *answer) freeCoder() {
	freeCompressor(a.coding, a.coder)
	a.coder = nil
}

// breakOff ends a streamed answer that will not be complete. The client sees
// what there is of it, and then that it was cut.
func (a *answer) breakOff(f *failure) {
	if a.coder != nil {
		_ = a.coder.Flush() // breaking off tells
		a.freeCoder()
	}
	if f.kind == notTaken {
		return
	}
	if err := a.stream.Fail(f.functionError()); err != nil {
		a.x.logNotTaken(err)
	}
}

// failure is what an error in taking the answer means.
func (a *answer) failure(err error) *failure {
	if errors.Is(err, errTooLarge) {
		return &failure{kind: responseTooLarge, status: a.status}
	}
	return &failure{kind: notTaken, status: a.status, err: err}
}

var _ interface {
	http.ResponseWriter
	io.Writer
	FlushError() error
} = (*answer)(nil)
