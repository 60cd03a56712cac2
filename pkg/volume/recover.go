package volume

import (
	"errors"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
)

// errNotLive is why a recorded volume is not taken up at the start.
var errNotLive = errors.New("its tmpfs is not mounted")

// Recover takes up the volumes of an earlier process from the Store, and the
// revocations after them. It makes no request to the store or the API server. It
// is called once, before Run and before the first Publish.
func (m *Manager) Recover() error {
	loaded, err := m.Store.Load()
	if err != nil {
		return err
	}
	for _, bad := range loaded.SetAside {
		m.lost.add(bad)
		if bad.Err != nil { // else an earlier process has told it
			m.Observer.Observe(Outcome{
				Kind: SetAside, SetAside: bad.File,
				Err: fault.New(fault.State, "a volume's record cannot be read and was set aside as %s: %w", bad.File, bad.Err),
			})
		}
	}
	slices.SortStableFunc(loaded.Records, func(a, b *Record) int {
		switch {
		case a.Leaving == b.Leaving:
			return 0
		case a.Leaving:
			return 1
		}
		return -1
	})
	for _, rec := range loaded.Records {
		if rec.Leaving {
			m.recoverRevocation(rec)
			continue
		}
		began := time.Now()
		err := m.recover(rec)
		if err != nil {
			m.Logger.Warn("a volume of the last process is not taken up; kubelet publishes it again if its pod still runs",
				logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
		}
		m.Observer.Observe(outcomeOf(Recovered, rec, began, err))
	}
	m.Logger.Info("volumes recovered", logkey.Records, len(loaded.Records), logkey.Live, m.Count(), logkey.SetAside, len(loaded.SetAside))
	return nil
}

// recover takes up one volume. The credentials of one that is no longer mounted
// are revoked: its pod went while no driver ran. An empty mount is of a publish
// that mounted again what had been unmounted, and was cut off: the next refresh
// fills it.
func (m *Manager) recover(rec *Record) error {
	m.importState(rec)
	found, err := m.targets().Look(rec.Target)
	if err == nil && found == target.Nothing {
		err = errNotLive
	}
	switch {
	case errors.Is(err, errNotLive) || fault.Of(err) == fault.Conflict:
		last := rec.ForRevocation()
		m.saveLeaving(last)
		m.revoker.add(last)
		return err
	case err != nil: // we cannot tell: a refresh finds out, and nothing is given up
		m.Logger.Error("looking at a volume of the last process", logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
	}
	m.targets().Repair(rec.ID, rec.Target)
	m.memory.adopt(rec)
	rec.DueAt = dueAfterRestart(time.Now(), &rec.Progress, chance())
	v := m.volume(rec.ID)
	v.identity, v.where = rec.Identity, m.whereOf(rec)
	v.record.Store(rec)
	m.Classes.Retain(rec.Class)
	v.schedule(schedule.Where{})
	return nil
}

// recoverRevocation goes on with the revocation of an earlier process, unless a
// live volume has taken it over.
func (m *Manager) recoverRevocation(rec *Record) {
	if v := m.find(rec.ID); v != nil && v.record.Load().Provider == rec.Provider {
		if err := m.Store.Delete(rec); err != nil {
			m.Logger.Error("forgetting a revocation that a volume has taken over", logkey.Volume, rec.ID, logkey.Error, err)
		}
		return
	}
	m.importState(rec)
	m.revoker.add(rec)
}

// saveLeaving records that a volume is gone. Without it, the record of the live
// volume has a restart find that.
func (c *Config) saveLeaving(rec *Record) {
	if err := c.Store.Leave(rec); err != nil {
		c.Logger.Error("saving a volume's record", logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
	}
}
