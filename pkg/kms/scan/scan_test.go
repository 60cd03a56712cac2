package scan_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const marker = "the-plaintext"

// sealed is a value under a KMS provider.
func sealed(name, keyID string) []byte {
	b := []byte("k8s:enc:kms:v2:" + name + ":")
	for i, field := range []string{"sealed", keyID, "vault:v1:seed"} {
		b = protowire.AppendString(protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType), field)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 1)
}

func plain() []byte { return []byte("k8s\x00" + marker) }

// memory is a source in memory.
type memory map[string][]byte

func (m memory) Each(_ context.Context, prefixes []string, visit func(string, []byte)) error {
	for key, value := range m {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			visit(key, value)
		}
	}
	return nil
}

func (memory) Revision() int64 { return 7 }
func (memory) String() string  { return "memory" }

func options(keyIDs ...string) scan.Options {
	return scan.Options{
		Keys: scan.NewKeys("/registry"), Resources: scan.Selection{"secrets", "configmaps"}, Names: 3,
		Want: func(r scan.Resource) (scan.Want, bool) {
			return scan.Want{Name: "mayfly", KeyIDs: keyIDs}, r.Name == "secrets"
		},
		Version: func(v stored.Value) (int, bool) { return 1, v.Provider == stored.KMSv2 },
	}
}

func TestRun(t *testing.T) {
	source := memory{
		"/registry/secrets/a/new1":    sealed("mayfly", "id-2"),
		"/registry/secrets/a/new2":    sealed("mayfly", "id-2"),
		"/registry/secrets/a/new3":    sealed("mayfly", "id-2"),
		"/registry/secrets/a/old1":    sealed("mayfly", "id-1"),
		"/registry/secrets/a/old2":    sealed("mayfly", "id-1"),
		"/registry/secrets/b/plain":   plain(),
		"/registry/secrets/b/damaged": []byte("k8s:enc:kms:v2:mayfly:\xff" + marker),
		"/registry/configmaps/a/b":    plain(), // not judged
		"/registry/pods/a/b":          plain(),
	}
	got := testkit.Value(scan.Run(t.Context(), source, options("id-2")))(t)
	under := func(name, id string, n int, wanted bool) scan.Under {
		return scan.Under{Provider: stored.KMSv2, Name: name, KeyID: id, Version: 1, Values: n, Wanted: wanted}
	}
	if len(got.Resources) != 1 {
		t.Fatalf("%+v", got)
	}
	f := got.Resources[0]
	if len(f.Under) != 4 || !reflect.DeepEqual(f.Under[:2], []scan.Under{under("mayfly", "id-2", 3, true), under("mayfly", "id-1", 2, false)}) {
		t.Errorf("under %+v", f.Under)
	}
	if f.Values != 7 || f.StragglerCount != 4 || len(f.Stragglers) != 3 || got.Stragglers() != 4 || got.Values() != 7 || got.Revision != 7 {
		t.Errorf("%+v", got)
	}
	testkit.Lacks(t, fmt.Sprintf("%+v", got), marker)
}

// TestRunWithoutKeyID: where the current key id is not known, every value under
// the provider is as wanted, and no other.
func TestRunWithoutKeyID(t *testing.T) {
	source := memory{
		"/registry/secrets/a/1": sealed("mayfly", "id-1"),
		"/registry/secrets/a/2": sealed("mayfly", "id-2"),
		"/registry/secrets/a/3": sealed("other", "id-2"),
	}
	got := testkit.Value(scan.Run(t.Context(), source, options()))(t)
	testkit.Equal(t, "stragglers", got.Resources[0].Stragglers, []string{"a/3"})
}

// TestRunIsBounded: untrusted content of etcd does not fill the memory.
func TestRunIsBounded(t *testing.T) {
	source := memory{}
	for i := range 3000 {
		source[fmt.Sprintf("/registry/secrets/a/%d", i)] = sealed("mayfly", fmt.Sprintf("id-%d", i))
	}
	got := testkit.Value(scan.Run(t.Context(), source, options("id")))(t)
	f, sum := got.Resources[0], 0
	for _, u := range f.Under {
		sum += u.Values
	}
	if len(f.Under) > 1001 || len(f.Stragglers) != 3 || f.StragglerCount != 3000 || sum != 3000 {
		t.Errorf("%d lines of %d values, %d names, %d stragglers", len(f.Under), sum, len(f.Stragglers), f.StragglerCount)
	}
}

func TestKeysOf(t *testing.T) {
	for key, want := range map[string]string{
		"/registry/secrets/shop/web":                                               "secrets shop/web",
		"/registry/services/specs/default/kubernetes":                              "services default/kubernetes",
		"/registry/services/endpoints/default/kubernetes":                          "endpoints default/kubernetes",
		"/registry/minions/node-a":                                                 "nodes node-a",
		"/registry/deployments/shop/web":                                           "deployments.apps shop/web",
		"/registry/ingress/shop/web":                                               "ingresses.networking.k8s.io shop/web",
		"/registry/example.com/widgets/shop/a":                                     "widgets.example.com shop/a",
		"/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example": "customresourcedefinitions.apiextensions.k8s.io widgets.example",
		"/registry/masterleases/10.0.0.1":                                          "masterleases 10.0.0.1",
		"/registry/ranges/serviceips":                                              "ranges serviceips",
		"/registry/secrets/":                                                       "",
		"/registry/secrets":                                                        "",
		"/registry/":                                                               "",
		"/registry//a":                                                             "",
		"/registry/example.com/widgets/":                                           "",
		"compact_rev_key":                                                          "",
		"/other/secrets/shop/web":                                                  "",
	} {
		r, object, ok := scan.NewKeys("/registry").Of(key)
		got := r.String() + " " + object
		if !ok {
			got = ""
		}
		testkit.Equal(t, key, got, want)
	}
}

func TestPrefixes(t *testing.T) {
	for patterns, want := range map[string]string{
		"secrets":                           "/registry/secrets/",
		"secrets configmaps secrets":        "/registry/configmaps/ /registry/secrets/",
		"services nodes":                    "/registry/minions/ /registry/services/specs/",
		"deployments.apps":                  "/registry/deployments/",
		"widgets.example.com":               "/registry/example.com/widgets/",
		"*.example.com":                     "/registry/example.com/",
		"widgets.example.com *.example.com": "/registry/example.com/",
		"*.batch":                           "/registry/cronjobs/ /registry/jobs/",
		"secrets *.*":                       "/registry/",
	} {
		got := scan.NewKeys("registry/").Prefixes(strings.Fields(patterns))
		testkit.Equal(t, patterns, got, strings.Fields(want))
	}
}

func TestSelection(t *testing.T) {
	secrets, widgets := scan.Resource{Name: "secrets"}, scan.Resource{Group: "example.com", Name: "widgets"}
	for _, tc := range []struct {
		pattern  string
		resource scan.Resource
		want     bool
	}{
		{"secrets", secrets, true},
		{"*.", secrets, true},
		{"*.*", secrets, true},
		{"*.", widgets, false},
		{"*.example.com", widgets, true},
		{"widgets.example.com", widgets, true},
		{"widgets", widgets, false},
		{"secrets.example.com", secrets, false},
	} {
		testkit.Equal(t, fmt.Sprintf("%s matches %s", tc.pattern, tc.resource), (scan.Selection{tc.pattern}).Matches(tc.resource), tc.want)
	}
	for _, bad := range []string{"", "*", "*s", "sec*ts", ".apps", "a/b", "se crets"} {
		if err := (scan.Selection{bad}).Check(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	testkit.Must(t, (scan.Selection{"secrets", "*.", "*.*", "*.apps", "a.b.c"}).Check())
	if err := (scan.Selection{}).Check(); err == nil {
		t.Error("nothing was taken")
	}
}

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
	testkit.Must(t, errors.Join(err, db.Close()))
	if checksum {
		data := testkit.Value(os.ReadFile(path))(t)
		sum := sha256.Sum256(data)
		testkit.Must(t, os.WriteFile(path, append(data, sum[:]...), 0o600))
	}
	return path
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
	data := testkit.Value(os.ReadFile(good))(t)
	damaged := func(change func([]byte) []byte) string {
		path := filepath.Join(t.TempDir(), "damaged.db")
		testkit.Must(t, os.WriteFile(path, change(slices.Clone(data)), 0o600))
		return path
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db := testkit.Value(bbolt.Open(other, 0o600, nil))(t)
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
	db := testkit.Value(bbolt.Open(path, 0o600, nil))(t)
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
	testkit.Must(f, errors.Join(err, db.Close()))
	seed := testkit.Value(os.ReadFile(path))(f)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "fuzz.db")
		testkit.Must(t, os.WriteFile(path, data, 0o600))
		_, _, _ = read(t.Context(), path, "/")
	})
}
