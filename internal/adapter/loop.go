package adapter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// answerTimeout bounds the calls that end an invocation. The API is on the
// same machine.
const answerTimeout = 5 * time.Second

// errAnswered is returned by an eventHandler that has ended the invocation
// itself, as one has to that streams its answer.
var errAnswered = errors.New("the invocation has been answered")

// eventHandler answers the events of one kind.
type eventHandler interface {
	// handle answers one invocation. When ctx is done the environment is being
	// shut down, and handle has a moment to come to an end. An error becomes
	// the function error that the invoker sees, unless it is errAnswered.
	handle(ctx context.Context, inv *lambdaapi.Invocation) (result []byte, err error)
}

// eventRouter finds the handler of an event. The error is for the invoker.
type eventRouter interface {
	route(event []byte) (eventHandler, error)
}

// runtimeAPI is the part of Lambda's Runtime API that the loop needs.
type runtimeAPI interface {
	Next(ctx context.Context) (*lambdaapi.Invocation, error)
	Respond(ctx context.Context, requestID string, result []byte) error
	Fail(ctx context.Context, requestID string, e *lambdaapi.FunctionError) error
}

// loop takes invocations one after the other.
type loop struct {
	api    runtimeAPI
	events eventRouter
	log    *slog.Logger
	// end, if set, is asked after each invocation, and returns why there must
	// not be another one.
	end func() error
}

// run returns nil when ctx is done and no invocation is open, and an error
// when Lambda's API does not work or l.end says so.
func (l *loop) run(ctx context.Context) error {
	for {
		inv, err := l.api.Next(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if inv == nil {
			return fmt.Errorf("asking Lambda for an invocation: %w", err)
		}
		var result []byte
		if err == nil {
			result, err = l.handle(ctx, inv)
		}
		l.answer(ctx, inv, result, err)
		if l.end != nil && ctx.Err() == nil {
			if err := l.end(); err != nil {
				return err
			}
		}
	}
}

func (l *loop) handle(ctx context.Context, inv *lambdaapi.Invocation) ([]byte, error) {
	handler, err := l.events.route(inv.Event)
	if err != nil {
		return nil, err
	}
	return handler.handle(ctx, inv)
}

// answer ends the invocation. If that fails, the next call to Next tells
// whether Lambda is still there.
func (l *loop) answer(ctx context.Context, inv *lambdaapi.Invocation, result []byte, err error) {
	if errors.Is(err, errAnswered) {
		return
	}
	// An environment that is being shut down still has its result to say.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	if err != nil {
		l.log.Error("invocation failed", slog.String(requestID, inv.RequestID), slog.Any("error", err))
		err = l.api.Fail(ctx, inv.RequestID, functionError(err))
	} else if err = l.api.Respond(ctx, inv.RequestID, result); err != nil {
		// Where Lambda has not ended the invocation with its refusal, the invoker
		// would else wait for one that nobody works on.
		_ = l.api.Fail(ctx, inv.RequestID, &lambdaapi.FunctionError{Type: notTaken.name, Message: notTaken.message + ": " + err.Error()})
	}
	if err != nil {
		l.log.Error(notTaken.message, slog.String("error_type", notTaken.name), slog.String(requestID, inv.RequestID), slog.Any("error", err))
	}
}

// functionError gives an error without a type one.
func functionError(err error) *lambdaapi.FunctionError {
	if fe, ok := errors.AsType[*lambdaapi.FunctionError](err); ok {
		return fe
	}
	return &lambdaapi.FunctionError{Type: "LambdaDispatch.AdapterError", Message: err.Error()}
}
