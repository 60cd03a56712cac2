package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// DirStore keeps one file per volume in a directory that only root can read.
// A write is a rename, so a file is the old record or the new one. What
// cannot be read is set aside under the ending .corrupt, for a person to look
// at, and never stops a start.
type DirStore struct {
	dir string
	log *slog.Logger
}

const (
	recordSuffix  = ".json"
	partialSuffix = ".partial"
	corruptSuffix = ".corrupt"
)

// NewDirStore makes the directory where it does not exist.
func NewDirStore(dir string, log *slog.Logger) (*DirStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.State, "creating the state directory: %w", err)
	}
	return &DirStore{dir, log}, nil
}

// file is named by a hash: a volume id may be long and hold any character.
func (s *DirStore) file(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])+recordSuffix)
}

// Put writes the record; on an error the earlier one still stands.
func (s *DirStore) Put(r *Record) error {
	data, err := encodeRecord(r)
	if err != nil {
		return err
	}
	file := s.file(r.ID)
	partial := file + partialSuffix
	if err := writeFile(partial, data); err != nil {
		_ = os.Remove(partial)
		return s.putError(r, err)
	}
	if err := os.Rename(partial, file); err != nil {
		return s.putError(r, err)
	}
	return nil
}

func (s *DirStore) putError(r *Record, err error) error {
	return fault.New(fault.State, "saving the record of volume %s in the state directory %s: %w", r.ID, s.dir, err).
		WithHint("the driver needs room there to go on after a restart; it keeps one small file per volume")
}

// writeFile leaves out fsync: the directory is a tmpfs, and is meant to be
// gone after a reboot, as the volumes are.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// Delete forgets a volume; an unknown one is no error.
func (s *DirStore) Delete(id string) error {
	if err := os.Remove(s.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.State, "removing the record of volume %s: %w", id, err)
	}
	return nil
}

// Load reads every record. It fails only if the directory cannot be listed.
func (s *DirStore) Load() ([]*Record, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fault.New(fault.State, "listing the state directory: %w", err)
	}
	var records []*Record
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		switch {
		case strings.HasSuffix(e.Name(), partialSuffix):
			_ = os.Remove(path) // a write that a crash cut off; the old record stands beside it
		case strings.HasSuffix(e.Name(), recordSuffix):
			if r := s.load(path); r != nil {
				records = append(records, r)
			}
		}
	}
	return records, nil
}

func (s *DirStore) load(path string) *Record {
	data, err := os.ReadFile(path)
	if err == nil {
		var r *Record
		if r, err = decodeRecord(data); err == nil && s.file(r.ID) != path {
			err = fmt.Errorf("%w: it is of another volume", errCorrupt)
		}
		if err == nil {
			return r
		}
	}
	s.log.Error("setting a record aside; kubelet's next republish makes a new one", "file", path, "aside", path+corruptSuffix, "error", err)
	if err := os.Rename(path, path+corruptSuffix); err != nil {
		s.log.Error("setting a record aside failed", "file", path, "error", err)
	}
	return nil
}
