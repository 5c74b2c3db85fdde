package locallambda

import (
	"slices"
	"time"
)

// State is where an environment is in its life.
type State string

// The states of an environment.
const (
	// StateInitialising: the cold start and the init phase. An invocation
	// is waiting for it already.
	StateInitialising State = "initialising"
	// StateInvoking: an invocation is running, or its extensions are.
	StateInvoking State = "invoking"
	// StateIdle: warm and, unless it runs several invocations at once, frozen.
	StateIdle State = "idle"
	// StateShuttingDown: its processes are being asked to go, or killed.
	StateShuttingDown State = "shutting_down"
	// StateGone: no process of it is left.
	StateGone State = "gone"
)

// successors is the whole state machine.
var successors = map[State][]State{
	"":                {StateInitialising},
	StateInitialising: {StateInvoking, StateShuttingDown},
	StateInvoking:     {StateIdle, StateShuttingDown},
	StateIdle:         {StateInvoking, StateShuttingDown},
	StateShuttingDown: {StateGone},
}

func (s State) allows(next State) bool { return slices.Contains(successors[s], next) }

// EnvironmentInfo describes an environment at one moment.
type EnvironmentInfo struct {
	// ID is the log stream name, unique to the environment.
	ID string
	// State is where it is in its life, since Since.
	State State
	Since time.Time
	// PID is the process ID of the runtime, 0 while there is none.
	PID int
	// AppPort is the environment's app port, 0 while it has none.
	AppPort int
	// Tenant is whom it belongs to, if the function isolates tenants.
	Tenant string
	// Running counts the invocations that it was given and is not done with.
	Running int
	// Invocations counts those that were given to it.
	Invocations uint64
}
