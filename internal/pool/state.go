package pool

import "fmt"

// State is where an instance is in its life. It only ever moves forward.
//
//	starting ──▶ ready ──▶ draining ──▶ closed
//	    └────────────────────┴────────────▲
type State uint8

const (
	// StateStarting means invoked; the tunnel is not there yet.
	StateStarting State = iota
	// StateReady means that it has a tunnel and gets requests.
	StateReady
	// StateDraining means no new requests: the running ones finish, then the
	// adapter is told to go and the invocation's result is awaited.
	StateDraining
	// StateClosed means that the invocation has ended.
	StateClosed
)

// States lists all states in the order of an instance's life.
var States = [...]State{StateStarting, StateReady, StateDraining, StateClosed}

func (s State) String() string {
	switch s {
	case StateStarting:
		return "starting"
	case StateReady:
		return "ready"
	case StateDraining:
		return "draining"
	case StateClosed:
		return "closed"
	default:
		return fmt.Sprintf("state(%d)", uint8(s))
	}
}
