package dispatch

import "time"

// maxSlots bounds Limits. An adapter reaches its app over one local address,
// which has no more ports than this for connections, so that a higher limit
// could not be used; and it keeps sums of slots far from overflowing.
const maxSlots = 1 << 16

// Limits are the limits of one instance, in requests in flight. Both may
// differ between instances: each adapter has a say in them, and a reload
// changes them.
type Limits struct {
	// Target is where the instance counts as well used: other instances are
	// filled up to their own Target before one goes above it. Values below 1
	// count as 1 and values above Max as Max.
	Target int
	// Max is the most requests that the instance is given at once. 0 means
	// that it gets none for now; values below count as 0 and values above
	// 65,536 as 65,536.
	Max int
}

// effective returns the limits with every value in its range.
func (l Limits) effective() Limits {
	l.Max = min(max(l.Max, 0), maxSlots)
	l.Target = min(max(l.Target, 1), l.Max)
	return l
}

// Instance is an instance in the eyes of the [Dispatcher]: its slots. The zero
// value is ready for [Dispatcher.Add].
//
// The life of an Instance begins with Add. It ends when [Dispatcher.Remove]
// has been called and every slot that was given on it has been released, which
// InFlight tells. From then on it may be added again, to any Dispatcher, or
// dropped.
//
// An Instance must not be copied.
type Instance struct {
	// Owner is for the caller, to find its own instance in the grant function.
	Owner any

	limits    Limits // always effective
	state     state
	inFlight  int
	idleSince time.Time

	// Where a ready instance is filed; see shelves.
	shelf int
	used  uint64
	link  link[Instance]
}

// state is what the Dispatcher may do with an instance.
type state uint8

const (
	outside  state = iota // not added yet, or removed
	ready                 // on the shelves, gets requests
	draining              // gets no more, but those in flight count
)

// InFlight returns how many slots of the instance are taken. It keeps counting
// after Remove, until the last of them has been released.
func (in *Instance) InFlight() int { return in.inFlight }

// IdleSince returns since when the instance has had no request in flight: the
// time of its last Release, or of its Add. It is the zero time while the
// instance is busy.
func (in *Instance) IdleSince() time.Time { return in.idleSince }

// Limits returns the limits in force, with every value in its range.
func (in *Instance) Limits() Limits { return in.limits }

// free returns how many more requests the instance can take. A reload may have
// left it with more in flight than it has slots now.
func (in *Instance) free() int { return max(in.limits.Max-in.inFlight, 0) }
