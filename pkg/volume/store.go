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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// DirStore keeps one file per volume in a directory that only root can read.
// A write is a rename, so a file is the old record or the new one. What
// cannot be read is set aside under the ending .corrupt, for a person to look
// at, and never stops a start; the next write makes a new record beside it.
type DirStore struct {
	dir storeDir
	log *slog.Logger
	// Boot, where it is set, has the moments on record outlive a step of the wall
	// clock over a restart.
	Boot clock.Boot
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
	f, err := os.Open(dir)
	if err != nil {
		return nil, fault.New(fault.State, "opening the state directory: %w", err)
	}
	return OpenDirStore(f, log), nil
}

// OpenDirStore uses an open directory, which the caller has made sure is in
// memory. The file is the store's from now on.
func OpenDirStore(dir *os.File, log *slog.Logger) *DirStore {
	return &DirStore{dir: storeDir{dir}, log: log, rooms: sync.Pool{New: func() any { return new(bytes.Buffer) }}}
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

func fileOf(id string) string { return RecordKey(id) + recordSuffix }

// Put writes the record; on an error the earlier one still stands.
func (s *DirStore) Put(r *Record) error {
	room, _ := s.rooms.Get().(*bytes.Buffer)
	defer s.vacate(room)
	written := *r
	written.Stamp = clock.At(time.Now(), s.Boot)
	written.mapMoments(written.Stamp.Written)
	parts, err := encodeRecord(&written, room)
	if err != nil {
		return err
	}
	file := fileOf(r.ID)
	partial := file + partialSuffix
	if err := s.dir.write(partial, parts); err != nil {
		_ = s.dir.remove(partial)
		return s.putError(r, err)
	}
	if err := s.dir.rename(partial, file); err != nil {
		return s.putError(r, err)
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
	return fault.New(fault.State, "saving the record of volume %s in the state directory %s: %w", r.ID, s.dir.file.Name(), err).
		WithHint("the driver needs room there to go on after a restart; it keeps one small file per volume")
}

// Delete forgets a volume; an unknown one is no error.
func (s *DirStore) Delete(id string) error {
	if err := s.dir.remove(fileOf(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.State, "removing the record of volume %s: %w", id, err)
	}
	return nil
}

// Load reads every record. It fails only if the directory cannot be listed.
func (s *DirStore) Load() (Loaded, error) {
	var out Loaded
	names, err := s.dir.names()
	if err != nil {
		return out, fault.New(fault.State, "listing the state directory: %w", err)
	}
	var aside []string
	there := map[string]bool{}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, partialSuffix):
			_ = s.dir.remove(name) // a write that a crash cut off; the old record stands beside it
		case strings.HasSuffix(name, corruptSuffix):
			aside = append(aside, name)
		case strings.HasSuffix(name, recordSuffix):
			there[name] = true
			if r, err := s.load(name); err != nil {
				out.SetAside = append(out.SetAside, s.setAside(name, err))
			} else {
				out.Records = append(out.Records, r)
			}
		}
	}
	for _, name := range aside {
		if record := strings.TrimSuffix(name, corruptSuffix); !there[record] {
			out.SetAside = append(out.SetAside, BadRecord{Key: keyOf(record), File: s.dir.path(name)})
		}
	}
	return out, nil
}

func (s *DirStore) load(name string) (*Record, error) {
	data, err := s.dir.read(name)
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(data)
	if err != nil {
		return nil, err
	}
	if fileOf(r.ID) != name {
		return nil, fmt.Errorf("%w: it is of another volume", errCorrupt)
	}
	r.mapMoments(clock.At(time.Now(), s.Boot).Restored(r.Stamp))
	r.AsOf = r.AsOf.Round(0) // it is told to people, and nothing waits for it
	return r, nil
}

func (s *DirStore) setAside(name string, why error) BadRecord {
	file := s.dir.path(name)
	bad := BadRecord{Key: keyOf(name), File: file + corruptSuffix, Err: why}
	s.log.Error("setting a record aside; kubelet's next republish makes a new one", "file", file, "aside", bad.File, "error", why)
	if err := s.dir.rename(name, name+corruptSuffix); err != nil {
		s.log.Error("setting a record aside failed", "file", file, "error", err)
		bad.File = file
	}
	return bad
}

func keyOf(name string) string { return strings.TrimSuffix(name, recordSuffix) }
