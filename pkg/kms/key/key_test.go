package key_test

import (
	"errors"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var (
	name = key.Name{ClusterID: "c", Key: "k"}
	t1   = time.Unix(1_700_000_000, 0)
	t2   = t1.Add(time.Hour)
	t3   = t2.Add(time.Hour)
)

func aes(created ...time.Time) transit.Key {
	k := transit.Key{Type: "aes256-gcm96", Latest: len(created), MinDecryption: 1, Created: map[int]time.Time{}}
	for i, t := range created {
		k.Created[i+1] = t
	}
	return k
}

// An id may never change by itself: the stored values of a cluster have it.
func TestIDIsStable(t *testing.T) {
	const want = "mayfly-1-v3-"
	got := name.ID(key.Version{Type: "aes256-gcm96", Number: 3, Created: t1})
	testkit.Equal(t, "the id", got, want+"86b3cf4e595bd962ea17a37d2f1f46b5")
}

func TestIDChangesExactlyWhenItMust(t *testing.T) {
	v := key.Version{Type: "aes256-gcm96", Number: 1, Created: t1}
	base := name.ID(v)
	testkit.Equal(t, "the time zone is in the id", name.ID(key.Version{Type: v.Type, Number: 1, Created: t1.In(time.FixedZone("x", 3600))}), base)
	seen := map[string]string{base: "base"}
	for what, id := range map[string]string{
		"version":  name.ID(key.Version{Type: v.Type, Number: 2, Created: t1}),
		"made":     name.ID(key.Version{Type: v.Type, Number: 1, Created: t2}),
		"restored": name.ID(key.Version{Type: v.Type, Number: 1, Created: t1, Restored: t2}),
		"type":     name.ID(key.Version{Type: "chacha20-poly1305", Number: 1, Created: t1}),
		"cluster":  key.Name{ClusterID: "d", Key: "k"}.ID(v),
		"key":      key.Name{ClusterID: "c", Key: "l"}.ID(v),
		"epoch":    key.Name{ClusterID: "c", Key: "k", Epoch: "1"}.ID(v),
		"shifted":  key.Name{ClusterID: "ck", Key: ""}.ID(v),
	} {
		if other, ok := seen[id]; ok {
			t.Errorf("%s has the id of %s", what, other)
		}
		seen[id] = what
	}
}

func TestVersionOf(t *testing.T) {
	id := name.ID(key.Version{Type: "aes256-gcm96", Number: 12, Created: t1})
	for text, want := range map[string]int{
		id: 12, "": 0, "1": 0, "mayfly-1-v12-": 0, id + "0": 0, "mayfly-2" + id[8:]: 0,
		"mayfly-1-v012-" + id[13:]: 0, "mayfly-1-v0-" + id[13:]: 0, "mayfly-1-v-1-" + id[13:]: 0,
		"mayfly-1-v99999999999-" + id[13:]: 0, "mayfly-1-v1-0123456789ABCDEF0123456789ABCDEF": 0,
	} {
		if got, ok := key.VersionOf(text); got != want || ok != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, ok)
		}
	}
}

// Data for one purpose, cluster or id cannot be opened for another.
func TestAssociated(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range []key.Name{{ClusterID: "c"}, {ClusterID: "cseed"}, {ClusterID: ""}} {
		for _, p := range []key.Purpose{key.Seed, key.Local, key.Proof} {
			for _, id := range []string{"a", "ab", ""} {
				data := string(n.Associated(p, id))
				if seen[data] {
					t.Errorf("%v %s %q are like another one's", n, p, id)
				}
				seen[data] = true
			}
		}
	}
}

func TestHistory(t *testing.T) {
	restored := func(k transit.Key, at time.Time) transit.Key { k.Restored = at; return k }
	trimmed := func(k transit.Key, below int) transit.Key {
		for v := range k.Created {
			if v < below {
				delete(k.Created, v)
			}
		}
		k.MinDecryption = below
		return k
	}
	other := aes(t1, t2)
	other.Type = "chacha20-poly1305"
	for what, tc := range map[string]struct {
		before, after transit.Key
		version       int
		changed       bool
		problem       key.Kind
	}{
		"nothing":                     {aes(t1, t2), aes(t1, t2), 2, false, ""},
		"rotated":                     {aes(t1), aes(t1, t2), 2, true, ""},
		"rotated twice":               {aes(t1), aes(t1, t2, t3), 3, true, ""},
		"rotated and trimmed":         {aes(t1), trimmed(aes(t1, t2), 2), 2, true, ""},
		"min_decryption_version":      {aes(t1, t2), trimmed(aes(t1, t2), 2), 2, false, ""},
		"restored":                    {aes(t1), restored(aes(t1), t2), 1, true, ""},
		"made again":                  {aes(t1), aes(t2), 0, false, key.Replaced},
		"made again and rotated":      {aes(t1), aes(t2, t3), 0, false, key.Replaced},
		"made again of another type":  {aes(t1, t2), other, 0, false, key.Replaced},
		"fewer versions":              {aes(t1, t2), aes(t1), 0, false, key.WentBack},
		"fewer, and rotated":          {aes(t1, t2), aes(t1, t3), 0, false, key.Replaced},
		"fewer versions and restored": {aes(t1, t2), restored(aes(t1), t3), 0, false, key.WentBack},
	} {
		h := key.NewHistory(name)
		v, id, err := h.Next(tc.before)
		testkit.Must(t, err)
		h.Announce(v, id, tc.before)
		next, nextID, err := h.Next(tc.after)
		var problem *key.Problem
		switch errors.As(err, &problem); {
		case tc.problem != "" && (problem == nil || problem.Kind != tc.problem):
			t.Errorf("%s: %v, want %s", what, err, tc.problem)
		case tc.problem == "" && (err != nil || next.Number != tc.version || (nextID != id) != tc.changed):
			t.Errorf("%s: version %d, id %s (before %s), %v", what, next.Number, nextID, id, err)
		}
	}
}

// A superseded id is never announced again.
func TestFormerIDsStayAway(t *testing.T) {
	h := key.NewHistory(name)
	for _, k := range []transit.Key{aes(t1), func() transit.Key { k := aes(t1); k.Restored = t2; return k }()} {
		v, id, err := h.Next(k)
		testkit.Must(t, err)
		h.Announce(v, id, k)
	}
	_, _, err := h.Next(aes(t1))
	var problem *key.Problem
	if !errors.As(err, &problem) || problem.Kind != key.WentBack {
		t.Errorf("the first id again: %v", err)
	}
}

func FuzzVersionOf(f *testing.F) {
	f.Add(name.ID(key.Version{Type: "aes256-gcm96", Number: 1, Created: t1}))
	f.Add("mayfly-1-v1-")
	f.Fuzz(func(t *testing.T, id string) {
		if v, ok := key.VersionOf(id); ok != (v > 0) || ok && len(id) > 64 {
			t.Errorf("%q: %d, %v", id, v, ok)
		}
	})
}
