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

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// DirStore keeps one file per volume, and one per version of a class, in a
// directory that only root can read. A write is a rename, so a file is the old
// record or the new one. In place of what cannot be read there is a description
// of it under the ending .corrupt, for a person to look at. It never stops a
// start; the next write makes a new record beside it.
type DirStore struct {
	dir     storeDir
	log     *slog.Logger
	budget  *budget.Budget
	classes *classFiles
	// Boot, where it is set, has the moments on record outlive a step of the wall
	// clock over a restart.
	Boot clock.Boot

	mu      sync.Mutex
	charges map[string]*budget.Charge // of the records, by volume

	// rooms are buffers for records: a burst of publishes would leave as many
	// behind, each of them several kilobytes.
	rooms sync.Pool
}

const (
	// largestRoom is not outgrown by a usual record.
	largestRoom = 32 << 10

	// maxRecord bounds what one record may take, in bytes: the tokens of a pod,
	// the versions of a thousand objects, and what the provider keeps.
	maxRecord = 4 << 20

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
	return &DirStore{
		dir: storeDir{dir}, log: log, classes: newClassFiles(storeDir{dir}), charges: map[string]*budget.Charge{},
		rooms: sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
}

// Charge has the budget account for the files. It is called before Load.
func (s *DirStore) Charge(b *budget.Budget) { s.budget, s.classes.budget = b, b }

// StateUnit is what one file takes at the least of the state, in bytes: the tmpfs
// that the driver mounts for it has an inode for each, so neither bytes nor
// inodes run out before the budget says so.
const StateUnit = 8 << 10

func stateCost(bytes int) int64 {
	return max(1, (int64(bytes)+StateUnit-1)/StateUnit) * StateUnit
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
	name, done, err := s.classes.use(r.ID, r.LastClass)
	if err != nil {
		if !s.has(r.ID) {
			return s.putError(r, err)
		}
		// Better without the class than not at all: it is needed only where the
		// API server is away.
		s.log.Warn("a volume's record goes without its class", "volume", r.ID, "class", r.Class.String(), "error", err)
		name, done, _ = s.classes.use(r.ID, nil)
	}
	err = s.put(r, name)
	done(err == nil)
	if err != nil {
		return s.putError(r, err)
	}
	return nil
}

func (s *DirStore) put(r *Record, className string) error {
	room, _ := s.rooms.Get().(*bytes.Buffer)
	defer s.vacate(room)
	written := *r
	written.Stamp = clock.At(time.Now(), s.Boot)
	written.mapMoments(written.Stamp.Written)
	parts, err := encodeRecord(&written, className, room)
	if err != nil {
		return err
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > maxRecord {
		return fault.New(fault.TooLarge, "it is %d bytes, more than %d: what the provider keeps for the volume, the pod's tokens and the list of objects are too much", size, maxRecord)
	}
	undo, err := s.charge(r, stateCost(size))
	if err != nil {
		return err
	}
	if err := s.dir.replace(fileOf(r.ID), parts); err != nil {
		undo()
		return err
	}
	return nil
}

// charge accounts for the record before it is written. One of a volume that
// leaves is written in any case: the release of its credentials goes by it.
func (s *DirStore) charge(r *Record, cost int64) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, had := s.charges[r.ID]
	if !had {
		c, err = s.budget.Acquire(s.owner(r), budget.Records, cost)
		if err != nil {
			return nil, err
		}
		s.charges[r.ID] = c
		return func() { s.release(r.ID) }, nil
	}
	before := c.Bytes()
	if r.Leaving {
		c.Set(cost)
	} else if err := c.Resize(cost); err != nil {
		return nil, err
	}
	return func() { c.Set(before) }, nil
}

func (s *DirStore) owner(r *Record) budget.Owner {
	return budget.Owner{Namespace: r.Pod.Namespace, Volume: r.ID}
}

func (s *DirStore) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.charges[id]
	return ok
}

func (s *DirStore) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charges[id].Release()
	delete(s.charges, id)
}

// vacate takes a buffer back.
func (s *DirStore) vacate(room *bytes.Buffer) {
	if room.Cap() <= largestRoom {
		room.Reset()
		s.rooms.Put(room)
	}
}

func (s *DirStore) putError(r *Record, err error) error {
	if f := fault.Of(err); f == fault.TooLarge || f == fault.Exhausted {
		return fmt.Errorf("saving the record of volume %s: %w", r.ID, err)
	}
	return fault.New(fault.State, "saving the record of volume %s in the state directory %s: %w", r.ID, s.dir.file.Name(), err).
		WithHint("the driver needs room there to go on after a restart; it keeps one small file per volume: %s", setting.Name("--state-size-limit"))
}

// Delete forgets a volume; an unknown one is no error.
func (s *DirStore) Delete(id string) error {
	if err := s.dir.remove(fileOf(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.State, "removing the record of volume %s: %w", id, err)
	}
	s.release(id)
	s.classes.forget(id)
	return nil
}

// Load reads every record, one by one. It fails only if the directory cannot be
// listed.
func (s *DirStore) Load() (Loaded, error) {
	var out Loaded
	names, err := s.dir.names()
	if err != nil {
		return out, fault.New(fault.State, "listing the state directory: %w", err)
	}
	var aside, classes []string
	there := map[string]bool{}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, partialSuffix):
			_ = s.dir.remove(name) // a write that a crash cut off; the old record stands beside it
		case strings.HasSuffix(name, corruptSuffix):
			aside = append(aside, name)
		case strings.HasSuffix(name, classSuffix):
			classes = append(classes, name)
		case strings.HasSuffix(name, recordSuffix):
			there[name] = true
			if r, err := s.load(name); err != nil {
				out.SetAside = append(out.SetAside, s.setAside(name, err))
			} else {
				out.Records = append(out.Records, r)
			}
		}
	}
	s.classes.sweep(classes)
	for _, name := range s.keepAside(aside) {
		if record := strings.TrimSuffix(name, corruptSuffix); !there[record] {
			out.SetAside = append(out.SetAside, BadRecord{Key: keyOf(record), File: s.dir.path(name)})
		}
	}
	return out, nil
}

// errTooLong is why a file of the state is not read.
var errTooLong = fmt.Errorf("%w: it is longer than any that this driver writes", errCorrupt)

func (s *DirStore) load(name string) (*Record, error) {
	data, err := s.dir.read(name)
	if err != nil {
		return nil, err
	}
	r, named, err := decodeRecord(data)
	if err == nil && fileOf(r.ID) != name {
		err = fmt.Errorf("%w: it is of another volume", errCorrupt)
	}
	if err != nil {
		return nil, err
	}
	r.mapMoments(clock.At(time.Now(), s.Boot).Restored(r.Stamp))
	if r.LastClass, err = s.classes.loaded(r.ID, named.file, named.within); err != nil {
		s.log.Error("a volume goes on without the class that it had", "volume", r.ID, "class", r.Class.String(), "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charges[r.ID] = s.budget.Adopt(s.owner(r), budget.Records, stateCost(len(data)))
	return r, nil
}

func keyOf(name string) string { return strings.TrimSuffix(name, recordSuffix) }
