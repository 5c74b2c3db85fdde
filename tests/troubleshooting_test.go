package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/troubleshooting.md quotes hints as the log has them, and all of them.
func TestTroubleshootingQuotesTheLog(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	hints := sources(t, "internal/invoke/awslambda/hints.go", "internal/invoke/awslambda/denied.go", "internal/pool/hints.go")
	quoted := make(map[string]bool)
	for _, q := range quotes(t, string(doc), "| The hint begins with") {
		if !strings.Contains(hints, `"`+q) {
			t.Errorf("no hint begins with %q", q)
		}
		quoted[q] = true
	}
	said := regexp.MustCompile(`(?m)(?:return |const \w+ = |Sprintf\()"([A-Za-z][^"%]{8,})`).FindAllStringSubmatch(hints, -1)
	if len(said) < 20 {
		t.Fatalf("only %d hints are seen in the code", len(said))
	}
	for _, h := range said {
		found := false
		for q := range quoted {
			found = found || strings.HasPrefix(h[1], q)
		}
		if !found && !notHints[h[1]] {
			t.Errorf("the hint %q is not explained", h[1])
		}
	}
}

// It quotes the errors about where the router is, too, and all of them.
func TestTroubleshootingQuotesWhereTheRouterIs(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	code := sources(t, "internal/whereami/whereami.go", "internal/whereami/own.go", "caddymodule/place.go")
	rows := quotes(t, string(doc), "| The error says")
	for _, q := range rows {
		if !strings.Contains(code, q) {
			t.Errorf("no error says %q", q)
		}
	}
	said := regexp.MustCompile(`"((?:callback advertise auto: )?this [^"]{20,}|[^"]*which is no address[^"]*)"`).FindAllStringSubmatch(code, -1)
	if len(said) < len(rows) {
		t.Errorf("only %d errors are seen in the code", len(said))
	}
	for _, e := range said {
		if !slices.ContainsFunc(rows, func(q string) bool { return strings.Contains(e[1], q) }) {
			t.Errorf("the error %q is not explained", e[1])
		}
	}
}

// sources returns source code.
func sources(t *testing.T, files ...string) string {
	t.Helper()
	var code strings.Builder
	for _, file := range files {
		src, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		code.Write(src)
	}
	return code.String()
}

// quotes returns what is quoted in the first column of a table.
func quotes(t *testing.T, doc, head string) []string {
	t.Helper()
	_, table, _ := strings.Cut(doc, head)
	table, _, _ = strings.Cut(table, "\n\n")
	var all []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		all = append(all, row[1])
	}
	if len(all) == 0 {
		t.Fatalf("nothing is quoted below %q", head)
	}
	return all
}

// notHints are texts that look like hints: they are parts of some, or have a line
// of their own.
var notHints = map[string]bool{
	"in invoker local":                                          true,
	"see what it printed, in this log":                          true,
	"the one of its endpoint":                                   true,
	"aws lambda update-function-configuration --function-name ": true,
	"set the function's timeout to 900 s: every instance has to be replaced before it ends": true,
}
