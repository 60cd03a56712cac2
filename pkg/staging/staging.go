package staging

import (
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Stages makes stages inside mounted volumes.
type Stages struct {
	Mounts *tmpfs.Mounter
}

// Make makes one more stage in the volume at target. Calls for one target must not run at the same
// time.
func (s Stages) Make(target string, o tmpfs.Options) (provider.Stage, error) {
	made, err := tmpfs.Stages(s).Make(target, o)
	if err != nil {
		return nil, err
	}
	return stage{made}, nil
}

// Sweep removes the stages that a crash left in the volume at target.
func (s Stages) Sweep(target string) error { return tmpfs.Stages(s).Sweep(target) }

type stage struct{ *tmpfs.Stage }

// Files implements provider.Stage.
func (s stage) Files(most int, bytes int64) ([]provider.File, error) {
	return read(s.Root(), most, bytes)
}
