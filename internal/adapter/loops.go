package adapter

import (
	"context"
	"strconv"
	"sync"
)

// maxConcurrency is how many invocations Lambda wants to have open at once in
// this environment: one, but for managed instances.
func maxConcurrency(env map[string]string) int {
	n, err := strconv.Atoi(env["AWS_LAMBDA_MAX_CONCURRENCY"])
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// runLoops runs all loops until ctx is done or one of them fails, which ends
// the others in order: the environment has failed. It returns when all have
// ended, with the first error.
func runLoops(ctx context.Context, loops []*loop) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	failed := make(chan error, len(loops))
	for _, l := range loops {
		all.Go(func() {
			if err := l.run(ctx); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
