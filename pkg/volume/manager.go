package volume

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
)

// Manager has the volumes of this node. It recovers them after a restart, and
// refreshes those that are due.
type Manager struct {
	Config
	scheduler *schedule.Scheduler
	revoker   *revoker
	memory    *limits.Memory
	reviewer  *reviewer
	lost      lostRecords
	waiters   *waiters

	mu      sync.Mutex
	volumes map[string]*Volume
}

// New checks the configuration. It starts nothing.
func New(c Config) (*Manager, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.SlowAfter = cmp.Or(c.SlowAfter, 5*time.Second)
	m := &Manager{Config: c, scheduler: schedule.New(), lost: lostRecords{files: map[string]string{}}, volumes: map[string]*Volume{}}
	m.revoker = &revoker{Config: &m.Config, queue: schedule.New(), pending: map[string]*revocation{}}
	m.reviewer = &reviewer{Config: &m.Config, validated: bounded.Map[class.Ref, validation]{Most: maxReviewed}, logged: bounded.Map[class.Ref, string]{Most: maxReviewed}}
	m.waiters = &waiters{waiting: map[string]struct{}{}, hasten: func(id string) {
		if v := m.find(id); v != nil {
			v.hasten(eventDue())
		}
	}}
	m.memory = limits.NewMemory(c.Budget, c.Logger)
	return m, nil
}

// Publish publishes a volume: see Volume.Publish.
func (m *Manager) Publish(ctx context.Context, r Request) error {
	for {
		if err := m.volume(r.ID).Publish(ctx, r); !errors.Is(err, errGone) {
			return err
		}
	}
}

// Unpublish unpublishes a volume: see Volume.Unpublish.
func (m *Manager) Unpublish(ctx context.Context, id, target string) error {
	for {
		if err := m.volume(id).Unpublish(ctx, target); !errors.Is(err, errGone) {
			return err
		}
	}
}

// Stats measures a published volume.
func (m *Manager) Stats(id, path string) (tmpfs.Stats, error) { return m.targets().Stats(id, path) }

// refreshTries is the number of parts of a refresh of which RefreshTimeout bounds
// each: getting the class, asking the store by it, asking by the class before an edit.
const refreshTries = 3

// Run refreshes volumes that are due, and revokes the credentials of gone volumes,
// until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.scheduler.Run(ctx, schedule.Work{Workers: m.Workers, Limit: refreshTries * m.RefreshTimeout, Do: m.refresh, Late: func(id string) {
			m.Logger.Warn("a refresh hangs; its worker continues with other volumes", logkey.Volume, id)
		}})
	})
	g.Go(func() error { return m.revoker.run(ctx) })
	g.Go(func() error { return m.waiters.run(ctx, m.StoreReturned) })
	return g.Wait()
}

func (m *Manager) refresh(ctx context.Context, id string) {
	v := m.find(id)
	if v == nil {
		return
	}
	if err := v.Refresh(ctx); err != nil {
		v.hasten(time.Now().Add(m.Interval))
	}
}

// ClassVersion handles a class's version, when the class is first seen and after
// each change; it is empty if there is no such class or it cannot be used. The
// volumes with a payload of another version become due within a second, those that
// are due sooner at their own time: a lease may be about to expire.
func (m *Manager) ClassVersion(ref class.Ref, version string) {
	n := 0
	for _, v := range m.all() {
		if v.deliverVersion(ref, version, eventDue()) {
			n++
		}
	}
	m.Logger.Debug("the version of a class is known", logkey.Class, ref.String(), logkey.VolumesOfAnotherVersion, n)
}

// RefreshAll makes every volume due now, as an operator asked.
func (m *Manager) RefreshAll() {
	now := time.Now()
	for _, v := range m.all() {
		v.requestRefresh(now)
	}
}

// RefreshPod makes the volumes of a pod due now, as a user asked, or a second after
// their last refresh. It returns their ids.
func (m *Manager) RefreshPod(namespace, name string) (ids []string) {
	now := time.Now()
	for _, v := range m.all() {
		rec := v.record.Load()
		if rec == nil || rec.Pod.Namespace != namespace || rec.Pod.Name != name {
			continue
		}
		at := now
		for _, looked := range []time.Time{rec.RefreshedAt, rec.FailedAt} {
			if rested := looked.Add(shortestWait); rested.After(at) && !looked.After(now) {
				at = rested
			}
		}
		if v.requestRefresh(at) {
			ids = append(ids, rec.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// volume returns the volume with an id, and adds it to the table if it is not there.
func (m *Manager) volume(id string) *Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.volumes[id]
	if !ok {
		v = &Volume{m: m, id: id, worker: make(chan struct{}, 1)}
		m.volumes[id] = v
	}
	return v
}

func (m *Manager) find(id string) *Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.volumes[id]
}

// all returns the volumes in no order.
func (m *Manager) all() []*Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.volumes))
}

// forget removes a volume from the table. The caller works on the volume.
func (m *Manager) forget(v *Volume) {
	ref, retained := v.setGone()
	m.scheduler.Remove(v.id)
	m.waiters.remove(v.id)
	m.Renderer.Leave(v.id)
	if retained {
		m.Classes.Release(ref)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.volumes[v.id] == v {
		delete(m.volumes, v.id)
	}
}

// expectRoom refuses a run whose payload would not fit, before the store is asked. For a
// new volume it expects the size of the smallest payload of the class. A live volume has
// its room, except one that exceeds limits which are lower since a restart; such a volume
// waits, unless its credentials must be renewed.
func expectRoom(m *Manager, rec *Record, c *class.Class) error {
	size := rec.Size
	switch {
	case !rec.published():
		size = max(size, leastSize(m.all(), c))
	case len(rec.Ends) > 0:
		return nil
	}
	return m.memory.Expect(rec.Owner(), size)
}

// leastSize returns the size of the smallest payload of this version of the class,
// 0 if there is none.
func leastSize(volumes []*Volume, c *class.Class) (least int64) {
	if c.ResourceVersion == "" {
		return 0
	}
	for _, v := range volumes {
		if rec := v.record.Load(); rec != nil && rec.Class == c.Ref && rec.madeBy(c.ResourceVersion) && (least == 0 || rec.Size < least) {
			least = rec.Size
		}
	}
	return least
}

// Count is the number of volumes that this process knows.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.volumes)
}

// Failing is the number of volumes whose last refresh failed.
func (m *Manager) Failing() (n int) {
	for _, v := range m.all() {
		if rec := v.record.Load(); rec != nil && rec.Failures > 0 {
			n++
		}
	}
	return n
}

// Stalled returns for how long refreshes of a store have been due and none of them
// has begun or ended. It is near zero unless this process is broken, because a
// refresh that waits for a store ends at RefreshTimeout.
func (m *Manager) Stalled() time.Duration { return m.scheduler.Stalled(time.Now()) }
