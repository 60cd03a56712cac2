// Package statedir keeps the records of volumes in files of a directory in memory,
// so that the next process of the driver can continue with them.
package statedir

import (
	"bytes"
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
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Store implements volume.Store. It keeps one file for each volume and one for
// each version of a class, in a directory that only root can read.
//
// Put writes a new file and renames it, so a reader finds the old record or the
// new one. Load replaces a record that it cannot read by a description of it,
// with the suffix .corrupt, and continues: a bad record never stops a start.
type Store struct {
	dir     directory
	log     *slog.Logger
	budget  *budget.Budget
	classes *classFiles
	// Boot returns the time since the boot, and the id of the boot. With it, the
	// times in records stay right if the wall clock is set during a restart.
	Boot clock.Boot

	mu      sync.Mutex
	charges map[string]*budget.Charge // by the record's key

	// buffers are reused: without that, a burst of publishes would leave one of
	// several kilobytes behind for each volume.
	buffers sync.Pool
}

const (
	// largestBuffer is the largest buffer that is reused, in bytes. A usual record
	// fits.
	largestBuffer = 32 << 10

	// maxRecord is the largest record in bytes: the tokens of a pod, the versions
	// of a thousand objects, and the provider's state.
	maxRecord = 4 << 20

	recordSuffix  = ".json"
	partialSuffix = ".partial"
	corruptSuffix = ".corrupt"
)

// New creates the directory if it does not exist, and opens it.
func New(dir string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.State, "creating the state directory: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fault.New(fault.State, "opening the state directory: %w", err)
	}
	return Open(f, log), nil
}

// Open uses an open directory. The caller has checked that it is in memory, and
// leaves the file to the Store.
func Open(dir *os.File, log *slog.Logger) *Store {
	return &Store{
		dir: directory{dir}, log: log, classes: newClassFiles(directory{dir}), charges: map[string]*budget.Charge{},
		buffers: sync.Pool{New: func() any { return new(bytes.Buffer) }},
	}
}

// Charge sets the budget that the files are charged to. Call it before Load.
func (s *Store) Charge(b *budget.Budget) { s.budget, s.classes.budget = b, b }

// Unit is the least that one file is charged, in bytes. The driver's tmpfs has one
// inode for each Unit, so that the budget is used up before the bytes or the inodes
// are.
const Unit = 8 << 10

func stateCost(bytes int) int64 {
	return max(1, (int64(bytes)+Unit-1)/Unit) * Unit
}

func fileOf(id string) string { return volume.RecordKey(id) + recordSuffix }

// Put implements volume.Store.
func (s *Store) Put(r *volume.Record) error {
	name, done, err := s.classes.use(r.Key(), r.LastClass)
	if err != nil {
		if !s.has(r.Key()) {
			return s.putError(r, err)
		}
		// The volume needs the class in its record only while the API server is
		// away.
		s.log.Warn("saving a volume's record without its class", logkey.Volume, r.ID, logkey.Class, r.Class.String(), logkey.Error, err)
		name, done, _ = s.classes.use(r.Key(), nil)
	}
	err = s.put(r, name)
	done(err == nil)
	if err != nil {
		return s.putError(r, err)
	}
	return nil
}

func (s *Store) put(r *volume.Record, className string) error {
	buffer, _ := s.buffers.Get().(*bytes.Buffer)
	defer s.putBuffer(buffer)
	written := *r
	written.Stamp = clock.At(time.Now(), s.Boot)
	written.MapMoments(written.Stamp.Written)
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
	if err := s.dir.replace(fileOf(r.Key()), parts); err != nil {
		undo()
		return err
	}
	return nil
}

// charge charges the budget before the record is written. The record of a pending
// revocation is written even if it exceeds the budget.
func (s *Store) charge(r *volume.Record, cost int64) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.Key()
	c, had := s.charges[key]
	if !had {
		c, err = s.budget.Acquire(r.Owner(), budget.Records, cost)
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

// Leave implements volume.Store. It renames the record first, which needs no room:
// the record is neither lost nor there twice.
func (s *Store) Leave(r *volume.Record) error {
	from, to := r.ID, r.Key()
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

func (s *Store) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.charges[key]
	return ok
}

func (s *Store) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charges[key].Release()
	delete(s.charges, key)
}

func (s *Store) putBuffer(buffer *bytes.Buffer) {
	if buffer.Cap() <= largestBuffer {
		buffer.Reset()
		s.buffers.Put(buffer)
	}
}

func (s *Store) putError(r *volume.Record, err error) error {
	if f := fault.Of(err); f == fault.TooLarge || f == fault.Exhausted {
		return fmt.Errorf("saving the record of volume %s: %w", r.ID, err)
	}
	return fault.New(fault.State, "saving the record of volume %s in the state directory %s: %w", r.ID, s.dir.file.Name(), err).
		WithHint("the driver needs room there to go on after a restart; it keeps one small file per volume: %s", setting.Name("--state-size-limit"))
}

// Delete implements volume.Store. It returns no error if there is no such record.
func (s *Store) Delete(r *volume.Record) error {
	key := r.Key()
	if err := s.dir.remove(fileOf(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.State, "removing the record of volume %s: %w", r.ID, err)
	}
	s.release(key)
	s.classes.forget(key)
	return nil
}

// Load implements volume.Store. It fails only if the directory cannot be listed.
func (s *Store) Load() (volume.Loaded, error) {
	var out volume.Loaded
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
			_ = s.dir.remove(name) // a crash interrupted the write; the old record is still there
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
	for _, name := range s.pruneSetAside(aside) {
		if record := strings.TrimSuffix(name, corruptSuffix); !there[record] {
			out.SetAside = append(out.SetAside, volume.BadRecord{Key: keyOf(record), File: s.dir.path(name)})
		}
	}
	return out, nil
}

// errTooLong reports a file that is too long to read.
var errTooLong = fmt.Errorf("%w: it is longer than any that this driver writes", errCorrupt)

// load returns the record in a file.
func (s *Store) load(name string) (*volume.Record, error) {
	data, err := s.dir.read(name)
	if err != nil {
		return nil, err
	}
	r, className, err := decodeRecord(data)
	if err != nil {
		return nil, err
	}
	switch name {
	case fileOf(r.Key()):
	case fileOf(r.ForRevocation().Key()): // a crash interrupted Leave
		r.Leaving = true
	default:
		return nil, fmt.Errorf("%w: it is of another volume", errCorrupt)
	}
	r.MapMoments(clock.At(time.Now(), s.Boot).Restored(r.Stamp))
	if className != "" {
		r.LastClass, err = s.classes.load(r.Key(), className)
	}
	if err != nil {
		s.log.Error("reading the class in a volume's record; the volume continues with the current one", logkey.Volume, r.ID, logkey.Class, r.Class.String(), logkey.Error, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.charges[r.Key()] = s.budget.Adopt(r.Owner(), budget.Records, stateCost(len(data)))
	return r, nil
}

func keyOf(name string) string { return strings.TrimSuffix(name, recordSuffix) }
