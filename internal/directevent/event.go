package directevent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// DefaultPassThroughPath is where events that are not HTTP are posted to.
const DefaultPassThroughPath = "/events"

// DefaultHost is the Host of requests whose event names none.
const DefaultHost = "127.0.0.1"

// Options say how events become requests. The zero value is ready for use.
type Options struct {
	// BasePath is removed from the paths of HTTP events: once, at the beginning
	// and between two segments, so that /api makes / of /api and /x of /api/x,
	// and leaves /apis as it is. Default: nothing is removed.
	BasePath string

	// PassThroughPath is where events that are not HTTP are posted to. Default
	// DefaultPassThroughPath.
	PassThroughPath string

	// Routes are the paths of single sources, by Source.String, and win over
	// PassThroughPath. HTTP sources have their own paths.
	Routes map[string]string

	// AuthorizationSource is the header that is moved to Authorization, where
	// that one belongs to the IAM authorization of a function URL.
	AuthorizationSource string

	// Host is the Host of requests whose event names none, as those of health
	// checks and of all sources that are not HTTP. Default DefaultHost.
	Host string
}

// Invocation is what Lambda says about an invocation besides the event. Empty
// fields are left out where that is possible.
type Invocation struct {
	RequestID   string
	FunctionARN string // that was invoked, with the version or alias
	TraceID     string // the X-Ray trace header
	// ClientContext and CognitoIdentity are JSON.
	ClientContext, CognitoIdentity string
	TenantID                       string
	Deadline                       time.Time

	// About the environment, from Lambda's environment variables.
	FunctionName, FunctionVersion, MemoryMB, LogGroup, LogStream string
}

// Event is the request that an event has become. Its parts may be changed
// before Request is called.
type Event struct {
	Source Source

	Method string
	// Target is the path and query, ready for a request line.
	Target string
	Host   string
	Header http.Header
	// Body may be a part of the event and must not be written to.
	Body []byte

	// RemoteAddr is the IP address of the client as the source saw it; empty
	// when it does not say.
	RemoteAddr string

	// AuthorizationMissing is set when Options.AuthorizationSource is not among
	// the request's headers. Authorization is then as it came.
	AuthorizationMissing bool

	shape shape
	room  []string // for the values of headers: most need no allocation of their own
}

// Parse makes a request of an event. The error is an [*Error] of TypeBadEvent
// for what is not JSON, and for an event of an HTTP source that is broken. With
// the latter comes an Event that is good for telling the source so, by Result
// or Prelude, and has no request.
//
// An empty event counts as null.
func Parse(event []byte, inv Invocation, o Options) (*Event, error) {
	if len(bytes.TrimSpace(event)) == 0 {
		event = []byte("null")
	}
	var env envelope
	if err := env.open(event); err != nil {
		return nil, &Error{Type: TypeBadEvent, Reason: "cannot be read", Err: err}
	}
	e := &Event{RemoteAddr: stringOf(env.context.sourceIP)}
	e.Source, e.shape = env.classify()
	if e.shape == shapeEvent || e.shape == shapeWebSocket {
		e.passThrough(&env, o)
	} else if err := e.translate(&env, o); err != nil {
		return e, err
	}
	if e.Host == "" {
		if e.Host = o.Host; e.Host == "" {
			e.Host = DefaultHost
		}
	}
	e.vouch(env.members[keyRequestContext], &inv)
	return e, nil
}

// passThrough makes the event the body of a POST.
func (e *Event) passThrough(env *envelope, o Options) {
	path := o.Routes[e.Source.String()]
	if path == "" {
		path = o.PassThroughPath
	}
	if path == "" {
		path = DefaultPassThroughPath
	}
	e.Method = http.MethodPost
	e.Target = rooted(escape(path, lineByte))
	e.Header = make(http.Header, 8)
	e.setHeader("Content-Type", "application/json")
	e.Body = env.original
}

// translate makes the request that the event describes.
func (e *Event) translate(env *envelope, o Options) error {
	e.Method = env.method(e.shape)
	if !validMethod(e.Method) {
		return e.broken("has no valid method", nil)
	}
	var err error
	if e.Target, err = env.target(e.Source, e.shape, o.BasePath); err != nil {
		return e.broken("has no valid path or query", err)
	}
	if err := e.readHeader(env); err != nil {
		return e.broken("has no valid headers", err)
	}
	if e.Body, err = env.body(e.Source); err != nil {
		return e.broken("has no valid body", err)
	}
	if e.Host == "" {
		if domain := stringOf(env.context.domainName); httprules.ValidHost(domain) {
			e.Host = domain
		}
	}
	e.moveAuthorization(o.AuthorizationSource)
	return nil
}

func (e *Event) broken(reason string, err error) error {
	return &Error{Type: TypeBadEvent, Source: e.Source, Reason: reason, Err: err}
}

func (e *envelope) method(s shape) string {
	switch s {
	case shapeV2:
		return stringOf(e.context.method)
	case shapeLattice:
		return e.string(keyMethod)
	default:
		return e.string(keyHTTPMethod)
	}
}

// validMethod refuses CONNECT too, which is for proxies and has no path.
func validMethod(m string) bool { return httprules.ValidFieldName(m) && m != http.MethodConnect }

// moveAuthorization gives the app the authorization that is meant for it.
func (e *Event) moveAuthorization(source string) {
	if source == "" {
		return
	}
	source = http.CanonicalHeaderKey(source)
	values, ok := e.Header[source]
	e.AuthorizationMissing = !ok
	if ok && source != "Authorization" {
		e.Header["Authorization"] = values
		delete(e.Header, source)
	}
}

// Request returns the request to send to the app. It shares the event's header
// and body.
func (e *Event) Request(ctx context.Context) (*http.Request, error) {
	u, err := url.ParseRequestURI(e.Target)
	if err != nil {
		return nil, fmt.Errorf("target of the request: %w", err)
	}
	r := &http.Request{
		Method: e.Method, URL: u, RequestURI: e.Target, Host: e.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: e.Header, Body: http.NoBody,
	}
	if e.RemoteAddr != "" {
		r.RemoteAddr = hostPort(e.RemoteAddr)
	}
	if len(e.Body) > 0 {
		r.ContentLength = int64(len(e.Body))
		r.Body = io.NopCloser(bytes.NewReader(e.Body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e.Body)), nil }
	}
	return r.WithContext(ctx), nil
}

// hostPort adds the port that no source tells, as http.Request wants one.
func hostPort(ip string) string {
	if strings.IndexByte(ip, ':') >= 0 {
		return "[" + ip + "]:0"
	}
	return ip + ":0"
}
