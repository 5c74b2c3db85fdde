package adapter

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
	"github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"
)

func TestMaxConcurrency(t *testing.T) {
	for value, want := range map[string]int{"": 1, "1": 1, "10": 10, "0": 1, "-3": 1, "many": 1} {
		if got := maxConcurrency(map[string]string{"AWS_LAMBDA_MAX_CONCURRENCY": value}); got != want {
			t.Errorf("%q: %d", value, got)
		}
	}
}

// TestLoopsServeAtOnce: as many invocations as Lambda wants, of either kind,
// none of which waits for another.
func TestLoopsServeAtOnce(t *testing.T) {
	const n = 8
	w := newWorld(t)
	w.serveApp(http.HandlerFunc(hello))
	w.route(tunnel.ListenerConfig{})
	w.adapt(time.Now(), nil, "AWS_LAMBDA_MAX_CONCURRENCY="+strconv.Itoa(n), "AWS_LAMBDA_INITIALIZATION_TYPE=lambda-managed-instances")
	for range n {
		receive(t, w.lambda.waiting, "a loop")
	}
	var tunnels []tunnel.Tunnel
	for range n {
		tunnels = append(tunnels, w.tunnel(w.invoke(time.Minute)))
	}
	for _, tun := range tunnels { // all of which are open
		resp, err := roundTrip(t, tun, "GET", "/x", nil)
		if body := read(t, resp, err); body != "hello /x" {
			t.Errorf("body %q", body)
		}
	}
	for _, tun := range tunnels[1:] {
		tun.Drain("idle")
		w.wantReason(invoke.ReasonDrained)
	}
	select {
	case <-tunnels[0].Draining():
		t.Error("an instance ended with the others")
	default:
	}
	w.lambda.shutdown <- "spindown"
	w.wantReason(invoke.ReasonShutdown)
	w.wantExit(0)
}

// scriptedAPI hands out invocations and writes down what became of them.
type scriptedAPI struct {
	invocations chan *lambdaapi.Invocation
	broken      chan struct{}

	mu     sync.Mutex
	events []string // guarded by mu
}

func (a *scriptedAPI) Next(ctx context.Context) (*lambdaapi.Invocation, error) {
	select {
	case inv := <-a.invocations:
		return inv, nil
	case <-a.broken:
		return nil, errors.New("broken")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *scriptedAPI) say(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, what)
}

func (a *scriptedAPI) Respond(_ context.Context, id string, result []byte) error {
	a.say(id + " " + string(result))
	return nil
}

func (a *scriptedAPI) Fail(_ context.Context, id string, e *lambdaapi.FunctionError) error {
	a.say(id + " " + e.Type)
	return nil
}

// handlerFunc is an eventHandler and the eventRouter that always finds it.
type handlerFunc func(ctx context.Context, inv *lambdaapi.Invocation) ([]byte, error)

func (f handlerFunc) handle(ctx context.Context, inv *lambdaapi.Invocation) ([]byte, error) {
	return f(ctx, inv)
}
func (f handlerFunc) route([]byte) (eventHandler, error) { return f, nil }

func silentLoop() *loop { return &loop{log: slog.New(slog.DiscardHandler)} }

// TestLoopsEndTogether: the first failure ends all, and what runs comes to its end.
func TestLoopsEndTogether(t *testing.T) {
	api := &scriptedAPI{invocations: make(chan *lambdaapi.Invocation), broken: make(chan struct{}, 1)}
	running := make(chan struct{})
	handler := handlerFunc(func(ctx context.Context, _ *lambdaapi.Invocation) ([]byte, error) {
		close(running)
		<-ctx.Done()
		return json.RawMessage(`"ended in order"`), nil
	})
	var loops []*loop
	for range 3 {
		l := silentLoop()
		l.api, l.events = api, handler
		loops = append(loops, l)
	}
	ended := make(chan error)
	go func() { ended <- runLoops(t.Context(), loops) }()
	api.invocations <- &lambdaapi.Invocation{RequestID: "r-1"}
	receive(t, running, "the invocation")
	api.broken <- struct{}{} // for one of the others
	if err := receive(t, ended, "the end"); err == nil || err.Error() != "asking Lambda for an invocation: broken" {
		t.Errorf("error %v", err)
	}
	if want := []string{`r-1 "ended in order"`}; !slices.Equal(api.events, want) {
		t.Errorf("events %q, want %q", api.events, want)
	}
}

// TestAnsweredInvocationsAreLeftAlone: a handler that streams has ended the
// invocation itself.
// refusingAPI takes no answer.
type refusingAPI struct {
	runtimeAPI
	failed chan string
}

func (refusingAPI) Respond(context.Context, string, []byte) error { return errors.New("status 400") }

func (r refusingAPI) Fail(_ context.Context, _ string, e *lambdaapi.FunctionError) error {
	r.failed <- e.Type
	return nil
}

func TestRefusedAnswerFailsTheInvocation(t *testing.T) {
	log := &syncBuffer{}
	api := refusingAPI{failed: make(chan string, 1)}
	l := &loop{api: api, log: slog.New(slog.NewTextHandler(log, nil))}
	l.answer(t.Context(), &lambdaapi.Invocation{RequestID: "r-1"}, []byte("{}"), nil)
	if got := receive(t, api.failed, "the failure"); got != "LambdaDispatch.ResponseNotTaken" {
		t.Errorf("failed with %s", got)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "error_type=LambdaDispatch.ResponseNotTaken") {
		t.Errorf("log %s", text)
	}
}

func TestAnsweredInvocationsAreLeftAlone(t *testing.T) {
	api := &scriptedAPI{invocations: make(chan *lambdaapi.Invocation)}
	ctx, cancel := context.WithCancel(t.Context())
	l := silentLoop()
	l.api = api
	l.events = handlerFunc(func(_ context.Context, inv *lambdaapi.Invocation) ([]byte, error) {
		switch inv.RequestID {
		case "streamed":
			return nil, errAnswered
		case "failed":
			return nil, errors.New("no")
		}
		return []byte("1"), nil
	})
	ended := make(chan error)
	go func() { ended <- runLoops(ctx, []*loop{l}) }()
	for _, id := range []string{"streamed", "failed", "buffered"} {
		api.invocations <- &lambdaapi.Invocation{RequestID: id}
	}
	cancel()
	if err := receive(t, ended, "the end"); err != nil {
		t.Error(err)
	}
	if want := []string{"failed LambdaDispatch.AdapterError", "buffered 1"}; !slices.Equal(api.events, want) {
		t.Errorf("events %q, want %q", api.events, want)
	}
}
