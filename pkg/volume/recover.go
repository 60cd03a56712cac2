package volume

import (
	"errors"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
)

// errNotLive is the reason why a volume is not recovered.
var errNotLive = errors.New("its tmpfs is not mounted")

// Recover recovers the volumes of an earlier process from the Store, and then its
// revocations. It sends no request to the stores or the API server. Call it once,
// before Run and before the first Publish.
func (m *Manager) Recover() error {
	loaded, err := m.Store.Load()
	if err != nil {
		return err
	}
	for _, bad := range loaded.SetAside {
		m.lost.add(bad)
		if bad.Err != nil { // otherwise an earlier process has reported it
			m.Observer.Observe(Outcome{
				Kind: SetAside, SetAside: bad.File,
				Err: fault.New(fault.State, "a volume's record cannot be read and was set aside as %s: %w", bad.File, bad.Err),
			})
		}
	}
	var revocations []*Record
	for _, rec := range loaded.Records {
		if rec.Leaving {
			revocations = append(revocations, rec)
			continue
		}
		began := time.Now()
		err := m.recover(rec)
		if err != nil {
			m.Logger.Warn("a volume of the previous process is not recovered; kubelet publishes it again if its pod still runs",
				logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
		}
		m.Observer.Observe(outcomeOf(Recovered, rec, began, err))
	}
	for _, rec := range revocations {
		m.recoverRevocation(rec)
	}
	m.Logger.Info("volumes recovered", logkey.Records, len(loaded.Records), logkey.Live, m.Count(), logkey.SetAside, len(loaded.SetAside))
	return nil
}

// recover recovers one volume. If it is not mounted any more, its pod ended while no
// driver ran, and its credentials are revoked. A mount without files is of a publish
// that a crash interrupted while it repaired a lost mount; the next refresh writes the
// files.
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
	case err != nil: // unknown: the volume stays, and a refresh finds out
		m.Logger.Error("inspecting a volume of the previous process", logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
	}
	m.targets().Repair(rec.ID, rec.Target)
	rec.Size = m.memory.Adopt(rec.Owner(), rec.Target, rec.Size)
	rec.DueAt = dueAfterRestart(time.Now(), &rec.Progress, chance())
	v := m.volume(rec.ID)
	v.identity, v.where = rec.Identity, m.whereOf(rec)
	v.record.Store(rec)
	m.Classes.Retain(rec.Class)
	v.schedule(schedule.Where{})
	return nil
}

// recoverRevocation continues the revocation of an earlier process, unless a live
// volume has taken it over.
func (m *Manager) recoverRevocation(rec *Record) {
	if v := m.find(rec.ID); v != nil && v.record.Load().Provider == rec.Provider {
		if err := m.Store.Delete(rec); err != nil {
			m.Logger.Error("deleting the revocation record of a recovered volume", logkey.Volume, rec.ID, logkey.Error, err)
		}
		return
	}
	m.importState(rec)
	m.revoker.add(rec)
}
