package volume

import (
	"errors"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Stages makes places in a mounted volume for providers that write files
// themselves.
type Stages interface {
	Make(target string, o tmpfs.Options) (provider.Stage, error)
	// Sweep takes away what a crash has left of them.
	Sweep(target string) error
}

// stager is nil where there are no Stages.
func (p *Publisher) stager(w pass, c *class.Class) provider.Stager {
	if p.Stages == nil {
		return nil
	}
	return &stager{p, w, c}
}

type stager struct {
	p *Publisher
	w pass
	c *class.Class
}

// Stage implements provider.Stager. The place is inside of the volume, because
// that is where the provider looks and nothing else does: so the volume is
// mounted for it where it is not yet, and is empty as long as no payload came.
func (s *stager) Stage() (provider.Stage, error) {
	if err := s.w.place(s.c); err != nil {
		return nil, err
	}
	target := s.w.rec.Target
	s.p.sweep(s.w.rec)
	o := s.p.mountOptions(s.w.rec, s.c)
	o.Mode, o.GID = 0o700, nil
	stage, err := s.p.Stages.Make(target, o)
	if err != nil {
		return nil, fault.New(fault.Mount, "making a place for the provider to write to in %q: %w", target, err)
	}
	return stage, nil
}

// repair makes a volume what it is without a crash in the middle of a write. What
// cannot be repaired now is by the next write.
func (p *Publisher) repair(rec *Record) {
	p.sweep(rec)
	dir, err := p.openVolume(rec.Target)
	if err == nil {
		err = errors.Join(dir.Repair(), dir.Close())
	}
	if err != nil {
		p.Logger.Error("repairing the links of a volume", "volume", rec.ID, "target", rec.Target, "error", err)
	}
}

// sweep takes away what a crash has left. What stays is no harm to the volume,
// and goes with it.
func (p *Publisher) sweep(rec *Record) {
	if p.Stages == nil {
		return
	}
	if err := p.Stages.Sweep(rec.Target); err != nil {
		p.Logger.Error("sweeping a volume", "volume", rec.ID, "target", rec.Target, "error", err)
	}
}
