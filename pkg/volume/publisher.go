package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// Classes finds SecretProviderClasses and keeps watch over those in use.
type Classes interface {
	Get(ctx context.Context, ref class.Ref) (*class.Class, error)
	// Retain and Release are counted. While a class is retained its edits
	// are noticed, and it is available when the API server is not.
	Retain(ref class.Ref)
	Release(ref class.Ref)
}

// Providers finds the provider of a class.
type Providers interface {
	Get(name string) (provider.Provider, error)
}

// Mounts is the kernel's side of a volume.
type Mounts interface {
	Inspect(target string) (tmpfs.Info, error)
	// Open opens the root of the tmpfs at target: tmpfs.ErrNotMounted where
	// there is none. What is written relative to the file lies in that tmpfs.
	Open(target string) (*os.File, error)
	Mount(target string, o tmpfs.Options) error
	// Resize gives a live mount other limits.
	Resize(target string, size, inodes int64) error
	// Cleanup takes away what Mount made, and the directory under it;
	// CleanupAny whatever is mounted there.
	Cleanup(target string) error
	CleanupAny(target string) error
	Stats(target string) (tmpfs.Stats, error)
}

// Store keeps the records over a restart.
type Store interface {
	Put(r *Record) error
	Delete(id string) error
	Load() (Loaded, error)
}

// Config is what a Publisher is made of. Every field is needed
// but Stages, Budget, Tracer and the bounds of what a class may ask for.
type Config struct {
	Classes   Classes
	Providers Providers
	Mounts    Mounts
	// Stages may be nil, and then no provider can write files itself.
	Stages   Stages
	Store    Store
	Observer Observer
	Logger   *slog.Logger

	// Interval is the time between two refreshes of a volume whose class and
	// provider say nothing else.
	Interval time.Duration
	// SizeLimit and InodeLimit bound a payload whose class says nothing:
	// bytes of contents, and files plus directories.
	SizeLimit  int64
	InodeLimit int64
	// MaxSizeLimit and MaxInodeLimit bound what a class may ask for, and
	// MinInterval is the shortest that it may; 0 for no bound.
	MaxSizeLimit  int64
	MaxInodeLimit int64
	MinInterval   time.Duration
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
	case c.Classes == nil, c.Providers == nil, c.Mounts == nil, c.Store == nil, c.Observer == nil, c.Logger == nil:
		return errors.New("volume: Classes, Providers, Mounts, Store, Observer and Logger must be set")
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

// Publisher publishes, refreshes and unpublishes volumes.
type Publisher struct {
	Config
	schedule *Scheduler
	releaser *releaser
	rooms    *rooms

	warned  editions[struct{}] // of which the log has the warnings
	reviews reviews
	mu      sync.Mutex
	entries map[string]*entry
	// aside holds the files of records that were set aside, by RecordKey,
	// until their volumes are named.
	aside map[string]string
}

// New validates the configuration and starts nothing.
func New(c Config) (*Publisher, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.SlowAfter = cmp.Or(c.SlowAfter, 5*time.Second)
	p := &Publisher{Config: c, schedule: NewScheduler(), releaser: newReleaser(&c), entries: map[string]*entry{}, aside: map[string]string{}}
	p.rooms = &rooms{budget: c.Budget, charges: map[string]*budget.Charge{}}
	p.releaser.ended = p.formerEnded
	return p, nil
}

// Request is one NodePublishVolume call, checked and parsed.
type Request struct {
	ID             string
	Target         string
	Pod            identity.Pod
	Class          class.Ref
	GID            *int
	SELinuxContext string
	Tokens         identity.Tokens
	// TokensInSecrets tells that kubelet passed the tokens beside the secrets
	// and not in the volume's context.
	TokensInSecrets bool
	Secrets         map[string]secret.String
	// Ignored are the volume attributes that mean nothing, sorted.
	Ignored []string
}

// KeptError is a failure that left a volume with its last good content. The
// caller must not let it look final: kubelet would take the mount away.
type KeptError struct{ Err error }

func (e *KeptError) Error() string { return e.Err.Error() + "; the volume keeps its last good content" }

// Unwrap gives the failure.
func (e *KeptError) Unwrap() error { return e.Err }

// Publish returns nil only if the target is a mounted tmpfs that holds a
// complete payload. For a volume that already does, it hands the new service
// account tokens over and returns at once, whatever work there is on the
// volume: the Scheduler refreshes it, and neither a failed refresh nor one
// that hangs is a reason to hold the pod up.
func (p *Publisher) Publish(ctx context.Context, r Request) error {
	for {
		e := p.entryFor(r.ID)
		if done, err := p.republish(e, r); done {
			return err
		}
		work, end, err := e.begin(ctx)
		if err != nil {
			return fault.New(fault.Of(err), "waiting for other work on volume %s: %w", r.ID, err)
		}
		if e.isGone() { // unpublished while we waited: begin anew
			end()
			continue
		}
		err = p.publish(work, e, r)
		if err != nil && errors.Is(context.Cause(work), errUnpublished) {
			err = fault.New(fault.Canceled, "publishing volume %s: %w", r.ID, errUnpublished)
		}
		p.dropUnpublished(e)
		end()
		p.settleNews(e)
		return err
	}
}

// publish works on one volume under its lock.
func (p *Publisher) publish(ctx context.Context, e *entry, r Request) error {
	if err := sameVolume(e.rec, r); err != nil {
		return err
	}
	info, err := p.Mounts.Inspect(r.Target)
	if err != nil {
		return fault.New(fault.Mount, "inspecting the target path %q: %w", r.Target, err)
	}
	content, err := p.contentOf(r.Target, info)
	if err != nil {
		return err
	}
	if content == complete && e.rec.published() { // since we waited
		e.hand(r)
		return nil
	}
	return p.first(ctx, e, r, content)
}

// sameVolume refuses a request that gives a known id another meaning.
func sameVolume(rec *Record, r Request) error {
	if !rec.published() {
		return nil
	}
	switch {
	case rec.Target != r.Target:
		return fault.New(fault.Conflict, "volume %s is already published at %q, not at %q", r.ID, rec.Target, r.Target)
	case rec.Pod.UID != r.Pod.UID:
		return fault.New(fault.Conflict, "volume %s is already published for pod %s (uid %s), not for %s (uid %s)", r.ID, rec.Pod, rec.Pod.UID, r.Pod, r.Pod.UID)
	case rec.Class != r.Class:
		return fault.New(fault.Conflict, "volume %s is already published from class %s, not from %s", r.ID, rec.Class, r.Class)
	}
	return nil
}

// save writes a live volume's record. A failure is logged and not returned:
// the volume is good, and the next refresh writes the record again.
func (p *Publisher) save(rec *Record) { _ = p.put(rec) }

// put is save, for who wants to know of the failure.
func (p *Publisher) put(rec *Record) error {
	err := p.Store.Put(rec)
	if err != nil {
		p.Logger.Error("saving a volume's record", "volume", rec.ID, "pod", rec.Pod.String(), "error", err)
	}
	return err
}

// entryFor finds the volume or starts to know it.
func (p *Publisher) entryFor(id string) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.entries[id]
	if !ok {
		e = newEntry(&Record{ID: id})
		p.entries[id] = e
	}
	return e
}

// dropUnpublished forgets a volume that never came to hold a payload.
func (p *Publisher) dropUnpublished(e *entry) {
	if !e.rec.published() {
		p.forget(e)
	}
}

// forget takes the volume out of the table. The caller holds its lock.
func (p *Publisher) forget(e *entry) {
	p.schedule.Remove(e.rec.ID)
	if ref, ok := e.leaveClass(); ok {
		p.Classes.Release(ref)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries[e.rec.ID] == e {
		delete(p.entries, e.rec.ID)
	}
}

func (p *Publisher) find(id string) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.entries[id]
}

// Count is the number of volumes that this process keeps.
func (p *Publisher) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.entries)
}

// Failing is the number of volumes whose last refresh failed.
func (p *Publisher) Failing() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range p.entries {
		if e.failing.Load() {
			n++
		}
	}
	return n
}

// Stalled is for how long refreshes have been due of which none was begun, while
// none of the same store ended. It is near zero unless this process is
// broken: a refresh that waits for a store ends at RefreshTimeout.
func (p *Publisher) Stalled() time.Duration { return p.schedule.Stalled(time.Now()) }
