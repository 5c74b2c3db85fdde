package locallambda

import "go.uber.org/zap"

// sandbox is what an environment runs: the processes of one init phase, with
// the APIs they are given. Its methods are called by the environment's
// goroutine alone, except for what the session itself allows.
type sandbox interface {
	session() *session
	startExtensions() error // the error is a *failure
	startRuntime() error    // the error is a *failure

	// exits reports each process's end, once.
	exits() <-chan exit
	pid() int

	// survey is called at the end of the init phase.
	survey()

	// freeze stops every process of the sandbox, thaw lets them go on.
	freeze()
	thaw()

	terminateRuntime() // SIGTERM to the runtime's process group
	killRuntime()      // SIGKILL to the same
	killExtension(name string)

	// close kills everything that is left and returns when it is gone.
	close()
}

// exit is the end of a process.
type exit struct {
	extension string // file name; empty for the runtime
	err       error  // nil if it exited with 0
}

type sandboxConfig struct {
	host     *host
	logger   *zap.Logger
	settings *Function
	ref      reference
	id       string
	port     int
	opt      string       // directory that stands for /opt; may be empty
	line     func([]byte) // takes the processes' output
}
