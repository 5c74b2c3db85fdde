package adapter

import (
	"net/http"
	"net/url"
	"path"
	"slices"
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
// Apps do not agree on what a target means: the WHATWG's URL parser, which many
// of Node's read targets with, takes /a//../b for /a/b and //a/b for /b on the
// host a, and nginx lets an encoded question mark be part of the path. So a
// target has several readings, and each of them counts.
func (g *guard) hides(target string) bool {
	if len(g.hidden) == 0 {
		return false
	}
	return slices.ContainsFunc(readings(target), func(segments []string) bool {
		up := -1
		for i, s := range segments {
			if s == ".." {
				up = i
			}
		}
		path := "/" + strings.Join(segments[up+1:], "/")
		return slices.ContainsFunc(g.hidden, func(hidden string) bool {
			if up < 0 {
				return strings.EqualFold(path, hidden)
			}
			// Where the way up ends depends on the app.
			return path == "/" || len(path) <= len(hidden) && strings.EqualFold(path, hidden[len(hidden)-len(path):])
		})
	})
}

// readings are the segments of the paths that a request target may mean. To see
// a path too many is harmless.
func readings(target string) [][]string {
	raw := target
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		raw = raw[:i]
	}
	decoded := unescape(raw)
	texts := []string{decoded}
	if i := strings.IndexAny(decoded, "?#"); i >= 0 {
		texts = append(texts, decoded[:i])
	}
	var all [][]string
	for _, text := range texts {
		segments := segmentsOf(text)
		all = append(all, segments)
		if strings.HasPrefix(strings.ReplaceAll(text, `\`, "/"), "//") && len(segments) > 0 {
			all = append(all, segments[1:])
		}
	}
	return all
}

// segmentsOf are the segments of a decoded path as the most generous of apps
// understands them: without what comes behind a semicolon, with backslashes for
// slashes, without control characters, and without those that are empty or one
// dot.
func segmentsOf(text string) []string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\\':
			return '/'
		case r <= ' ' || (r >= 0x7f && r <= 0xa0):
			return -1
		}
		return r
	}, text)
	var segments []string
	for s := range strings.SplitSeq(text, "/") {
		if s, _, _ = strings.Cut(s, ";"); s != "" && s != "." {
			segments = append(segments, s)
		}
	}
	return segments
}

// canonicalPath is the shortest way to write the path of a hook.
func canonicalPath(hook string) string {
	return path.Clean("/" + strings.Join(readings(hook)[0], "/"))
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
