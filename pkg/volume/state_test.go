package volume_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// The state has a class once, whatever number of volumes use it, until the last of them is gone, also
// over restarts.
func TestClassIsKeptOnce(t *testing.T) {
	r := newRig(t)
	r.background()
	r.classes.class.Parameters = map[string]string{"roleName": "web"}
	for _, pod := range []string{"a", "b", "c"} {
		r.publish(r.request(pod))
	}
	if n := len(r.classFiles()); n != 1 {
		t.Fatalf("%d files for one class", n)
	}
	r.classes.edit(func(c *class.Class) { c.Parameters = map[string]string{"roleName": "other"} })
	r.publish(r.request("d"))
	if n := len(r.classFiles()); n != 2 {
		t.Errorf("%d files for two versions of a class", n)
	}
	r.RefreshAll()
	testkit.Eventually(t, "the version before goes with the last record that names it", func() bool { return len(r.classFiles()) == 1 })
	for _, pod := range []string{"a", "b", "c", "d"} {
		req := r.request(pod)
		testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	}
	testkit.Eventually(t, "the class goes with its last volume", func() bool { return len(r.classFiles()) == 0 })
}

func TestClassFilesAfterACrash(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	r.publish(req)
	orphan := filepath.Join(r.stateDir, strings.Repeat("0", 64)+".class")
	testkit.Must(t, os.WriteFile(orphan, []byte(`{"Name":"secrets"}`), 0o600))
	file := r.classFiles()[1]
	r.restart()
	if left := r.classFiles(); len(left) != 1 || left[0] != file {
		t.Fatalf("left are %q, want %q alone", left, file)
	}
	testkit.Must(t, os.WriteFile(file, []byte(`{"Name":"forged"}`), 0o600)) // the volume goes on without it
	r.restart()
	if r.Count() != 1 || len(r.classFiles()) != 0 {
		t.Errorf("%d volumes, classes %q", r.Count(), r.classFiles())
	}
	r.background()
	r.refreshNow()
	if left := r.classFiles(); len(left) != 1 || left[0] != file {
		t.Errorf("after a refresh the classes are %q", left)
	}
}

// Records of earlier versions hold the class.
func TestOldRecordsAreRead(t *testing.T) {
	r := newRig(t)
	r.classes.class.Parameters = map[string]string{"roleName": "web"}
	for _, pod := range []string{"a", "b"} {
		r.publish(r.request(pod))
	}
	c, err := json.Marshal(&r.classes.class)
	testkit.Must(t, err)
	r.rewrite(func(fields map[string]json.RawMessage) {
		delete(fields, "classFile")
		delete(fields, "size")
		fields["lastClass"] = c
	})
	for _, file := range r.classFiles() {
		testkit.Must(t, os.Remove(file))
	}
	r.restart()
	if r.Count() != 2 {
		t.Fatalf("%d volumes of an earlier version were taken up, want 2", r.Count())
	}
	r.classes.spoil(fault.New(fault.Unavailable, "connection refused"))
	r.background()
	r.RefreshAll()
	testkit.Eventually(t, "they go on by the class in their records", func() bool { return r.seen.count(volume.Refreshed, false) == 2 })
	if n := len(r.classFiles()); n != 1 {
		t.Errorf("%d files for one class", n)
	}
}

// manyPublishes publishes for pods of a namespace until one fails, at most so
// many, and gives how many did.
func (r *rig) manyPublishes(namespace string, most int) (n int, err error) {
	r.t.Helper()
	for ; n < most; n++ {
		req := r.request(fmt.Sprintf("%s-%d", namespace, n))
		req.Pod.Namespace = namespace
		req.Class.Namespace = namespace
		if err = r.Publish(r.t.Context(), req); err != nil {
			return n, err
		}
	}
	return n, nil
}

// One namespace cannot use the room of another's records, neither by many volumes, nor by large classes,
// nor by the state of a provider.
func TestStateHasAShareForEachNamespace(t *testing.T) {
	for name, spoil := range map[string]func(r *rig, pass int){
		"volumes":  func(*rig, int) {},
		"provider": func(r *rig, _ int) { r.store.set(func(s *fakeStore) { s.state = strings.Repeat("s", 100<<10) }) },
		"classes": func(r *rig, pass int) {
			r.classes.edit(func(c *class.Class) {
				c.Parameters = map[string]string{"note": fmt.Sprint(pass, strings.Repeat("x", 200<<10))}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			m, err := tmpfs.New()
			testkit.Must(t, err)
			testkit.Must(t, m.Mount(r.stateDir, tmpfs.Options{Size: 1 << 20, Inodes: 128, Mode: 0o700}))
			t.Cleanup(func() { _ = unix.Unmount(r.stateDir, unix.MNT_DETACH) })
			r.limits = budget.Limits{Records: budget.Share{Node: 800 << 10, Namespace: 400 << 10}}
			r.restart()
			n := 0
			for ; err == nil && n < 200; n++ {
				spoil(r, n)
				req := r.request(fmt.Sprint("evil-", n))
				req.Pod.Namespace, req.Class.Namespace = "evil", "evil"
				err = r.Publish(t.Context(), req)
			}
			wantReason(t, err, fault.Exhausted, "--namespace-state-limit", "namespace evil")
			r.store.set(func(s *fakeStore) { s.state = "" })
			r.classes.edit(func(c *class.Class) { c.Parameters = nil })
			if n, err := r.manyPublishes("good", 20); err != nil {
				t.Errorf("after %d volumes of another tenant: %v", n, err)
			}
			r.restart()
			if _, err := r.manyPublishes("good", 30); err != nil {
				t.Errorf("after a restart: %v", err)
			}
			r.background()
			for i := range n - 1 {
				req := r.request(fmt.Sprint("evil-", i))
				testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
			}
			testkit.Eventually(t, "what the tenant had is free again", func() bool { return r.budget.Usage().ByKind[budget.Records] <= 31*8<<10 })
		})
	}
}

// A record that was set aside no longer has its tokens, also if an earlier version set it aside.
func TestSetAsideKeepsNoTokens(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("s3cr3t")}}
	req.Secrets = map[string]secret.String{"user": secret.NewString("s3cr3t")}
	r.publish(req)
	file := r.records()[0]
	data, err := os.ReadFile(file)
	testkit.Must(t, err)
	if !bytes.Contains(data, []byte("s3cr3t")) {
		t.Fatal("the record does not hold the token: the test proves nothing")
	}
	old := filepath.Join(r.stateDir, strings.Repeat("a", 64)+".json.corrupt")
	testkit.Must(t, os.WriteFile(old, data, 0o600))
	testkit.Must(t, os.WriteFile(file, data[:len(data)-1], 0o600))
	for range 2 {
		r.restart()
		for _, aside := range []string{old, file + ".corrupt"} {
			left, err := os.ReadFile(aside)
			testkit.Must(t, err)
			if bytes.Contains(left, []byte("s3cr3t")) || !bytes.Contains(left, []byte(`"bytes":`)) {
				t.Errorf("%s holds %s", aside, left)
			}
		}
	}
}

// rewrite makes the records what an earlier version wrote.
func (r *rig) rewrite(change func(fields map[string]json.RawMessage)) {
	r.t.Helper()
	for _, file := range r.records() {
		record, err := os.ReadFile(file)
		testkit.Must(r.t, err)
		line, body, _ := bytes.Cut(record, []byte("\n"))
		var h struct {
			Version  int    `json:"version"`
			Checksum string `json:"sha256"`
			Record   int    `json:"record"`
		}
		var fields map[string]json.RawMessage
		testkit.Must(r.t, json.Unmarshal(line, &h))
		testkit.Must(r.t, json.Unmarshal(body[:h.Record], &fields))
		state := body[h.Record:]
		change(fields)
		old, err := json.Marshal(fields)
		testkit.Must(r.t, err)
		sum := sha256.Sum256(append(slices.Clone(old), state...))
		h.Record, h.Checksum = len(old), hex.EncodeToString(sum[:])
		line, err = json.Marshal(h)
		testkit.Must(r.t, err)
		testkit.Must(r.t, os.WriteFile(file, slices.Concat(line, []byte("\n"), old, state), 0o600))
	}
}
