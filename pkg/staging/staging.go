package staging

import (
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Stage is a stage of which the files can be read. It implements provider.Stage.
type Stage struct{ *tmpfs.Stage }

// Files implements provider.Stage.
func (s Stage) Files(most int, bytes int64) ([]provider.File, error) {
	return read(s.Root(), most, bytes)
}
