package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Defaults of PoolConfig.
const (
	defaultMaxConcurrent = 10
	defaultMaxInstances  = 100
	defaultIdleTimeout   = time.Minute
	defaultQueueSize     = 10_000
	defaultQueueTimeout  = time.Minute
)

// PoolConfig is everything that concerns the pool of a function.
type PoolConfig struct {
	// The most requests in flight on one instance at once. What the app can
	// do in parallel with the CPU and memory of its function. Default: 10.
	MaxConcurrent int `json:"max_concurrent,omitempty"`

	// How many requests in flight on one instance the scaler aims at; the
	// rest up to `max_concurrent` is headroom for bursts.
	// Default: half of `max_concurrent`, rounded up.
	TargetConcurrent int `json:"target_concurrent,omitempty"`

	// How many instances are kept even without any request. Default: 0.
	MinInstances int `json:"min_instances,omitempty"`

	// The most instances that this router starts. With several routers each
	// has its own. Default: 100.
	MaxInstances int `json:"max_instances,omitempty"`

	// How long after the last request the pool lets go the instances above
	// `min_instances`. Default: 1m.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// The most requests that may wait for a slot; one more is answered with
	// status 503. -1 means that none may wait. Default: 10000.
	QueueSize int `json:"queue_size,omitempty"`

	// The longest that a request may wait for a slot; then it is answered with
	// status 504. -1 means for as long as its client waits. Default: 1m.
	QueueTimeout caddy.Duration `json:"queue_timeout,omitempty"`

	// Where instances connect back to.
	Callback *CallbackConfig `json:"callback,omitempty"`

	// How instances are started. Default: AWS Lambda.
	Invoker *InvokerConfig `json:"invoker,omitempty"`
}

// provision sets the defaults and checks the values.
func (c *PoolConfig) provision() error {
	if c.Callback == nil {
		c.Callback = new(CallbackConfig)
	}
	if c.Invoker == nil {
		c.Invoker = new(InvokerConfig)
	}
	c.setDefaults()
	if err := c.validate(); err != nil {
		return err
	}
	if err := c.Invoker.provision(); err != nil {
		return err
	}
	return c.Callback.provision(c.Invoker.Local != nil)
}

func (c *PoolConfig) setDefaults() {
	if c.MaxConcurrent == 0 {
		c.MaxConcurrent = defaultMaxConcurrent
	}
	if c.TargetConcurrent == 0 {
		c.TargetConcurrent = (c.MaxConcurrent + 1) / 2
	}
	if c.MaxInstances == 0 {
		c.MaxInstances = max(defaultMaxInstances, c.MinInstances)
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = caddy.Duration(defaultIdleTimeout)
	}
	if c.QueueSize == 0 {
		c.QueueSize = defaultQueueSize
	}
	if c.QueueTimeout == 0 {
		c.QueueTimeout = caddy.Duration(defaultQueueTimeout)
	}
}

// validate checks the values, with defaults in place.
func (c *PoolConfig) validate() error {
	switch {
	case c.MaxConcurrent < 1 || c.MaxConcurrent > maxConcurrentLimit:
		return fmt.Errorf("max_concurrent is %d, must be between 1 and %d", c.MaxConcurrent, maxConcurrentLimit)
	case c.TargetConcurrent < 1 || c.TargetConcurrent > c.MaxConcurrent:
		return fmt.Errorf("target_concurrent is %d, must be between 1 and max_concurrent, which is %d", c.TargetConcurrent, c.MaxConcurrent)
	case c.MinInstances < 0:
		return fmt.Errorf("min_instances is %d, must be 0 or more", c.MinInstances)
	case c.MaxInstances < 1 || c.MaxInstances < c.MinInstances:
		return fmt.Errorf("max_instances is %d, must be at least 1 and at least min_instances, which is %d", c.MaxInstances, c.MinInstances)
	case c.IdleTimeout < 0:
		return fmt.Errorf("idle_timeout is %v, must be positive", time.Duration(c.IdleTimeout))
	case c.QueueSize < -1:
		return fmt.Errorf("queue_size is %d, must be -1 or more", c.QueueSize)
	case c.QueueTimeout < -1:
		return fmt.Errorf("queue_timeout is %v, must be positive or -1", time.Duration(c.QueueTimeout))
	}
	return nil
}

// maxConcurrentLimit keeps a slip of the finger from asking one environment
// for more streams than HTTP/2 connections and Lambda's 1,024 file descriptors
// can carry.
const maxConcurrentLimit = 1000
