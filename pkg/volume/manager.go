package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
)

// Classes finds SecretProviderClasses and keeps watch over those in use.
type Classes interface {
	Get(ctx context.Context, ref class.Ref) (*class.Class, error)
	// Retain and Release are counted. While a class is retained its edits
	// are noticed, and it is available when the API server is not.
	Retain(ref class.Ref)
	Release(ref class.Ref)
}

// Config is what a Manager is made of. Every field is needed but Stages, Budget,
// Follower, Tracer and the bounds of what a class may ask for.
type Config struct {
	Limits
	Classes   Classes
	Providers Providers
	Renderer  Renderer
	Mounts    target.Mounts
	// Stages may be nil, and then no provider can write files itself.
	Stages   target.Stages
	Store    Store
	Observer Observer
	Logger   *slog.Logger

	// Strict has what is else a warning refuse a class.
	Strict bool
	// Budget is charged with the contents of the volumes; nil for no limit.
	Budget *budget.Budget
	// LastGoodAge is how old a secret may be at the most from which a new pod
	// starts while the store is away, where its class allows that at all.
	LastGoodAge time.Duration
	// Workers bounds how many refreshes run at once for each store, beside the
	// first of each Kubernetes namespace.
	Workers int
	// Follower is told of each payload that is in a volume; nil for none.
	Follower Follower
	// Tracer is told of publishes, refreshes and releases; nil for none.
	Tracer *trace.Tracer
	// SlowAfter is how long a first publish waits for the store before its pod
	// is told; 0 means 5 s.
	SlowAfter time.Duration
	// RefreshTimeout bounds one refresh. A publish is bounded by its caller.
	RefreshTimeout time.Duration
	// ReleaseTimeout bounds one attempt to end a gone volume's credentials.
	ReleaseTimeout time.Duration
}

func (c *Config) validate() error {
	switch {
	case c.Classes == nil, c.Providers == nil, c.Renderer == nil, c.Mounts == nil, c.Store == nil, c.Observer == nil, c.Logger == nil:
		return errors.New("volume: Classes, Providers, Renderer, Mounts, Store, Observer and Logger must be set")
	case c.Interval < time.Second:
		return fmt.Errorf("volume: the refresh interval is %s, it must be at least 1s", c.Interval)
	case c.SizeLimit <= 0, c.InodeLimit <= 0:
		return fmt.Errorf("volume: the size limit (%d) and the inode limit (%d) must be positive", c.SizeLimit, c.InodeLimit)
	case c.Workers <= 0:
		return fmt.Errorf("volume: %d refresh workers, there must be at least 1", c.Workers)
	case c.RefreshTimeout <= 0, c.ReleaseTimeout <= 0:
		return errors.New("volume: RefreshTimeout and ReleaseTimeout must be positive")
	}
	return nil
}

// save writes a record. A live volume is good without: a failure is logged, and
// the next refresh writes the record again.
func (c *Config) save(rec *Record) error {
	err := c.Store.Put(rec)
	if err != nil {
		c.Logger.Error("saving a volume's record", logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
	}
	return err
}

// targets works on the target paths of volumes.
func (c *Config) targets() target.Targets {
	return target.Targets{Mounts: c.Mounts, Stages: c.Stages, Logger: c.Logger}
}

// saveFirst fails if the record of a new volume cannot be saved: a restart would
// forget its credentials. If the new payload has replaced one of before, which the
// driver did not know, the pod has nothing else, and the volume goes on without.
func (c *Config) saveFirst(rec *Record, found target.Content) error {
	if found == target.Complete {
		_ = c.save(rec)
		return nil
	}
	return c.Store.Put(rec)
}

// Manager has the volumes of this node: it finds and recovers them, and refreshes
// those that are due.
type Manager struct {
	Config
	scheduler *schedule.Scheduler
	revoker   *revoker
	memory    *memory
	reviewer  *reviewer
	lost      lostRecords

	mu      sync.Mutex
	volumes map[string]*Volume
}

// New validates the configuration and starts nothing.
func New(c Config) (*Manager, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.SlowAfter = cmp.Or(c.SlowAfter, 5*time.Second)
	m := &Manager{Config: c, scheduler: schedule.New(), volumes: map[string]*Volume{}}
	m.revoker, m.reviewer = newRevoker(&m.Config), &reviewer{Config: &m.Config}
	m.memory = &memory{budget: c.Budget, log: c.Logger, charges: map[string]*budget.Charge{}}
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

// Unpublish takes a volume away: see Volume.Unpublish.
func (m *Manager) Unpublish(ctx context.Context, id, target string) error {
	for {
		if err := m.volume(id).Unpublish(ctx, target); !errors.Is(err, errGone) {
			return err
		}
	}
}

// Stats measures a published volume.
func (m *Manager) Stats(id, path string) (tmpfs.Stats, error) { return m.targets().Stats(id, path) }

// refreshTries are the parts of a refresh that RefreshTimeout bounds each: to
// get the class, to ask the store, and to ask it by the class before an edit.
const refreshTries = 3

// Run refreshes what is due and revokes the credentials of what is gone, until
// ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.scheduler.Run(ctx, schedule.Work{Workers: m.Workers, Limit: refreshTries * m.RefreshTimeout, Do: m.refresh, Late: func(id string) {
			m.Logger.Warn("a refresh does not end, so its worker goes on with other volumes", logkey.Volume, id)
		}})
	})
	g.Go(func() error { return m.revoker.run(ctx) })
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

// ClassVersion is told a class's version, empty for one that is not there or
// cannot be used, when the class is first seen and when it has changed. It makes
// the volumes due whose payload another version made, spread over a second. What
// is due sooner stays so: a lease may be about to end.
func (m *Manager) ClassVersion(ref class.Ref, version string) {
	now, n := time.Now(), 0
	for _, v := range m.all() {
		if v.deliverVersion(ref, version, now.Add(time.Duration(float64(editSpread)*chance()))) {
			n++
		}
	}
	m.Logger.Debug("the version of a class is known", logkey.Class, ref.String(), logkey.VolumesOfAnotherVersion, n)
}

// RefreshAll makes every volume due now, on a person's demand.
func (m *Manager) RefreshAll() {
	now := time.Now()
	for _, v := range m.all() {
		v.requestRefresh(now)
	}
}

// RefreshPod makes the volumes of a pod due, on a person's demand: now, but for
// one that was looked at a moment ago. It gives their ids.
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

// volume finds the volume or starts to know it.
func (m *Manager) volume(id string) *Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.volumes[id]
	if !ok {
		v = newVolume(m, id)
		m.volumes[id] = v
	}
	return v
}

func (m *Manager) find(id string) *Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.volumes[id]
}

// all gives the volumes in no order. Some of them may go meanwhile.
func (m *Manager) all() []*Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.volumes))
}

// forget takes a volume out of the table. The caller works on it.
func (m *Manager) forget(v *Volume) {
	ref, retained := v.setGone()
	m.scheduler.Remove(v.id)
	if retained {
		m.Classes.Release(ref)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.volumes[v.id] == v {
		delete(m.volumes, v.id)
	}
}

// leastSize is the smallest of the payloads that this version of the class has
// made; 0 where there is none.
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

// Stalled is for how long refreshes have been due of which none was begun, while
// none of the same store ended. It is near zero unless this process is
// broken: a refresh that waits for a store ends at RefreshTimeout.
func (m *Manager) Stalled() time.Duration { return m.scheduler.Stalled(time.Now()) }
