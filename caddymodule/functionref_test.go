package caddymodule

import (
	"regexp"
	"strings"
	"testing"
)

func TestIsFunction(t *testing.T) {
	long := strings.Repeat("n", 64)
	for _, s := range []string{
		"shop", "Shop_2-b", long, "-", "shop:prod", "shop:42", "shop:$LATEST", "shop:$LATEST.PUBLISHED",
		"shop:" + strings.Repeat("q", 128), "function", "123456789012", "eu-central-1",
		"123456789012:function:shop", "123456789012:function:shop:prod",
		"arn:aws:lambda:eu-central-1:123456789012:function:shop",
		"arn:aws:lambda:eu-central-1:123456789012:function:shop:prod",
		"arn:aws-cn:lambda:cn-north-1:123456789012:function:shop",
		"arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:shop:$LATEST",
		"arn:aws-iso-b:lambda:us-isob-east-1:123456789012:function:shop",
	} {
		if !isFunction(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{
		"", " ", "a b", "shop\n", "\nshop", "shop\x00", "shöp", "a.b", ".", "..", "../x", "a/b", "a%2fb", "a%3ab", "a,b", "{x}", "*",
		long + "n", "shop:", ":prod", "shop:a:b", "shop:a.b", "shop:$latest", "shop:$LATEST2",
		"shop:" + strings.Repeat("q", 129), "shop@prod", "a?Qualifier=b", "a#b",
		"arn:aws:lambda:eu-central-1:123456789012:function:" + long + ":" + strings.Repeat("q", 100), // longer than Invoke takes
		"arn:aws:lambda:eu-central-1:12345678901:function:shop", "arn:aws:lambda:eu-central-1::function:shop",
		"arn:aws:lambda::123456789012:function:shop", "arn:aws:s3:eu-central-1:123456789012:function:shop",
		"arn:aws:lambda:eu-central-1:123456789012:layer:shop", "arn:aws:lambda:eu-central-1:123456789012:shop",
		"eu-central-1:123456789012:function:shop",
		// What Lambda would read as something else than name:qualifier.
		"function:shop", "function:shop:prod", "123456789012:shop", "eu-central-1:shop", "us-gov-west-1:shop",
	} {
		if isFunction(s) {
			t.Errorf("%q is taken for a function", s)
		}
	}
}

func TestAllowList(t *testing.T) {
	const arn = "arn:aws:lambda:eu-central-1:123456789012:function:"
	for _, tc := range []struct {
		globs   string
		allowed string
		not     string
	}{
		{"shop", "shop", "Shop shop2 sho shop:prod " + arn + "shop"},
		{"preview-*", "preview-a preview-A_b-1 preview--", "preview- preview xpreview-a preview-a:prod preview-a/b preview-a.b preview-a% 123456789012:function:preview-a " + arn + "preview-a"},
		{"*", "a a-b other", "a:prod a:$LATEST " + arn + "a 123456789012:function:a"},
		{"a-*-z", "a-b-z a-b-c-z a---z", "a-z a--z a-b-zz"},
		{"v?", "v1 vx", "v v12 v: v."},
		{"app:pr-*", "app:pr-1", "app:pr- app:prod app app2:pr-1 app:pr-1:x"},
		{"app:*", "app:prod app:1", "app app:$LATEST"},
		{"app:$LATEST", "app:$LATEST", "app appX$LATEST"},
		{arn + "t-*", arn + "t-a", arn + "u " + arn + "t-a:prod t-a arn:aws:lambda:eu-central-1:999999999999:function:t-a arn:aws:lambda:eu-west-1:123456789012:function:t-a"},
		{"a-* b-*:live c", "a-1 b-1:live c", "b-1 a-1:live c-1"},
	} {
		list, err := newAllowList(strings.Fields(tc.globs))
		if err != nil {
			t.Fatal(err)
		}
		for f := range strings.FieldsSeq(tc.allowed) {
			if !list.allows(f) {
				t.Errorf("%s does not allow %s", tc.globs, f)
			}
		}
		for _, f := range append(strings.Fields(tc.not), "", "\n", tc.allowed+"\n", "\n"+tc.allowed) {
			if list.allows(f) {
				t.Errorf("%s allows %q", tc.globs, f)
			}
		}
	}
}

func TestGlobsThatAllowNothing(t *testing.T) {
	for _, glob := range []string{
		"", " ", "a b", "a.*", "[ab]", `a\*`, "a/*", "{a,b}", "*:*:*", "a:",
		"arn:aws:lambda:eu-central-1:*:function:a", "arn:aws:lambda:*:123456789012:function:a", "arn:aws:lambda:*", "*:function:a",
		"function:*", "123456789012:*", strings.Repeat("a", 65),
	} {
		if _, err := newAllowList([]string{glob}); err == nil {
			t.Errorf("%q is accepted", glob)
		} else if !strings.Contains(err.Error(), "no function can match") {
			t.Errorf("%q: %v", glob, err)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a*", "*b", true},
		{"a-*", "b-*", false},
		{"*-api", "*-web", false},
		{"*", "x-?", true},
		{"*", "a:b", false},
		{"a:*", "*:b", true},
		{"?", "??", false},
		{"*", "?", true},
		{"a*c", "ac", false},
		{"a*c", "abc", true},
		{"*a*", "*b*", true},
		{"*:$LATEST", "a:*", false},
	} {
		a, errA := newAllowList([]string{"zzz", tc.a})
		b, errB := newAllowList([]string{tc.b, "yyy:yyy"})
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if a.overlaps(b) != tc.want || b.overlaps(a) != tc.want {
			t.Errorf("%s and %s: overlap is %v and %v, want %v", tc.a, tc.b, a.overlaps(b), b.overlaps(a), tc.want)
		}
	}
}

// awsPattern is what the API reference of Invoke says, with the region left
// open.
var awsPattern = regexp.MustCompile(`^(arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]+(-[a-z]+)+-\d{1,2}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?$`)

// matchSlowly is what a glob means, said in another way.
func matchSlowly(glob, s string) bool {
	if glob == "" {
		return s == ""
	}
	if s == "" {
		return false
	}
	switch glob[0] {
	case '*':
		return isNameChar(s[0]) && (matchSlowly(glob[1:], s[1:]) || matchSlowly(glob, s[1:]))
	case '?':
		return isNameChar(s[0]) && matchSlowly(glob[1:], s[1:])
	default:
		return glob[0] == s[0] && matchSlowly(glob[1:], s[1:])
	}
}

// Nothing is ever allowed that Lambda would not take, or that reaches further
// than its glob.
func FuzzAllowList(f *testing.F) {
	f.Add("preview-*", "preview-a")
	f.Add("preview-*", "preview-a:prod")
	f.Add("a:*", "a:b")
	f.Add("arn:aws:lambda:eu-central-1:123456789012:function:t-*", "arn:aws:lambda:eu-central-1:999999999999:function:t-a")
	f.Add("*", "function:a")
	f.Add("??*?", "123456789012:a\n")
	f.Fuzz(func(t *testing.T, glob, value string) {
		if strings.Count(glob, "*") > 6 || len(glob) > 200 {
			return // matchSlowly is
		}
		list, err := newAllowList([]string{glob})
		if err != nil {
			return
		}
		if list.allows(value) {
			if len(value) > 170 || !awsPattern.MatchString(value) {
				t.Errorf("%q allows %q, which Lambda would not take", glob, value)
			}
			if strings.Count(value, ":") != strings.Count(glob, ":") {
				t.Errorf("%q allows %q, which has other parts", glob, value)
			}
		}
		if len(value) <= 170 && list.allows(value) != (isFunction(value) && matchSlowly(glob, value)) {
			t.Errorf("%q and %q: allowed is %v", glob, value, list.allows(value))
		}
		if other, err := newAllowList([]string{value}); err == nil && isFunction(value) && list.allows(value) != list.overlaps(other) {
			t.Errorf("%q and the glob %q: overlap is %v", glob, value, list.overlaps(other))
		}
	})
}
