package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// The limits of the state's tmpfs: a node runs a few hundred volumes at the
// most, and each has one record.
const (
	stateSize   = 64 << 20
	stateInodes = 8192
)

// openState mounts the state's tmpfs, for root alone, and opens the store in
// it. The mount outlives this process and its container, as the volumes do,
// and a reboot takes both. One that a driver before us mounted is used as it
// is.
func openState(dir string, m *tmpfs.Mounter, log *slog.Logger) (*volume.DirStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the state directory: %w", err)
	}
	err := m.Mount(dir, tmpfs.Options{Size: stateSize, Inodes: stateInodes, Mode: 0o700})
	var taken *tmpfs.ConflictError
	if errors.As(err, &taken) {
		if taken.Info.FSType != "tmpfs" {
			return nil, fmt.Errorf("the state directory %q is on %s from %q: it must be a tmpfs, for nothing secret may reach a disk; give another --state-dir", dir, taken.Info.FSType, taken.Info.Source)
		}
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("mounting the state directory: %w", err)
	}
	return volume.NewDirStore(filepath.Join(dir, "volumes"), log)
}
