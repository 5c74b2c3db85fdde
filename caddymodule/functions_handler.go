package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
	"github.com/lambda-dispatch/lambda-dispatch/internal/pool"
)

// defaultMaxFunctions is the default of Handler.MaxFunctions.
const defaultMaxFunctions = 100

// maxFunctionsLimit keeps a slip of the finger from taking all memory.
const maxFunctionsLimit = 10_000

// errNoFunction is all that a client hears, so that it cannot learn which
// functions exist but are not for it.
var errNoFunction = errors.New("function not found")

// hasPlaceholder reports whether something is still to be replaced.
func hasPlaceholder(s string) bool { return strings.ContainsAny(s, "{}") }

// isRequested reports whether each request chooses its function.
func (h *Handler) isRequested() bool { return hasPlaceholder(h.Function) }

// checkFunction checks what concerns the choice of the function. It is called
// with placeholders replaced, as far as they are known.
func (h *Handler) checkFunction() error {
	switch {
	case h.Function == "":
		return errors.New("function is missing: name the Lambda function to invoke")
	case h.isRequested() && len(h.AllowFunctions) == 0:
		return fmt.Errorf("function %s is chosen per request: allow_functions must list the functions that it may be, such as preview-*", h.Function)
	case h.isRequested() && h.MinInstances > 0:
		return errors.New("min_instances must be 0 if the function is chosen per request: every function that a client asks for would be kept for ever")
	case h.MaxFunctions < 0 || h.MaxFunctions > maxFunctionsLimit:
		return fmt.Errorf("max_functions is %d, must be between 1 and %d", h.MaxFunctions, maxFunctionsLimit)
	case h.isRequested():
		return nil
	case len(h.AllowFunctions) > 0:
		return h.noChoice("allow_functions")
	case h.MaxFunctions > 0:
		return h.noChoice("max_functions")
	case !isFunction(h.Function):
		return fmt.Errorf("function %q is not a name, name:qualifier or ARN", h.Function)
	default:
		return nil
	}
}

func (h *Handler) noChoice(subdirective string) error {
	return fmt.Errorf("%s has no effect: function %s holds no placeholder that a request replaces, such as preview-{labels.2}", subdirective, h.Function)
}

// checkFunctionEarly is checkFunction for a Caddyfile, with what can be known
// of the globs: placeholders such as {env.NAME} get their values only where
// the configuration is loaded.
func (h *Handler) checkFunctionEarly() error {
	requested := hasPlaceholder(caddy.NewReplacer().ReplaceKnown(h.Function, ""))
	switch {
	case h.Function == "":
		return nil // said when it is loaded
	case requested || !hasPlaceholder(h.Function):
		if err := h.checkFunction(); err != nil {
			return err
		}
	case len(h.AllowFunctions) > 0:
		return h.noChoice("allow_functions")
	case h.MaxFunctions > 0:
		return h.noChoice("max_functions")
	}
	for _, glob := range h.AllowFunctions {
		if hasPlaceholder(glob) {
			continue
		}
		if err := functionGlob(glob).check(); err != nil {
			return err
		}
	}
	return nil
}

// provisionFunction finds the pool of the function, or prepares for those that
// requests will choose.
func (h *Handler) provisionFunction() error {
	if err := h.checkFunction(); err != nil {
		return err
	}
	if !h.isRequested() {
		var err error
		h.shared, err = h.app.use(h.Function, h.PoolConfig)
		return err
	}
	repl := caddy.NewReplacer()
	for i, glob := range h.AllowFunctions {
		h.AllowFunctions[i] = repl.ReplaceAll(glob, "")
	}
	allowed, err := newAllowList(h.AllowFunctions)
	if err != nil {
		return err
	}
	if h.MaxFunctions == 0 {
		h.MaxFunctions = defaultMaxFunctions
	}
	h.requested = newRequestedPools(allowed, h.MaxFunctions, h.PoolConfig, h.logger)
	return h.app.useRequested(h.Function, h.requested)
}

// choose returns the function of the request.
func (h *Handler) choose(r *http.Request) (string, error) {
	if h.requested == nil {
		return h.Function, nil
	}
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return "", errors.New("request has no replacer")
	}
	function, err := repl.ReplaceOrErr(h.Function, true, true)
	if err == nil && !h.requested.allowed.allows(function) {
		err = errors.New("allow_functions does not list it")
	}
	if err == nil {
		return function, nil
	}
	rejectedRequests.WithLabelValues("", rejectedNotAllowed).Inc()
	h.logRefusal(function, err)
	addToAccessLog(r, zap.Dict("lambda_dispatch", zap.String("error", "function is not allowed")))
	return "", caddyhttp.Error(http.StatusNotFound, errNoFunction)
}

// poolOf returns the pool of the function, and what the caller has to release.
func (h *Handler) poolOf(ctx context.Context, function string) (*sharedPool, *requestedPool, error) {
	if h.requested == nil {
		return h.shared, nil, nil
	}
	use, err := h.requested.use(ctx, function)
	if err == nil {
		return use.shared, use, nil
	}
	if _, ok := errors.AsType[*tooManyError](err); ok {
		rejectedRequests.WithLabelValues("", rejectedTooMany).Inc()
	} else if _, ok := errors.AsType[*pool.UnavailableError](err); ok {
		rejectedRequests.WithLabelValues("", rejectedRefused).Inc()
	}
	return nil, nil, err
}

// explain hides from clients that a function which they may ask for does not
// exist: they get what they get for one that is not allowed.
func (h *Handler) explain(function string, err error) error {
	if err == nil || h.requested == nil || !isMissing(err) {
		return err
	}
	h.logRefusal(function, err)
	return caddyhttp.Error(http.StatusNotFound, errNoFunction)
}

// isMissing reports whether a request failed because its function does not
// exist.
func isMissing(err error) bool {
	e, ok := errors.AsType[*invoke.Error](err)
	return ok && e.Kind == invoke.KindMissing
}

// logRefusal says why a request got no function. Clients can cause it at will,
// so it is only for who looks for it.
func (h *Handler) logRefusal(function string, err error) {
	if c := h.logger.Check(zap.DebugLevel, "request chose no function"); c != nil {
		c.Write(zap.String("function", shortened(function)), zap.Error(err))
	}
}

// shortened keeps what a client sent from filling a log line.
func shortened(s string) string {
	if len(s) > maxFunctionLength {
		return strings.ToValidUTF8(s[:maxFunctionLength], "") + "…"
	}
	return s
}
