package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// npm asks the registry that it is configured for, whatever made the lock file, and
// what it installs runs no scripts of its own.
func TestLockFilesNameNoHost(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*package-lock.json")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil || len(strings.Fields(string(out))) < 2 {
		t.Fatalf("%s, %v", out, err)
	}
	for file := range strings.FieldsSeq(string(out)) {
		lock, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{`"resolved"`, `"hasInstallScript"`} {
			if strings.Contains(string(lock), bad) {
				t.Errorf("%s has %s", file, bad)
			}
		}
	}
}
