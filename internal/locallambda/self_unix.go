//go:build unix && !linux

package locallambda

import "os"

func ownProgram() (string, error) { return os.Executable() }
