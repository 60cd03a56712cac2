package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
)

// Classes reads SecretProviderClasses, and watches those in use.
type Classes interface {
	Get(ctx context.Context, ref class.Ref) (*class.Class, error)
	// Retain and Release are counted. While a class is retained, its edits are
	// noticed, and Get returns it although the API server does not answer.
	Retain(ref class.Ref)
	Release(ref class.Ref)
}

// Config has the parts and settings of a Manager. Budget, Follower, Tracer and the
// bounds of classes may be zero.
type Config struct {
	limits.Limits
	Classes   Classes
	Providers Providers
	Renderer  Renderer
	Mounts    target.Mounts
	Store     Store
	Observer  Observer
	Logger    *slog.Logger

	// Strict refuses a class that has warnings.
	Strict bool
	// Budget is charged for the contents of the volumes; nil for no limit.
	Budget *budget.Budget
	// LastGoodAge is the greatest age of secrets in memory with which a new pod
	// starts while the store is unavailable, if its class allows that.
	LastGoodAge time.Duration
	// Workers bounds the concurrent refreshes of each store, not counting the first
	// of each Kubernetes namespace.
	Workers int
	// Follower is called with each payload that is in a volume; nil for none.
	Follower Follower
	// Tracer traces publishes, refreshes and releases; nil for none.
	Tracer *trace.Tracer
	// StoreReturned receives when a store answers again that was not asked for a while;
	// nil for never.
	StoreReturned <-chan struct{}
	// SlowAfter is how long a first publish waits for the store until the observers
	// get an outcome of the kind Waiting; 0 means 5 s.
	SlowAfter time.Duration
	// RefreshTimeout bounds one refresh. A publish is bounded by its caller.
	RefreshTimeout time.Duration
	// ReleaseTimeout bounds one attempt to revoke a gone volume's credentials.
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

// save writes the record of a live volume. It logs a failure: the volume works
// without, and the next refresh writes the record again.
func (c *Config) save(rec *Record) error {
	err := c.Store.Put(rec)
	if err != nil {
		c.Logger.Error("saving a volume's record", logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
	}
	return err
}

// targets works on the target paths of volumes.
func (c *Config) targets() target.Targets {
	return target.Targets{Mounts: c.Mounts, Logger: c.Logger}
}

// saveFirst writes the record of a new volume. It returns a failure, because the
// next process would not know the credentials. If the volume had a payload that this
// process did not know, saveFirst only logs a failure: the pod runs already.
func (c *Config) saveFirst(rec *Record, found target.Content) error {
	if found == target.Complete {
		_ = c.save(rec)
		return nil
	}
	return c.Store.Put(rec)
}

// saveLeaving records that a volume is gone. If that fails, the next process finds the
// record of the live volume, and no mount.
func (c *Config) saveLeaving(rec *Record) {
	if err := c.Store.Leave(rec); err != nil {
		c.Logger.Error("saving a volume's record", logkey.Volume, rec.ID, logkey.Pod, rec.Pod.String(), logkey.Error, err)
	}
}

func (c *Config) mountOptions(q *Request, of *class.Class) tmpfs.Options {
	return c.MountOptions(of, q.GID, q.SELinuxContext)
}
