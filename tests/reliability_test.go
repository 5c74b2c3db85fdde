package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// docs/reliability.md and docs/troubleshooting.md name only tests that exist.
func TestReliabilityNamesRealTests(t *testing.T) {
	var src []byte
	for _, doc := range []string{"reliability.md", "troubleshooting.md"} {
		text, err := os.ReadFile(filepath.Join(root, "docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		src = append(src, text...)
	}
	cmd := exec.Command("git", "grep", "--untracked", "-hoE", `^func (Test|Fuzz)[A-Za-z0-9_]+`, "--", "*_test.go")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing the tests: %v", err)
	}
	exists := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^func (\w+)`).FindAllStringSubmatch(string(out), -1) {
		exists[m[1]] = true
	}
	named := regexp.MustCompile("`(?:Test|Fuzz)[A-Za-z0-9]+`").FindAllString(string(src), -1)
	if len(named) == 0 {
		t.Fatal("no test is named")
	}
	for _, n := range named {
		if n = n[1 : len(n)-1]; !exists[n] {
			t.Errorf("there is no %s", n)
		}
	}
}
