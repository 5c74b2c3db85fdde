package adapter

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// ownPrefix begins the names that nobody but the adapter reads, and lwaPrefix
// those of AWS Lambda Web Adapter. A name that begins so and is not known is
// reported, because it is most likely a typo.
const (
	ownPrefix = "LAMBDA_DISPATCH_"
	lwaPrefix = "AWS_LWA_"
)

// setting is one thing that can be configured: the first of its names that
// has a value in the environment wins.
type setting struct {
	names []string
	dflt  string // used when no name is set; for help and for parsing
	help  string
	set   func(c *Config, value string) error
	// foreign makes a value under a name that is not the adapter's own one
	// that set takes. It is nil where both are the same.
	foreign func(name, value string) translation
}

// translation is what a value is worth that was written for somebody else.
type translation struct {
	value     string // for set; empty: as if the name had no value
	complaint string // what is wrong with the original; empty: nothing
}

// Remark is something about the environment's variables that is worth a line
// in the log and no failure.
type Remark struct {
	Level   slog.Level
	Message string // constant, in lower case
	Attrs   []slog.Attr
}

// ParseConfig reads the configuration from an environment in the form of
// [os.Environ]. The error has one line for all values that make no sense.
//
// A bad value under one of the adapter's own names is an error. Under a name
// of AWS Lambda Web Adapter (LWA) it is a remark, and counts as what LWA makes
// of it, because what ran there has to run here; it is an error where LWA
// would not start either.
func ParseConfig(environ []string) (Config, []Remark, error) {
	p := parser{env: environment(environ)}
	for _, s := range settings {
		p.parse(s)
	}
	p.checkHooks()
	p.reportUnknown()
	if len(p.bad) > 0 {
		return p.config, p.remarks, errors.New(strings.Join(p.bad, "; "))
	}
	return p.config, p.remarks, nil
}

// environment is the map of an environment; the last of equal names counts.
func environment(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return env
}

type parser struct {
	env     map[string]string
	config  Config
	remarks []Remark
	bad     []string
}

func (p *parser) parse(s setting) {
	name, value := "default", s.dflt
	first := len(p.remarks)
	for _, n := range s.names {
		if v := p.lookup(s, n); v != "" {
			name, value = n, v
			break
		}
	}
	complaints := len(p.remarks)
	if deprecated(name) {
		p.remarks = append(p.remarks, Remark{slog.LevelDebug, "setting has a newer name", []slog.Attr{
			slog.String("name", name), slog.String("newer", s.names[0]),
		}})
	}
	using := value
	if using == "" {
		using = "nothing"
	}
	for i := range p.remarks[first:complaints] {
		r := &p.remarks[first+i]
		r.Attrs = append(r.Attrs, slog.String("using", using))
	}
	if value == "" {
		return
	}
	if err := s.set(&p.config, value); err != nil {
		said := value
		if name != "default" {
			said = p.env[name]
		}
		p.bad = append(p.bad, fmt.Sprintf("%s is %q: %v", name, said, err))
	}
}

// deprecated reports whether AWS Lambda Web Adapter wants to forget a name.
func deprecated(name string) bool {
	switch name {
	case "HOST", "READINESS_CHECK_PORT", "READINESS_CHECK_PATH", "READINESS_CHECK_PROTOCOL", "ASYNC_INIT", "REMOVE_BASE_PATH",
		"AWS_LWA_READINESS_CHECK_MIN_UNHEALTHY_STATUS", "READINESS_CHECK_MIN_UNHEALTHY_STATUS":
		return true
	}
	return false
}

// lookup returns the value of a name as set wants it, empty if there is none.
func (p *parser) lookup(s setting, name string) string {
	v := p.env[name]
	if v == "" || s.foreign == nil || strings.HasPrefix(name, ownPrefix) {
		return v
	}
	t := s.foreign(name, v)
	if t.complaint != "" {
		p.remarks = append(p.remarks, Remark{slog.LevelWarn, "setting is not understood", []slog.Attr{
			slog.String("name", name), slog.String("value", v), slog.String("problem", t.complaint),
		}})
	}
	return t.value
}

// checkHooks refuses hooks that are also the path of events, because the
// guard would then keep those from the app.
func (p *parser) checkHooks() {
	c := &p.config
	taken := append(slices.Collect(maps.Values(c.EventRoutes)), c.EventPath)
	for _, hook := range []string{c.BeforeCheckpointPath, c.AfterRestorePath} {
		if hook == "" {
			continue
		}
		if g := newGuard(hook); slices.ContainsFunc(taken, func(path string) bool { return path != "" && g.hides(path) }) {
			p.bad = append(p.bad, fmt.Sprintf("path %s is both a snapshot hook's and that of events", hook))
		}
	}
}

func (p *parser) reportUnknown() {
	var known []string
	for _, s := range settings {
		known = append(known, s.names...)
	}
	for _, name := range slices.Sorted(maps.Keys(p.env)) {
		ours := strings.HasPrefix(name, ownPrefix) || strings.HasPrefix(name, lwaPrefix)
		if !ours || slices.Contains(known, name) {
			continue
		}
		r := Remark{slog.LevelWarn, "unknown setting is ignored", []slog.Attr{slog.String("name", name)}}
		if like := closest(name, known); like != "" {
			r.Attrs = append(r.Attrs, slog.String("did_you_mean", like))
		}
		p.remarks = append(p.remarks, r)
	}
}

// closest returns the known name that was probably meant, if there is one.
func closest(name string, known []string) string {
	best, like := len(name)/4, ""
	for _, k := range known {
		d := distance(name, k)
		if strings.HasPrefix(k, name+"_") {
			d = min(d, 1) // the end was forgotten, which is likelier than any typo
		}
		if d < best {
			best, like = d, k
		}
	}
	return like
}

// distance is how many characters have to be inserted, removed or replaced to
// make one text the other (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
