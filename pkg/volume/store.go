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
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/secret"
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
	charges map[string]*budget.Charge // by the record's key

	// buffers are for records: a burst of publishes would leave as many behind,
	// each of them several kilobytes.
	buffers sync.Pool
}

const (
	// largestBuffer is not outgrown by a usual record.
	largestBuffer = 32 << 10

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
		buffers: sync.Pool{New: func() any { return new(bytes.Buffer) }},
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

// Store keeps the records over a restart.
type Store interface {
	// Put writes the record; on an error the earlier one still stands.
	Put(r *Record) error
	// Leave writes the record of a volume that is gone. On an error there is at
	// least the one that the live volume had.
	Leave(r *Record) error
	Delete(r *Record) error
	Load() (Loaded, error)
}

// Put implements Store.
func (s *DirStore) Put(r *Record) error {
	name, done, err := s.classes.use(r.key(), r.LastClass)
	if err != nil {
		if !s.has(r.key()) {
			return s.putError(r, err)
		}
		// Better without the class than not at all: it is needed only where the
		// API server is away.
		s.log.Warn("a volume's record goes without its class", logkey.Volume, r.ID, logkey.Class, r.Class.String(), logkey.Error, err)
		name, done, _ = s.classes.use(r.key(), nil)
	}
	err = s.put(r, name)
	done(err == nil)
	if err != nil {
		return s.putError(r, err)
	}
	return nil
}

func (s *DirStore) put(r *Record, className string) error {
	buffer, _ := s.buffers.Get().(*bytes.Buffer)
	defer s.putBuffer(buffer)
	written := *r
	written.Stamp = clock.At(time.Now(), s.Boot)
	written.mapMoments(written.Stamp.Written)
	parts, err := encodeRecord(&written, className, buffer)
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
	if err := s.dir.replace(fileOf(r.key()), parts); err != nil {
		undo()
		return err
	}
	return nil
}

// charge accounts for the record before it is written. That of a volume which is
// gone is written in any case: the revocation of its credentials goes by it.
func (s *DirStore) charge(r *Record, cost int64) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.key()
	c, had := s.charges[key]
	if !had {
		c, err = s.budget.Acquire(s.owner(r), budget.Records, cost)
		if err != nil {
			return nil, err
		}
		s.charges[key] = c
		return func() { s.release(key) }, nil
	}
	before := c.Bytes()
	if r.Leaving {
		c.Set(cost)
	} else if err := c.Resize(cost); err != nil {
		return nil, err
	}
	return func() { c.Set(before) }, nil
}

// Leave implements Store. The record is renamed first, which takes no room, so
// that it is never lost and never there twice.
func (s *DirStore) Leave(r *Record) error {
	from, to := r.ID, r.key()
	if err := s.dir.rename(fileOf(from), fileOf(to)); err == nil {
		s.mu.Lock()
		s.charges[to].Release()
		s.charges[to] = s.charges[from]
		delete(s.charges, from)
		s.mu.Unlock()
		s.classes.rename(from, to)
	}
	return s.Put(r)
}

func (s *DirStore) owner(r *Record) budget.Owner {
	return budget.Owner{Namespace: r.Pod.Namespace, Volume: r.ID}
}

func (s *DirStore) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.charges[key]
	return ok
}

func (s *DirStore) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charges[key].Release()
	delete(s.charges, key)
}

func (s *DirStore) putBuffer(buffer *bytes.Buffer) {
	if buffer.Cap() <= largestBuffer {
		buffer.Reset()
		s.buffers.Put(buffer)
	}
}

func (s *DirStore) putError(r *Record, err error) error {
	if f := fault.Of(err); f == fault.TooLarge || f == fault.Exhausted {
		return fmt.Errorf("saving the record of volume %s: %w", r.ID, err)
	}
	return fault.New(fault.State, "saving the record of volume %s in the state directory %s: %w", r.ID, s.dir.file.Name(), err).
		WithHint("the driver needs room there to go on after a restart; it keeps one small file per volume: %s", setting.Name("--state-size-limit"))
}

// Delete implements Store. A record that is not there is no error.
func (s *DirStore) Delete(r *Record) error {
	key := r.key()
	if err := s.dir.remove(fileOf(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.State, "removing the record of volume %s: %w", r.ID, err)
	}
	s.release(key)
	s.classes.forget(key)
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
			if records, err := s.load(name); err != nil {
				out.SetAside = append(out.SetAside, s.setAside(name, err))
			} else {
				out.Records = append(out.Records, records...)
			}
		}
	}
	s.classes.sweep(classes)
	for _, name := range s.pruneSetAside(aside) {
		if record := strings.TrimSuffix(name, corruptSuffix); !there[record] {
			out.SetAside = append(out.SetAside, BadRecord{Key: keyOf(record), File: s.dir.path(name)})
		}
	}
	return out, nil
}

// errTooLong is why a file of the state is not read.
var errTooLong = fmt.Errorf("%w: it is longer than any that this driver writes", errCorrupt)

// load gives the record of a file or, of one that an earlier version wrote, the
// records that it is today.
func (s *DirStore) load(name string) ([]*Record, error) {
	data, err := s.dir.read(name)
	if err != nil {
		return nil, err
	}
	r, w, err := decodeRecord(data)
	if err != nil {
		return nil, err
	}
	switch name {
	case fileOf(r.key()):
	case fileOf(r.leaving().key()): // a crash came before it was written
		r.Leaving = true
	case fileOf(r.ID): // an earlier version wrote it
	default:
		return nil, fmt.Errorf("%w: it is of another volume", errCorrupt)
	}
	r.mapMoments(clock.At(time.Now(), s.Boot).Restored(r.Stamp))
	if r.LastClass, err = s.classes.loaded(r.key(), w.ClassFile, w.LastClass); err != nil {
		s.log.Error("a volume goes on without the class that it had", logkey.Volume, r.ID, logkey.Class, r.Class.String(), logkey.Error, err)
	}
	s.mu.Lock()
	s.charges[r.key()].Release() // of a conversion that a crash cut off
	s.charges[r.key()] = s.budget.Adopt(s.owner(r), budget.Records, stateCost(len(data)))
	s.mu.Unlock()
	return s.convert(name, r, w.Former), nil
}

// convert brings what an earlier version wrote into today's form. There, the
// record of a volume that is gone had the name of a live one's, and a record could
// name other providers that still had credentials of the volume: each of those is
// now a revocation.
func (s *DirStore) convert(name string, r *Record, former []formerProvider) []*Record {
	if name == fileOf(r.key()) && len(former) == 0 {
		return []*Record{r}
	}
	var out []*Record
	if r.Provider != "" || !r.Leaving {
		out = append(out, r)
	}
	for _, f := range former {
		l := r.leaving()
		l.Provider, l.ProviderState = f.Provider, secret.NewBytes(f.State)
		out = append(out, l)
	}
	for i := range out { // the file that is read comes last: after a crash it is converted again
		l := out[len(out)-1-i]
		if err := s.Put(l); err != nil {
			s.log.Error("converting the record of an earlier version", logkey.Volume, l.ID, logkey.Provider, l.Provider, logkey.Error, err)
			return out
		}
	}
	if r.Leaving {
		_ = s.dir.remove(name)
	}
	return out
}

func keyOf(name string) string { return strings.TrimSuffix(name, recordSuffix) }
