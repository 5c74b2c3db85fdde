package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/troubleshooting.md quotes hints as the log has them, and all of them.
func TestTroubleshootingQuotesTheLog(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, file := range []string{"internal/invoke/awslambda/hints.go", "internal/invoke/awslambda/denied.go", "internal/pool/hints.go"} {
		src, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		code.Write(src)
	}
	hints := code.String()
	_, table, _ := strings.Cut(string(doc), "| The hint begins with")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1)
	if len(rows) == 0 {
		t.Fatal("no hint is quoted")
	}
	quoted := make(map[string]bool)
	for _, row := range rows {
		if !strings.Contains(hints, `"`+row[1]) {
			t.Errorf("no hint begins with %q", row[1])
		}
		quoted[row[1]] = true
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

// notHints are texts that look like hints: they are parts of some, or have a line
// of their own.
var notHints = map[string]bool{
	"in invoker local":                                          true,
	"see what it printed, in this log":                          true,
	"the one of its endpoint":                                   true,
	"aws lambda update-function-configuration --function-name ": true,
	"set the function's timeout to 900 s: every instance has to be replaced before it ends": true,
}
