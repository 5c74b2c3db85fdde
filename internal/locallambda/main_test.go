//go:build unix

package locallambda

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is also every process that the tests run: roleVariable says
// which, or for extensions, which get no arguments, the file name.
const (
	roleVariable    = "TEST_ROLE"
	extensionPrefix = "ext-"
)

func TestMain(m *testing.M) {
	if strings.HasPrefix(filepath.Base(os.Args[0]), extensionPrefix) {
		extensionMain()
		return
	}
	switch role := os.Getenv(roleVariable); role {
	case "":
		goleak.VerifyTestMain(m)
	case "runtime":
		runtimeMain()
	case "child":
		childMain()
	case "orphans":
		orphansMain()
	case "service":
		serviceMain()
	default:
		panic("unknown role " + role)
	}
}
