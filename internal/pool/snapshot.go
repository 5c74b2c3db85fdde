package pool

import (
	"cmp"
	"slices"
	"time"
)

// Snapshot is what a pool looks like at one moment.
type Snapshot struct {
	Name string `json:"name"`
	// Queued is how many requests wait for a slot.
	Queued int `json:"queued"`
	// OldestWait is how long the first of them has waited.
	OldestWait time.Duration `json:"-"`
	// InFlight is how many requests hold a slot.
	InFlight int `json:"in_flight"`
	// FreeSlots is how many more could be taken without waiting.
	FreeSlots int `json:"free_slots"`
	// Desired is how many instances the scaler wants.
	Desired int `json:"desired_instances"`
	// Traffic is what has crossed tunnels in the pool's life, by how the zones
	// of their ends relate. It has an entry for each of Zones, in their order.
	Traffic []Traffic `json:"traffic"`
	// Billed is how long invocations have been open in the pool's life, each
	// from its start, rounded up to Lambda's unit once it has ended. One that
	// has not called back counts from when it does, or when it is known that it
	// has run. It never falls.
	Billed time.Duration `json:"-"`
	// ColdStarts is how many instances became ready while a request waited.
	ColdStarts uint64 `json:"-"`
	// Instances are all that are not closed, the oldest first.
	Instances []InstanceSnapshot `json:"instances"`
}

// InstanceSnapshot is one instance of a [Snapshot].
type InstanceSnapshot struct {
	ID          string     `json:"id"`
	State       string     `json:"state"`
	Environment string     `json:"environment,omitempty"`
	Zone        string     `json:"zone,omitempty"` // the ID of its availability zone
	InFlight    int        `json:"in_flight"`
	Requests    uint64     `json:"requests"`
	StartedAt   time.Time  `json:"started_at"`
	ReadyAt     *time.Time `json:"ready_at,omitempty"`
	Deadline    *time.Time `json:"deadline,omitempty"`
	// Reason is why a draining instance is draining.
	Reason string `json:"reason,omitempty"`
}

// Snapshot returns what the pool looks like now.
func (p *Pool) Snapshot() Snapshot {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Snapshot{
		Name:       p.name,
		Queued:     p.disp.Queued(),
		OldestWait: p.disp.OldestWait(now),
		InFlight:   p.disp.InFlight(),
		FreeSlots:  p.disp.Free(),
		Billed:     p.billed,
		ColdStarts: p.coldStarts,
		Instances:  make([]InstanceSnapshot, 0, len(p.instances)),
	}
	if p.scaler != nil {
		s.Desired = p.scaler.Desired()
	}
	traffic := p.traffic
	for in := range p.instances {
		traffic.add(in)
		is := InstanceSnapshot{
			ID:        in.id,
			State:     in.state.String(),
			InFlight:  in.slots.InFlight(),
			Requests:  in.requests,
			StartedAt: in.startedAt,
			Reason:    in.why,
		}
		if in.tunnel != nil {
			s.Billed += now.Sub(in.startedAt)
			ready, deadline := in.readyAt, in.deadline
			is.Environment, is.Zone = in.tunnel.Ready().Environment, in.tunnel.Ready().Zone
			is.ReadyAt, is.Deadline = &ready, &deadline
		}
		s.Instances = append(s.Instances, is)
	}
	s.Traffic = traffic.list()
	slices.SortFunc(s.Instances, func(a, b InstanceSnapshot) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return s
}

// Empty reports whether the pool has neither requests nor instances, so that
// nothing would be lost with it.
func (p *Pool) Empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.instances) == 0 && p.disp.Queued() == 0 && p.disp.InFlight() == 0
}

// Ready reports whether an instance takes requests.
func (p *Pool) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fleet().Ready > 0
}
