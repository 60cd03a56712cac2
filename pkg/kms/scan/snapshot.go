package scan

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Snapshot is a file of "etcdctl snapshot save", or the database of an etcd that does not run.
type Snapshot struct {
	path     string
	revision int64
	// Unverified says that the file has no checksum, for example a copy of a database.
	Unverified bool
}

// A snapshot is a bbolt database and its SHA-256
// (etcd etcdutl/snapshot/v3_snapshot.go). The database's pages are multiples of
// a sector.
const sector = 512

// OpenSnapshot checks the file's checksum.
func OpenSnapshot(ctx context.Context, path string) (*Snapshot, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the snapshot: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("looking at the snapshot: %w", err)
	}
	s := &Snapshot{path: path, Unverified: info.Size()%sector != sha256.Size}
	if !info.Mode().IsRegular() || info.Size() < sector {
		return nil, fmt.Errorf("snapshot %s: it is no file of etcd's", path)
	}
	if s.Unverified {
		return s, nil
	}
	hash, want := sha256.New(), make([]byte, sha256.Size)
	if _, err := io.Copy(hash, cancelled{ctx, io.LimitReader(file, info.Size()-sha256.Size)}); err != nil {
		return nil, fmt.Errorf("reading snapshot %s: %w", path, err)
	}
	if _, err := io.ReadFull(file, want); err != nil {
		return nil, fmt.Errorf("reading the checksum of snapshot %s: %w", path, err)
	}
	if !bytes.Equal(hash.Sum(nil), want) {
		return nil, fmt.Errorf("snapshot %s is damaged: its contents do not have the checksum that etcd wrote; a restore would be refused, too", path)
	}
	return s, nil
}

// cancelled is a reader that fails when a context ends.
type cancelled struct {
	context.Context
	io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := context.Cause(c.Context); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}

// String names the file.
func (s *Snapshot) String() string { return "snapshot " + s.path }

// Revision is the newest revision in the file, known after Each.
func (s *Snapshot) Revision() int64 { return s.revision }

// Each calls visit with all keys below the prefixes that a restore would bring back, and their
// values.
func (s *Snapshot) Each(ctx context.Context, prefixes []string, visit func(key string, value []byte)) (err error) {
	// bbolt maps the file and trusts it: damage causes a panic or a fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if damage := recover(); damage != nil {
			err = fmt.Errorf("reading %s: it is damaged: %v", s, damage)
		}
	}()
	db, err := bbolt.Open(s.path, 0o400, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("opening %s: another process has it, probably etcd; scan a file of etcdctl snapshot save", s)
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", s, err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error { return s.walk(ctx, tx, prefixes, visit) })
	if err != nil {
		return fmt.Errorf("reading %s: %w", s, err)
	}
	return nil
}

// walk goes backwards through the bucket of all revisions, so the first revision of a key that it
// reads is the latest.
func (s *Snapshot) walk(ctx context.Context, tx *bbolt.Tx, prefixes []string, visit func(key string, value []byte)) error {
	bucket := tx.Bucket([]byte("key"))
	if bucket == nil {
		return errors.New(`it has no bucket "key", so it is no database of etcd's`)
	}
	seen := map[[sha256.Size / 2]byte]struct{}{}
	cursor := bucket.Cursor()
	for position, value := cursor.Last(); position != nil; position, value = cursor.Prev() {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		main, deleted, err := parseRevision(position)
		if err != nil {
			return err
		}
		s.revision = max(s.revision, main)
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(value, &kv); err != nil {
			return fmt.Errorf("revision %d is no key and value", main)
		}
		key := string(kv.Key)
		if !below(key, prefixes) {
			continue
		}
		sum := sha256.Sum256(kv.Key)
		id := [sha256.Size / 2]byte(sum[:])
		if _, newer := seen[id]; newer {
			continue
		}
		seen[id] = struct{}{}
		if !deleted {
			visit(key, kv.Value)
		}
	}
	return nil
}

func below(key string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// A key of the bucket is a revision: eight bytes of its main number, '_', eight bytes of its number
// within the transaction, and 't' if it deletes (etcd server/storage/mvcc/revision.go).
const (
	revisionSize  = 8 + 1 + 8
	tombstoneSize = revisionSize + 1
)

func parseRevision(position []byte) (main int64, tombstone bool, err error) {
	tombstone = len(position) == tombstoneSize
	if (!tombstone && len(position) != revisionSize) || position[8] != '_' || (tombstone && position[revisionSize] != 't') {
		return 0, false, fmt.Errorf("%q is no revision of etcd's", position)
	}
	return int64(binary.BigEndian.Uint64(position)), tombstone, nil
}
