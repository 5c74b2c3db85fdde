package adapter

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/lambda-dispatch/lambda-dispatch/internal/adapter/appproxy"
)

// guard keeps requests from outside away from the paths of the snapshot hooks,
// which only the adapter may ask the app for.
type guard struct{ hidden []string }

// newGuard returns a guard of paths; empty ones are none.
func newGuard(paths ...string) *guard {
	g := &guard{}
	for _, p := range paths {
		if p != "" {
			g.hidden = append(g.hidden, canonicalPath(p))
		}
	}
	return g
}

// hides reports whether some app could take a request target for a hidden path.
func (g *guard) hides(target string) bool {
	if len(g.hidden) == 0 {
		return false
	}
	canonical := canonicalPath(target)
	for _, h := range g.hidden {
		if strings.EqualFold(canonical, h) {
			return true
		}
	}
	return false
}

// canonicalPath is the path that the most generous of apps takes a request
// target for: decoded once, without what comes behind a semicolon, with
// backslashes for slashes, without control characters, empty segments and
// dots. To hide a little too much is harmless.
func canonicalPath(target string) string {
	if i := strings.IndexAny(target, "?#"); i >= 0 {
		target = target[:i]
	}
	p := unescape(target)
	if i := strings.IndexAny(p, "?#"); i >= 0 {
		p = p[:i]
	}
	p = strings.Map(func(r rune) rune {
		switch {
		case r == '\\':
			return '/'
		case r <= ' ' || (r >= 0x7f && r <= 0xa0):
			return -1
		}
		return r
	}, p)
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return path.Clean("/" + strings.Join(segments, "/"))
}

// unescape decodes the percent-encoding once, and leaves what is none.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// guardedApp is an app with a guard in front.
type guardedApp struct {
	appproxy.App
	guard *guard
}

// Serve implements [appproxy.App].
func (g guardedApp) Serve(w http.ResponseWriter, r *http.Request, s *appproxy.Scope) {
	// What is sent to the app is RequestURI, or the URL if that has no path.
	if g.guard.hides(r.RequestURI) || g.guard.hides(r.URL.RequestURI()) {
		http.Error(w, "Forbidden: this path is the adapter's", http.StatusForbidden)
		return
	}
	g.App.Serve(w, r, s)
}
