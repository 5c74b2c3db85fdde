//go:build unix

package locallambda

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/zap"
)

// serviceMain is a service with one invocation that does not end.
func serviceMain() {
	s := New(zap.NewNop())
	f := testFunction()
	f.Env = append(f.Env, "INIT=child", "CHILD_GATE="+os.Getenv("GATE"), "RUNTIME_GATE="+os.Getenv("GATE"))
	must(0, s.Deploy(f))
	body := marshal(order{Do: os.Getenv("DO"), Arg: os.Getenv("GATE")})
	for {
		r := httptest.NewRequest("POST", "/2015-03-31/functions/app/invocations", bytes.NewReader(body))
		s.ServeHTTP(httptest.NewRecorder(), r)
		meet(os.Getenv("GATE"), "invoked")
		select {}
	}
}

// Whatever becomes of the service, nobody outlives it: not the runtime, not
// the child in a session of its own, not the grandchild that remembers nothing.
func TestNobodyOutlivesTheService(t *testing.T) {
	needProc(t)
	for _, c := range []struct{ name, do, last string }{
		{"while invoking", "gate", "invocation"},
		{"while frozen", "", "invoked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			g := newGate(t)
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), roleVariable+"=service", "GATE="+g.address(), "DO="+c.do)
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			seen := make(map[string]visitor)
			for len(seen) < 4 {
				v := g.next()
				seen[v.name()] = v
			}
			for _, name := range []string{"runtime", "child", "grandchild", c.last} {
				if _, ok := seen[name]; !ok {
					t.Fatalf("%s is missing: %v", name, fmt.Sprint(seen))
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			for _, v := range seen {
				v.waitEnd(t)
			}
		})
	}
}
