//go:build unix

package locallambda

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The guard is a process that outlives the service by a moment. It reads from
// a pipe which environments there are; when the pipe ends, because the service
// has closed it or has died, it kills whatever is left of them. The parent
// death signal reaches only the processes that the service itself started,
// not their children: an app that a wrapper started would live on.
//
// It is this program itself, whatever that is, so that there is nothing to
// install: init below runs before main.
func init() {
	if os.Getenv(guardVariable) != "" {
		syscall.Exit(runGuard(os.Stdin)) // not os.Exit, which lingers under the race detector
	}
}

// guard is the service's end. A nil guard watches nothing.
type guard struct {
	cmd *exec.Cmd
	in  io.WriteCloser // a file, whose writes do not mix
}

func startGuard() (*guard, error) {
	self, err := ownProgram()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self)
	cmd.Args = []string{"local-lambda-guard"}
	cmd.Dir = "/"
	cmd.Env = []string{guardVariable + "=1", "GOMAXPROCS=1"}
	// A session of its own keeps it out of reach of the terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd: cmd, in: in}, nil
}

// watch has the guard know an environment and the process groups found in it.
func (g *guard) watch(id string, groups []int) error {
	line := []byte("watch " + id)
	for _, group := range groups {
		line = strconv.AppendInt(append(line, ' '), int64(group), 10)
	}
	return g.say(line)
}

// forget has the guard forget an environment.
func (g *guard) forget(id string) error { return g.say([]byte("forget " + id)) }

func (g *guard) say(line []byte) error {
	if g == nil {
		return nil
	}
	_, err := g.in.Write(append(line, '\n'))
	return err
}

// close lets the guard go.
func (g *guard) close() {
	if g == nil {
		return
	}
	_ = g.in.Close()
	_ = g.cmd.Wait()
}

// runGuard is the guard's main function.
func runGuard(in io.Reader) int {
	// It ends when the service has ended, and not before.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	environments := make(map[string][]int)
	scanner := bufio.NewScanner(in)
	for scanner.Scan() {
		words := strings.Fields(scanner.Text())
		if len(words) < 2 {
			continue
		}
		verb, id := words[0], words[1]
		if verb == "forget" {
			delete(environments, id)
			continue
		}
		groups := environments[id]
		if len(words) > 2 {
			groups = nil // the whole truth, instead of what was known
		}
		for _, word := range words[2:] {
			if group, err := strconv.Atoi(word); err == nil && group > 1 && !slices.Contains(groups, group) {
				groups = append(groups, group)
			}
		}
		environments[id] = groups
	}
	code := 0
	for id, groups := range environments {
		t := newTree(id)
		t.forAnyAge()
		for _, group := range groups {
			t.add(group)
		}
		if len(t.kill()) > 0 {
			code = 1
		}
	}
	return code
}
