package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// DefaultStateSize is the size of the state's tmpfs in bytes: a node runs a few
// hundred volumes at the most, and each has one record.
const (
	DefaultStateSize = 64 << 20
	leastState       = 1 << 20
)

// openState mounts the state's tmpfs, for root alone. The mount outlives this
// process and its container, as the volumes do, and a reboot takes both. One
// that a driver before us mounted is given the size.
func openState(dir string, size int64, m *tmpfs.Mounter, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the state directory: %w", err)
	}
	inodes := size / volume.StateUnit
	err := m.Mount(dir, tmpfs.Options{Size: size, Inodes: inodes, Mode: 0o700})
	var taken *tmpfs.ConflictError
	if errors.As(err, &taken) {
		if taken.Info.FSType != "tmpfs" {
			return fmt.Errorf("the state directory %q is on %s from %q: it must be a tmpfs, for nothing secret may reach a disk; give another --state-dir", dir, taken.Info.FSType, taken.Info.Source)
		}
		if err = nil; taken.Info.Ours {
			if err := m.Resize(dir, size, inodes); err != nil {
				log.Warn("the state keeps the size that it has", "dir", dir, "error", err)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("mounting the state directory: %w", err)
	}
	return nil
}

func openRecords(dir string, b *budget.Budget, log *slog.Logger) (*volume.DirStore, error) {
	store, err := volume.NewDirStore(filepath.Join(dir, "volumes"), log)
	if err == nil {
		store.Charge(b)
	}
	return store, err
}

const versionKeySize = 32

// versionKey keys the versions of objects which the store does not number. It
// lives as long as the volumes do, so that versions stay the same over a
// restart of the driver.
func versionKey(dir string) (secret.Bytes, error) {
	file := filepath.Join(dir, "version.key")
	if key, err := os.ReadFile(file); err == nil && len(key) == versionKeySize {
		return secret.NewBytes(key), nil
	}
	key := make([]byte, versionKeySize)
	if _, err := rand.Read(key); err != nil {
		return secret.Bytes{}, fmt.Errorf("making the version key: %w", err)
	}
	if err := os.WriteFile(file, key, 0o600); err != nil {
		return secret.Bytes{}, fmt.Errorf("keeping the version key: %w", err)
	}
	return secret.NewBytes(key), nil
}
