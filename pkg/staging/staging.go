package staging

import (
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Stages makes places to write to inside mounted volumes.
type Stages struct {
	Mounts *tmpfs.Mounter
}

// Make gives the volume at target one more place. Calls for one target must
// not run at the same time.
func (s Stages) Make(target string, o tmpfs.Options) (provider.Stage, error) {
	made, err := s.Mounts.Stage(target, o)
	if err != nil {
		return nil, err
	}
	return stage{made}, nil
}

// Sweep takes away what a crash has left in the volume at target.
func (s Stages) Sweep(target string) error { return s.Mounts.Sweep(target) }

type stage struct{ *tmpfs.Stage }

// Files implements provider.Stage.
func (s stage) Files(most int, bytes int64) ([]provider.File, error) {
	return read(s.Root(), most, bytes)
}
