// Package adapter is the engine of the adapter, the small program that runs
// beside the app inside a Lambda execution environment. It waits until the app
// is ready, takes invocations from Lambda's Runtime API, and for each dispatch
// event dials the router and lets the app answer what comes through the
// tunnel, until the router or the invocation's deadline ends it. Every other
// event is a direct one: a request that the app answers, whose answer is the
// invocation's.
//
// It runs in one of two ways: as an external extension beside an app that
// Lambda starts, or as a wrapper that starts the app and keeps it running.
//
// The adapter's size is part of every cold start: this package must link
// neither Caddy nor the AWS SDK nor zap. It never decides where a request
// goes and retries none that the app may have seen, but for those that it may
// see twice.
package adapter
