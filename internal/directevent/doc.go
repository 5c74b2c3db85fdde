// Package directevent translates direct events into HTTP requests for the app,
// and the app's answers into what the sender of the event understands. An event
// that is about an HTTP request (API Gateway, function URLs, load balancers, VPC
// Lattice) becomes that request; every other event becomes a POST of the event
// itself to a path of its own.
//
// The package is pure: no I/O, no clock, no environment, no goroutine. It must
// not trust what an event carries from outside: every request that it makes can
// be written to a connection as it is, and the headers that Lambda vouches for
// are Lambda's.
package directevent
