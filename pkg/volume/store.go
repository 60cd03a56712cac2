package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// DirStore keeps one file per volume in a directory that only root can read.
// A write is a rename, so a file is the old record or the new one. What
// cannot be read is set aside under the ending .corrupt, for a person to look
// at, and never stops a start; the next write makes a new record beside it.
type DirStore struct {
	dir string
	log *slog.Logger
	// rooms are buffers for records: a burst of publishes would leave as many
	// behind, each of them several kilobytes.
	rooms sync.Pool
}

const (
	// largestRoom is not outgrown by a usual record.
	largestRoom = 32 << 10

	recordSuffix  = ".json"
	partialSuffix = ".partial"
	corruptSuffix = ".corrupt"
)

// NewDirStore makes the directory where it does not exist.
func NewDirStore(dir string, log *slog.Logger) (*DirStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.State, "creating the state directory: %w", err)
	}
	return &DirStore{dir: dir, log: log, rooms: sync.Pool{New: func() any { return new(bytes.Buffer) }}}, nil
}

// Loaded is what an earlier process has left.
type Loaded struct {
	Records []*Record
	// SetAside are the records that could not be read, now or at an earlier
	// start, and in whose place none has been written since.
	SetAside []BadRecord
}

// BadRecord is a record that could not be read.
type BadRecord struct {
	// Key is the RecordKey of the volume, all that is known of it.
	Key string
	// File is where a person finds it.
	File string
	// Err is why it was set aside; nil if that was at an earlier start.
	Err error
}

// RecordKey names a volume's record. It is a hash: a volume id may be long
// and hold any character.
func RecordKey(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

func (s *DirStore) file(id string) string { return filepath.Join(s.dir, RecordKey(id)+recordSuffix) }

// Put writes the record; on an error the earlier one still stands.
func (s *DirStore) Put(r *Record) error {
	room, _ := s.rooms.Get().(*bytes.Buffer)
	defer s.vacate(room)
	parts, err := encodeRecord(r, room)
	if err != nil {
		return err
	}
	file := s.file(r.ID)
	partial := file + partialSuffix
	if err := writeFile(partial, parts); err != nil {
		_ = os.Remove(partial)
		return s.putError(r, err)
	}
	// os.Rename would look at the target first.
	if err := unix.Rename(partial, file); err != nil {
		return s.putError(r, &os.LinkError{Op: "rename", Old: partial, New: file, Err: err})
	}
	return nil
}

// vacate takes a buffer back.
func (s *DirStore) vacate(room *bytes.Buffer) {
	if room.Cap() <= largestRoom {
		room.Reset()
		s.rooms.Put(room)
	}
}

func (s *DirStore) putError(r *Record, err error) error {
	return fault.New(fault.State, "saving the record of volume %s in the state directory %s: %w", r.ID, s.dir, err).
		WithHint("the driver needs room there to go on after a restart; it keeps one small file per volume")
}

// writeFile leaves out fsync: the directory is a tmpfs, and is meant to be
// gone after a reboot, as the volumes are. An os.File would first be offered
// to the runtime's poller, which takes no regular files: five system calls
// more than the work itself, in the way of every publish.
func writeFile(path string, parts [][]byte) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_CLOEXEC
	fd, err := unix.Open(path, flags, 0o600)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	for err == nil && len(parts) > 0 {
		var n int
		if n, err = unix.Writev(fd, parts); err == unix.EINTR {
			n, err = 0, nil
		}
		parts = after(parts, max(n, 0))
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// after is what is left of the parts once n bytes are written.
func after(parts [][]byte, n int) [][]byte {
	for len(parts) > 0 && n >= len(parts[0]) {
		n -= len(parts[0])
		parts = parts[1:]
	}
	if n > 0 {
		parts[0] = parts[0][n:]
	}
	return parts
}

// Delete forgets a volume; an unknown one is no error.
func (s *DirStore) Delete(id string) error {
	if err := os.Remove(s.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.State, "removing the record of volume %s: %w", id, err)
	}
	return nil
}

// Load reads every record. It fails only if the directory cannot be listed.
func (s *DirStore) Load() (Loaded, error) {
	var out Loaded
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return out, fault.New(fault.State, "listing the state directory: %w", err)
	}
	var aside []string
	there := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		switch {
		case strings.HasSuffix(e.Name(), partialSuffix):
			_ = os.Remove(path) // a write that a crash cut off; the old record stands beside it
		case strings.HasSuffix(e.Name(), corruptSuffix):
			aside = append(aside, path)
		case strings.HasSuffix(e.Name(), recordSuffix):
			there[path] = true
			if r, err := s.load(path); err != nil {
				out.SetAside = append(out.SetAside, s.setAside(path, err))
			} else {
				out.Records = append(out.Records, r)
			}
		}
	}
	for _, path := range aside {
		if record := strings.TrimSuffix(path, corruptSuffix); !there[record] {
			out.SetAside = append(out.SetAside, BadRecord{Key: keyOf(record), File: path})
		}
	}
	return out, nil
}

func (s *DirStore) load(path string) (*Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(data)
	if err == nil && s.file(r.ID) != path {
		err = fmt.Errorf("%w: it is of another volume", errCorrupt)
	}
	return r, err
}

func (s *DirStore) setAside(path string, why error) BadRecord {
	bad := BadRecord{Key: keyOf(path), File: path + corruptSuffix, Err: why}
	s.log.Error("setting a record aside; kubelet's next republish makes a new one", "file", path, "aside", bad.File, "error", why)
	if err := os.Rename(path, bad.File); err != nil {
		s.log.Error("setting a record aside failed", "file", path, "error", err)
		bad.File = path
	}
	return bad
}

func keyOf(path string) string { return strings.TrimSuffix(filepath.Base(path), recordSuffix) }
