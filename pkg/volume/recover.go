package volume

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Recover takes up the volumes of an earlier process from the Store. It makes
// no request to anybody. It is called once, before Run and before the first
// Publish.
func (p *Publisher) Recover() error {
	loaded, err := p.Store.Load()
	if err != nil {
		return err
	}
	for _, bad := range loaded.SetAside {
		p.noteAside(bad)
	}
	for _, rec := range loaded.Records {
		began := time.Now()
		leaving := rec.Leaving // unpublished before; only its credentials are left
		err := p.recover(rec)
		if leaving {
			continue
		}
		if err != nil {
			p.Logger.Warn("a volume of the last process is not taken up; kubelet publishes it again if its pod still runs",
				"volume", rec.ID, "pod", rec.Pod.String(), "error", err)
		}
		p.Observer.Observe(outcomeOf(Recovered, rec, began, err))
	}
	p.Logger.Info("volumes recovered", "records", len(loaded.Records), "live", p.Count(), "setAside", len(loaded.SetAside))
	return nil
}

// noteAside keeps in mind that a volume has lost its record. Which one it is
// shows when kubelet names it.
func (p *Publisher) noteAside(bad BadRecord) {
	p.aside[bad.Key] = bad.File
	if bad.Err == nil {
		return // an earlier process has told it
	}
	p.Observer.Observe(Outcome{
		Kind: SetAside, SetAside: bad.File,
		Err: fault.New(fault.State, "a volume's record cannot be read and was set aside as %s: %w", bad.File, bad.Err),
	})
}

// takeAside is the file of the volume's record if that was set aside; it is
// told once.
func (p *Publisher) takeAside(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.aside) == 0 {
		return ""
	}
	key := RecordKey(id)
	file := p.aside[key]
	delete(p.aside, key)
	return file
}

// recover takes up one volume. One that is no longer mounted is let go: the
// node was rebooted, or its pod went while no driver ran.
func (p *Publisher) recover(rec *Record) error {
	p.giveBack(rec)
	if rec.Leaving {
		p.releaser.add(rec)
		return nil
	}
	switch err := p.isLive(rec); {
	case errors.Is(err, errNotLive) || fault.Of(err) == fault.Conflict:
		p.releaser.add(rec)
		return err
	case err != nil: // we cannot tell: a refresh finds out, and nothing is given up
		p.Logger.Error("looking at a volume of the last process", "volume", rec.ID, "pod", rec.Pod.String(), "error", err)
	}
	p.repair(rec)
	p.adoptContents(rec)
	e := newEntry(rec)
	e.know(rec, p.where(rec, rec.asks()))
	e.joinClass(rec.Class)
	p.Classes.Retain(rec.Class)
	p.entries[rec.ID] = e
	if rec.Failures == 0 { // else one of them may be what the class asks for
		p.releaser.addFormer(rec)
	}
	rec.DueAt = dueAfterRestart(time.Now(), rec, chance())
	p.schedule.Set(rec.ID, e.whereNow(), rec.DueAt)
	return nil
}

// isLive looks at the mount alone. One that is empty is of a publish that mounted
// again what had been unmounted, and was cut off: the next refresh fills it.
func (p *Publisher) isLive(rec *Record) error {
	info, err := p.Mounts.Inspect(rec.Target)
	if err != nil {
		return err
	}
	had, err := p.contentOf(rec.Target, info)
	if err == nil && had == nothing {
		err = errNotLive
	}
	return err
}

// Run refreshes what is due and ends the credentials of what is gone, until
// ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return p.schedule.Run(ctx, Work{Workers: p.Workers, Limit: refreshTries * p.RefreshTimeout, Do: p.refresh, Late: func(id string) {
			p.Logger.Warn("a refresh does not end, so its worker goes on with other volumes", "volume", id)
		}})
	})
	g.Go(func() error { return p.releaser.run(ctx) })
	return g.Wait()
}
