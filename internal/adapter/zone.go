package adapter

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/lambda-dispatch/lambda-dispatch/internal/lambdaapi"
)

// zonePatience is how long Lambda's metadata endpoint may take, once in the life
// of the environment. It is on this host and answers within a millisecond.
const zonePatience = 100 * time.Millisecond

// zone is the availability zone of the environment. It is asked for when the
// first instance is about to dial and not before, because a snapshot may be
// restored in another zone than it was taken in.
type zone struct {
	endpoint, token string // empty where Lambda tells none
	once            sync.Once
	id              string
}

// find returns the zone's ID, or nothing if it cannot be known: it is for
// metrics only, so nothing waits or fails for it.
func (z *zone) find(ctx context.Context, log *slog.Logger) string {
	z.once.Do(func() {
		if z.endpoint == "" || z.token == "" {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, zonePatience)
		defer cancel()
		id, err := lambdaapi.ZoneID(ctx, z.endpoint, z.token)
		if err != nil {
			log.Debug("availability zone is not known", slog.Any("error", err))
			return
		}
		z.id = id
	})
	return z.id
}
