package volume

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Unpublish takes the volume away: it cuts running work short, unmounts, and
// leaves the end of the credentials to the releaser. It works for volumes
// that nobody knows, and twice.
func (p *Publisher) Unpublish(ctx context.Context, id, target string) error {
	for {
		e := p.entryFor(id)
		end, err := e.leave(ctx)
		if err != nil {
			return fault.New(fault.Of(err), "waiting for other work on volume %s: %w", id, err)
		}
		if e.isGone() {
			end()
			continue
		}
		err = p.unpublish(e, target)
		end()
		p.settleNews(e)
		return err
	}
}

func (p *Publisher) unpublish(e *entry, target string) error {
	began := time.Now()
	rec := e.rec
	if !rec.published() || rec.Target != target {
		err := p.unmount(target)
		p.dropUnpublished(e)
		if err == nil {
			if !rec.published() {
				p.rooms.release(rec.ID)
			}
			p.takeAside(rec.ID)
		}
		return err
	}
	p.schedule.Remove(rec.ID)
	err := p.unmount(target)
	if err != nil {
		p.schedule.Set(rec.ID, e.whereNow(), rec.DueAt)
	} else {
		p.rooms.release(rec.ID)
		rec.Leaving = true
		p.keep(rec) // work that was cut short may have got more
		p.save(rec)
	}
	o := outcomeOf(Unpublished, rec, began, err)
	o.NextAt = time.Time{}
	p.Observer.Observe(o)
	if err == nil {
		// In this order: a publish of the same id, which waits for this volume's
		// lock until it is forgotten, must find what is to be ended.
		p.releaser.add(rec)
		p.forget(e)
	}
	return err
}

// unmount takes away a tmpfs that is ours or that a driver before us made,
// and the directory under it; nothing else.
func (p *Publisher) unmount(target string) error {
	info, err := p.Mounts.Inspect(target)
	if err != nil {
		return fault.New(fault.Mount, "inspecting the target path %q: %w", target, err)
	}
	if !info.Exists {
		return nil
	}
	if _, err := p.contentOf(target, info); err != nil {
		return err
	}
	clean := p.Mounts.Cleanup
	if info.Mounted && !info.Ours {
		clean = p.Mounts.CleanupAny
	}
	if err := clean(target); err != nil {
		return fault.New(fault.Mount, "unmounting the volume: %w", err)
	}
	return nil
}

// Stats measures a published volume. The path must be one that we mounted, so
// that nobody learns of the node's other file systems through it.
func (p *Publisher) Stats(id, path string) (tmpfs.Stats, error) {
	stats, err := p.Mounts.Stats(path)
	switch {
	case errors.Is(err, tmpfs.ErrNotMounted), errors.Is(err, tmpfs.ErrForeign), errors.Is(err, tmpfs.ErrTarget), errors.Is(err, fs.ErrNotExist), errors.Is(err, tmpfs.ErrNotDirectory):
		return stats, fault.New(fault.NotFound, "volume %s is not published at %q: %w", id, path, err)
	case err != nil:
		return stats, fault.New(fault.Mount, "measuring the volume: %w", err)
	}
	return stats, nil
}
