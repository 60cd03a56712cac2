package volume

import (
	"context"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// classOf finds the class. A published volume goes on with the one it had
// while the API server is away.
func (p *Publisher) classOf(ctx context.Context, w pass) (*class.Class, error) {
	ctx, cancel := w.bound(ctx)
	defer cancel()
	c, err := p.Classes.Get(ctx, w.rec.Class)
	if err == nil {
		return c, nil
	}
	if w.rec.LastClass != nil && fault.Of(err).Outage() {
		p.Logger.Debug("the class cannot be read now, the last one serves", "class", w.rec.Class.String(), "error", err)
		return w.rec.LastClass, nil
	}
	return nil, err
}

// hasFormer tells whether the volume had a class before this one, which may be
// nil, by which it can be kept up.
func (w pass) hasFormer(now *class.Class) bool {
	last := w.rec.LastClass
	if last == nil || !w.rec.published() {
		return false
	}
	return now == nil || now.UID != last.UID || now.ResourceVersion != last.ResourceVersion
}

// upkeep keeps a volume up by the class that it had, after the pass by its
// class as it is now, nil for none, has failed with err: an edit that cannot
// work must not let the pod's credentials end. What a denial does to the files
// is still for the class to say, as long as there is one.
func (p *Publisher) upkeep(ctx context.Context, w pass, now *class.Class, err error) (passed, error) {
	if now != nil {
		w.onDenied = now.OnDenied
	}
	w.upkeep = true
	done, failed := p.attempt(ctx, w, w.rec.LastClass)
	if failed != nil {
		err = fmt.Errorf("%w; keeping the volume up by the class that it had failed too: %w", err, failed)
	}
	return done, err
}
