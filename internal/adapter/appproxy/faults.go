package appproxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/lambda-dispatch/lambda-dispatch/internal/httprules"
)

// faults answers requests that the app did not answer and says so in the log,
// in one line each.
type faults struct {
	log         *slog.Logger
	fail        func(w http.ResponseWriter, code, message string)
	unreachable func(error) // may be nil
	lines       *LogLimit
}

// notReached answers a request when there is no connection to the app.
func (f *faults) notReached(w http.ResponseWriter, r *http.Request, s *Scope, err error) {
	s.lostConnection(r)
	if r.Context().Err() != nil {
		f.cancelled(r, s, err)
		panic(http.ErrAbortHandler)
	}
	f.report(r, s, CodeUnavailable, "app cannot be reached", err)
	if f.unreachable != nil {
		f.unreachable(err)
	}
	f.fail(w, CodeUnavailable, "the app cannot be reached: "+err.Error())
}

// ended is how a request ended that got no complete answer.
type ended struct {
	began  bool   // the answer's head is on its way to the client
	fault  *Fault // why it was aborted, nil if it was not
	client bool   // the client is gone, so that nobody waits for an answer
	lost   bool   // the app ended the connection
	code   string
	err    error
}

// failed ends a request that got no complete answer.
func (f *faults) failed(w http.ResponseWriter, r *http.Request, s *Scope, e ended) {
	if e.lost && e.fault == nil && !e.client {
		s.lostConnection(r)
	}
	if e.fault != nil {
		e.code, e.err = e.fault.Code, errors.New(e.fault.Message)
	} else if e.client || r.Context().Err() != nil {
		f.cancelled(r, s, e.err)
		panic(http.ErrAbortHandler)
	}
	if e.began {
		f.report(r, s, e.code, "app's answer was cut", e.err)
		panic(http.ErrAbortHandler)
	}
	f.report(r, s, e.code, "app did not answer", e.err)
	f.fail(w, e.code, e.err.Error())
}

// refused answers a request that may not be put to the app.
func (f *faults) refused(w http.ResponseWriter, r *http.Request, s *Scope, err error) {
	if s.Report != nil {
		s.Report(CodeRefused, err)
	} else {
		f.debug(r, "request refused", err)
	}
	http.Error(w, "Bad Request: "+err.Error(), http.StatusBadRequest)
}

func (f *faults) cancelled(r *http.Request, s *Scope, err error) {
	if s.Report != nil {
		s.Report(CodeCancelled, err)
		return
	}
	f.debug(r, "client gave up the request", err)
}

func (f *faults) debug(r *http.Request, msg string, err error) {
	if f.log.Enabled(r.Context(), slog.LevelDebug) {
		f.write(r.Context(), slog.LevelDebug, r, msg, err, 0)
	}
}

// report logs what an operator can mend. The line has the path but not the
// query, which may hold secrets.
func (f *faults) report(r *http.Request, s *Scope, code, msg string, err error) {
	if s.Report != nil {
		s.Report(code, err)
		return
	}
	if !f.log.Enabled(r.Context(), slog.LevelWarn) {
		return
	}
	if omitted, ok := f.lines.Take(); ok {
		f.write(r.Context(), slog.LevelWarn, r, msg, err, omitted)
	}
}

func (f *faults) write(ctx context.Context, level slog.Level, r *http.Request, msg string, err error, omitted int) {
	attrs := []slog.Attr{slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err)}
	if id := httprules.TraceID(r.Header.Get("X-Amzn-Trace-Id"), r.Header.Get("Traceparent")); id != "" {
		attrs = append(attrs, slog.String("trace_id", id)) // as in the router's access log
	}
	if omitted > 0 {
		attrs = append(attrs, slog.Int("lines_omitted", omitted))
	}
	f.log.LogAttrs(ctx, level, msg, attrs...)
}
