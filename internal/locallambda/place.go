package locallambda

import "slices"

// How many environments a function that isolates tenants may have, as a
// multiple of those that it may use at once: 2,500 for every 1,000.
// https://docs.aws.amazon.com/lambda/latest/dg/tenant-isolation-troubleshooting.html
const tenantEnvironmentsNum, tenantEnvironmentsDen = 5, 2

// submit gives an invocation to an environment, or an event to the queue. The
// error is nil if the invocation will finish.
func (s *Service) submit(ref reference, inv *invocation) *apiError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errService(ErrClosed)
	}
	fn := s.find(ref)
	if fn == nil {
		return errNotFound(ref)
	}
	if fn.settings.TenantIsolation && inv.tenant == "" {
		return errInvalidParameter("The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again.")
	}
	if s.place(fn, inv) {
		return nil
	}
	if !inv.async || len(fn.waiting) >= maxWaitingEvents {
		return errThrottled()
	}
	fn.waiting = append(fn.waiting, inv)
	return nil
}

// place gives the invocation to an environment with room for it, or to a new
// one. It reports false at the limit. Called with s.mu held.
func (s *Service) place(fn *function, inv *invocation) bool {
	tenant := ""
	if fn.settings.TenantIsolation {
		tenant = inv.tenant
	}
	if e := fn.roomFor(tenant); e != nil {
		fn.give(e, inv)
		return true
	}
	if fn.busy >= fn.settings.MaxEnvironments || fn.tooManyTenants() {
		return false
	}
	e := newEnvironment(s, fn, tenant)
	fn.busy++
	fn.all = append(fn.all, e)
	e.become(StateInitialising)
	fn.give(e, inv)
	s.lives.Go(e.live)
	return true
}

// roomFor returns the environment that is to take an invocation: one that runs
// others already, the fullest first, or else the one that was used last, whose
// caches are the warmest. Either lets the others grow old. Called with
// Service.mu held.
func (fn *function) roomFor(tenant string) *environment {
	var fullest *environment
	if fn.settings.managed() {
		for _, e := range fn.all {
			busy := e.state == StateInitialising || e.state == StateInvoking
			if busy && e.settings == fn.settings && e.load < cap(e.work) && (fullest == nil || e.load > fullest.load) {
				fullest = e
			}
		}
	}
	if fullest != nil {
		return fullest
	}
	for _, e := range slices.Backward(fn.warm) {
		if e.tenant == tenant {
			return e
		}
	}
	return nil
}

// give gives an environment an invocation. Called with Service.mu held.
func (fn *function) give(e *environment, inv *invocation) {
	if e.state == StateIdle {
		fn.remove(&fn.warm, e)
		fn.busy++
		e.become(StateInvoking)
	}
	e.load++
	e.served++
	e.work <- inv // never blocks: it has room
}

// tooManyTenants reports whether idle environments of other tenants keep a new
// one from being started. Called with Service.mu held.
func (fn *function) tooManyTenants() bool {
	return fn.settings.TenantIsolation &&
		(fn.busy+len(fn.warm))*tenantEnvironmentsDen >= fn.settings.MaxEnvironments*tenantEnvironmentsNum
}

// placeWaiting starts the events that waited as far as there is room now.
// Called with s.mu held.
func (s *Service) placeWaiting(fn *function) {
	for len(fn.waiting) > 0 && !s.closed && fn.settings != nil && s.place(fn, fn.waiting[0]) {
		fn.waiting = fn.waiting[1:]
	}
}
