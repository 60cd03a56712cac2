package apisource

import "github.com/mayfly-csi/mayfly/pkg/budget"

// charge accounts for what was just put in force, in place of what was before.
// It is called without the mutex, which the drop of a cache takes.
func (s *Source) charge(w *watched, now *snapshot) {
	var charge *budget.Charge
	if now.class != nil {
		var err error
		charge, err = s.Budget.Keep(budget.Owner{Namespace: w.ref.Namespace}, now.class.Size(), func() { s.forget(w, now) })
		if err != nil {
			s.forget(w, now)
		}
	}
	s.mu.Lock()
	over := charge
	if s.watched[w.ref] == w && w.last == now {
		over, w.charge = w.charge, charge
	}
	s.mu.Unlock()
	over.Release()
}

// forget keeps of a class that there is one, and of which version, so that its
// edits are told of. Get asks for it again.
func (s *Source) forget(w *watched, what *snapshot) {
	s.mu.Lock()
	var over *budget.Charge
	if w.last == what {
		w.last = &snapshot{version: what.version, listed: what.listed}
		over, w.charge = w.charge, nil
	}
	s.mu.Unlock()
	over.Release()
}
