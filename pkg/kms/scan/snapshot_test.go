package scan_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// revision is one change, as etcd stores it.
type revision struct {
	main, sub  int64
	key, value string
	deleted    bool
}

// database writes a database of etcd's, and its checksum where that is wanted.
func database(t *testing.T, checksum bool, changes ...revision) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	testkit.Must(t, err)
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		for _, c := range changes {
			position := binary.BigEndian.AppendUint64(nil, uint64(c.main))
			position = binary.BigEndian.AppendUint64(append(position, '_'), uint64(c.sub))
			kv := &mvccpb.KeyValue{Key: []byte(c.key)}
			if c.deleted {
				position = append(position, 't')
			} else {
				kv.Value = []byte(c.value)
			}
			value, err := proto.Marshal(kv)
			if err != nil {
				return err
			}
			if err := bucket.Put(position, value); err != nil {
				return err
			}
		}
		return nil
	})
	testkit.Must(t, errorsJoin(err, db.Close()))
	if checksum {
		data, err := os.ReadFile(path)
		testkit.Must(t, err)
		sum := sha256.Sum256(data)
		testkit.Must(t, os.WriteFile(path, append(data, sum[:]...), 0o600))
	}
	return path
}

func errorsJoin(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func read(ctx context.Context, path string, prefixes ...string) (map[string]string, *scan.Snapshot, error) {
	s, err := scan.OpenSnapshot(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	got := map[string]string{}
	err = s.Each(ctx, prefixes, func(key string, value []byte) {
		if _, twice := got[key]; twice {
			key = "twice: " + key
		}
		got[key] = string(value)
	})
	return got, s, err
}

func TestSnapshot(t *testing.T) {
	path := database(t, true,
		revision{2, 0, "/registry/secrets/a/edited", "old", false},
		revision{3, 0, "/registry/secrets/a/deleted", "old", false},
		revision{4, 0, "/registry/secrets/a/edited", "new", false},
		revision{5, 0, "/registry/secrets/a/deleted", "", true},
		revision{6, 0, "/registry/secrets/a/again", "old", false},
		revision{7, 0, "/registry/secrets/a/again", "", true},
		revision{7, 1, "/registry/secrets/a/again", "new", false},
		revision{8, 0, "/registry/secrets/a/one", "v", false},
		revision{8, 1, "/registry/secrets/a/two", "v", false},
		revision{9, 0, "/registry/configmaps/a/b", "v", false},
		revision{300, 0, "compact_rev_key", "9", false},
	)
	want := map[string]string{
		"/registry/secrets/a/edited": "new", "/registry/secrets/a/again": "new",
		"/registry/secrets/a/one": "v", "/registry/secrets/a/two": "v",
	}
	got, s, err := read(t.Context(), path, "/registry/secrets/")
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if s.Revision() != 300 || s.Unverified {
		t.Errorf("revision %d, unverified %v", s.Revision(), s.Unverified)
	}
}

func TestSnapshotRefuses(t *testing.T) {
	changes := []revision{}
	for i := range 100 {
		changes = append(changes, revision{int64(i), 0, fmt.Sprintf("/registry/secrets/a/%d", i), strings.Repeat("v", 1000), false})
	}
	good := database(t, true, changes...)
	data, err := os.ReadFile(good)
	testkit.Must(t, err)
	damaged := func(change func([]byte) []byte) string {
		path := filepath.Join(t.TempDir(), "damaged.db")
		testkit.Must(t, os.WriteFile(path, change(slices.Clone(data)), 0o600))
		return path
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := bbolt.Open(other, 0o600, nil)
	testkit.Must(t, err)
	testkit.Must(t, db.Close())
	for name, tc := range map[string]struct{ path, want string }{
		"absent":       {"/absent", "opening the snapshot"},
		"a directory":  {t.TempDir(), "no file of etcd's"},
		"a text":       {damaged(func([]byte) []byte { return []byte("text\n") }), "no file of etcd's"},
		"zeros":        {damaged(func(d []byte) []byte { return make([]byte, 1<<14) }), "invalid database"},
		"no etcd":      {other, `no bucket "key"`},
		"flipped bit":  {damaged(func(d []byte) []byte { d[len(d)/2] ^= 1; return d }), "do not have the checksum"},
		"cut off":      {damaged(func(d []byte) []byte { return d[:3*os.Getpagesize()] }), "damaged"},
		"wrong middle": {damaged(func(d []byte) []byte { clear(d[2*os.Getpagesize():]); return d[:len(d)-32] }), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(t.Context(), tc.path, "/registry/")
			testkit.Says(t, err, tc.want)
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("interrupted"))
	if _, _, err := read(ctx, good, "/registry/"); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("with an ended context: %v", err)
	}
}

// TestSnapshotWithoutChecksum: the database of a stopped etcd can be read too, and is reported as
// unverified.
func TestSnapshotWithoutChecksum(t *testing.T) {
	path := database(t, false, revision{2, 0, "/registry/secrets/a/b", "v", false})
	got, s, err := read(t.Context(), path, "/registry/")
	if err != nil || len(got) != 1 || !s.Unverified {
		t.Errorf("%v, %v", got, err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	testkit.Must(t, err)
	defer db.Close()
	if _, _, err := read(t.Context(), path, "/registry/"); err == nil || !strings.Contains(err.Error(), "another process has it") {
		t.Errorf("while it is open elsewhere: %v", err)
	}
}

func FuzzSnapshot(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, PageSize: 1024})
	testkit.Must(f, err)
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		return bucket.Put([]byte("\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00"), []byte("\x0a\x02/r\x2a\x01v"))
	})
	testkit.Must(f, errorsJoin(err, db.Close()))
	seed, err := os.ReadFile(path)
	testkit.Must(f, err)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "fuzz.db")
		testkit.Must(t, os.WriteFile(path, data, 0o600))
		_, _, _ = read(t.Context(), path, "/")
	})
}
