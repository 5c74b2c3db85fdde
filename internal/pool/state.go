package pool

import "fmt"

// State is where an instance is in its life. It only ever moves forward.
//
//	starting ──▶ ready ──▶ draining ──▶ closed
//	    └────────────────────┴────────────▲
type State uint8

const (
	// StateStarting: invoked, the tunnel is not there yet.
	StateStarting State = iota
	// StateReady: has a tunnel and gets requests.
	StateReady
	// StateDraining: gets no new requests; its running ones finish, then the
	// adapter is told to go and the invocation's result is awaited.
	StateDraining
	// StateClosed: the invocation has ended.
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
