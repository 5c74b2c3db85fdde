package caddymodule

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxFunctionLength is the longest reference to a function, in bytes, that
// Invoke takes: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
const maxFunctionLength = 170

const (
	nameChars     = `[a-zA-Z0-9_-]`
	regionPattern = `[a-z]+(?:-[a-z]+)+-[0-9]{1,2}`
)

// functionPattern is a name, a partial ARN or an ARN, each with or without a
// version or alias.
var functionPattern = regexp.MustCompile(
	`^(?:(?:arn:aws[a-z-]*:lambda:` + regionPattern + `:)?[0-9]{12}:function:)?` +
		nameChars + `{1,64}(?::(?:\$LATEST(?:\.PUBLISHED)?|` + nameChars + `{1,128}))?$`)

// ambiguousPattern is what looks like name:qualifier here, but which Lambda
// takes for a longer form with parts left out: the function of an account, of a
// region, or just another name.
var ambiguousPattern = regexp.MustCompile(`^(?:function|[0-9]{12}|` + regionPattern + `):[^:]*$`)

// isFunction reports whether Lambda would take s for a name, name:qualifier or
// ARN, and for nothing else.
func isFunction(s string) bool {
	return len(s) <= maxFunctionLength && functionPattern.MatchString(s) && !ambiguousPattern.MatchString(s)
}

// functionGlob is a pattern for references to functions. It matches the whole
// reference: * is one or more characters of a name (letters, digits, - and _),
// ? is one of them, and everything else is itself. So a wildcard never reaches
// over a colon into another qualifier, account or region.
type functionGlob string

// check refuses a glob that no function can match, such as one with a wildcard
// for the account.
func (g functionGlob) check() error {
	example := strings.NewReplacer("*", "a", "?", "a").Replace(string(g))
	if !isFunction(example) {
		return fmt.Errorf("allow_functions: no function can match %q: it must be a name, name:qualifier or ARN, "+
			"in which * is one or more and ? is one of the characters of a name", string(g))
	}
	return nil
}

func (g functionGlob) pattern() string {
	return strings.NewReplacer(`\*`, nameChars+`+`, `\?`, nameChars).Replace(regexp.QuoteMeta(string(g)))
}

// allowList is what allow_functions lists.
type allowList struct {
	globs   []functionGlob
	pattern *regexp.Regexp
}

func newAllowList(globs []string) (allowList, error) {
	var list allowList
	patterns := make([]string, 0, len(globs))
	for _, s := range globs {
		g := functionGlob(s)
		if err := g.check(); err != nil {
			return allowList{}, err
		}
		list.globs = append(list.globs, g)
		patterns = append(patterns, g.pattern())
	}
	if len(patterns) == 0 {
		return allowList{}, errors.New("allow_functions is empty")
	}
	var err error
	list.pattern, err = regexp.Compile(`^(?:` + strings.Join(patterns, "|") + `)$`)
	return list, err
}

// allows reports whether the value is a function that is listed.
func (l allowList) allows(function string) bool {
	return isFunction(function) && l.pattern.MatchString(function)
}

// overlaps reports whether there can be a function that both lists allow.
func (l allowList) overlaps(o allowList) bool {
	return slices.ContainsFunc(l.globs, func(a functionGlob) bool {
		return slices.ContainsFunc(o.globs, func(b functionGlob) bool { return a.overlaps(b) })
	})
}

// overlaps reports whether some text matches both globs.
func (g functionGlob) overlaps(o functionGlob) bool {
	a, b := g.steps(), o.steps()
	// met[i][j]: what comes before a[i] and before b[j] has a text in common.
	met := make([][]bool, len(a)+1)
	for i := range met {
		met[i] = make([]bool, len(b)+1)
	}
	met[0][0] = true
	for i := range met {
		for j := range met[i] {
			if !met[i][j] {
				continue
			}
			repeatsA, repeatsB := i < len(a) && a[i].repeats, j < len(b) && b[j].repeats
			if repeatsA {
				met[i+1][j] = true
			}
			if repeatsB {
				met[i][j+1] = true
			}
			if i == len(a) || j == len(b) || !a[i].meets(b[j]) {
				continue
			}
			nextA, nextB := i+1, j+1
			if repeatsA {
				nextA = i
			}
			if repeatsB {
				nextB = j
			}
			met[nextA][nextB] = true
		}
	}
	return met[len(a)][len(b)]
}

// step is one character of a glob: literal, or any of a name's if it is 0. One
// that repeats stands for any number of them, none included.
type step struct {
	literal byte
	repeats bool
}

func (g functionGlob) steps() []step {
	var steps []step
	for i := range len(g) {
		switch g[i] {
		case '*':
			steps = append(steps, step{}, step{repeats: true})
		case '?':
			steps = append(steps, step{})
		default:
			steps = append(steps, step{literal: g[i]})
		}
	}
	return steps
}

func (s step) meets(o step) bool {
	switch {
	case s.literal == 0 && o.literal == 0:
		return true
	case s.literal == 0:
		return isNameChar(o.literal)
	case o.literal == 0:
		return isNameChar(s.literal)
	default:
		return s.literal == o.literal
	}
}

func isNameChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
