//go:build !unix

package locallambda

import (
	"fmt"

	"go.uber.org/zap"
)

const canRun = false

func unsupportedOn(system string) error { return fmt.Errorf("%w: this is %s", ErrUnsupported, system) }

// host would start processes.
type host struct{}

func newHost(*zap.Logger) *host { return new(host) }

func (*host) close() {}

// newProcesses is never reached: Deploy has refused every function.
func newProcesses(sandboxConfig) (sandbox, error) { return nil, supported() }
