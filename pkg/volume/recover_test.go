package volume_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/statedir"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestRecoverGoesOnWithoutTheStore(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("jwt-1")}}
	req.TokensInSecrets = true
	req.Secrets = map[string]secret.String{"user": secret.NewString("pass")}
	r.publish(req)
	r.classes.retained = 0 // those of the dead process
	r.restart()
	testkit.Equal(t, "fetches, with that of the first publish", r.store.count(), 1)
	if r.Count() != 1 || r.classes.held() != 1 || r.store.imported[req.ID] != "state of "+req.ID {
		t.Errorf("count %d, held %d, imported %v", r.Count(), r.classes.held(), r.store.imported)
	}
	r.publish(req)
	testkit.Equal(t, "fetches, and none by a republish after the restart", r.store.count(), 1)
	r.background()
	r.store.set(func(s *fakeStore) { s.files["password"] = "two" })
	r.refreshed(1)
	r.wantFile(req, "password", "two")
	last := r.store.requests[len(r.store.requests)-1]
	if last.Tokens["vault"].JWT.Reveal() != "jwt-1" || last.Secrets["user"].Reveal() != "pass" || last.Pod != req.Pod || !last.TokensInSecrets || len(last.Current) != 1 {
		t.Error("the request after a restart lacks what the first had")
	}
}

func TestRecoverLetsGoOfWhatIsNotMounted(t *testing.T) {
	r := newRig(t)
	gone, live := r.request("gone"), r.request("live")
	r.publish(gone)
	r.publish(live)
	testkit.Must(t, unix.Unmount(gone.Target, unix.MNT_DETACH))
	r.restart()
	r.background()
	testkit.Eventually(t, "the credentials of the gone volume are released", func() bool { return r.store.releases() == 1 })
	testkit.Eventually(t, "its record is gone", func() bool { return len(r.records()) == 1 })
	testkit.Equal(t, "volumes, with the live one", r.Count(), 1)
	r.publish(gone) // its pod still runs: kubelet republishes
	r.wantFile(gone, "password", "one")
}

func TestReleaseOutlivesARestart(t *testing.T) {
	r, req := newPublished(t)
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target)) // nothing runs that could release
	r.restart()
	r.store.set(func(s *fakeStore) { s.failRel = 1 })
	r.background()
	testkit.Equal(t, "volumes were said to be recovered, though the only one is gone", r.seen.count("recover", false), 0)
	testkit.Eventually(t, "the credentials are released at the second try", func() bool { return r.store.releases() == 1 })
	if o := r.seen.last(volume.ReleaseFailed); o.ID != req.ID || o.Err == nil || o.Failures != 1 || o.Repeated || o.NextAt.IsZero() {
		t.Errorf("the first try is told as %+v", o)
	}
	testkit.Eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
}

func TestCorruptRecordsAreSetAside(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"truncated":    func(b []byte) []byte { return b[:len(b)/2] },
		"empty":        func([]byte) []byte { return nil },
		"flipped":      func(b []byte) []byte { return bytes.Replace(b, []byte("shop"), []byte("shoq"), 1) },
		"newer":        func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":9`), 1) },
		"older":        func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":0`), 1) },
		"not a record": func([]byte) []byte { return []byte(`[1,2]`) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			bad, good := r.request("bad"), r.request("good")
			bad.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("s3cr3t")}}
			r.publish(bad)
			file := r.records()[0]
			r.publish(good)
			data := testkit.Value(os.ReadFile(file))(t)
			testkit.Must(t, os.WriteFile(file, spoil(data), 0o600))
			r.restart()
			testkit.Equal(t, "volumes, with that of the good record", r.Count(), 1)
			if _, err := os.Stat(file + ".corrupt"); err != nil {
				t.Errorf("the bad record was not set aside: %v", err)
			}
			r.wantFile(bad, "password", "one")
			r.store.set(func(s *fakeStore) { s.files["password"] = "two" })
			r.publish(bad) // kubelet's republish takes the volume up again
			r.wantFile(bad, "password", "two")
			testkit.Equal(t, "volumes", r.Count(), 2)
			r.publish(good)
			r.publish(bad)
			r.wantSetAside(file+".corrupt", "", bad.ID)
		})
	}
}

// wantSetAside checks which volumes the observer was told to have lost a record: their ids in order,
// "" for a record whose volume is not known.
func (r *rig) wantSetAside(file string, want ...string) {
	r.t.Helper()
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	var got []string
	for _, o := range r.seen.outcomes {
		if o.SetAside == "" {
			continue
		}
		got = append(got, o.ID)
		if o.SetAside != file || (o.ID == "") != (o.Kind == volume.SetAside) {
			r.t.Errorf("told of %q by %+v", file, o)
		}
	}
	testkit.Equal(r.t, "told of the records of", got, want)
}

func (r *rig) spoilRecord() (file string) {
	r.t.Helper()
	file = r.records()[0]
	testkit.Must(r.t, os.WriteFile(file, []byte("spoilt"), 0o600))
	return file
}

// The pod of a record that was set aside gets one event, also if the driver or the first publish
// failed in between.
func TestSetAsideIsNotForgotten(t *testing.T) {
	r, req := newPublished(t)
	file := r.spoilRecord()
	r.restart()
	r.wantSetAside(file+".corrupt", "")
	r.restart()
	r.wantSetAside(file+".corrupt", "") // no second time
	r.store.fail = fault.New(fault.Unavailable, "the store is away")
	r.wantKept(req)
	r.wantFile(req, "password", "one")
	r.store.fail = nil
	r.publish(req)
	r.wantSetAside(file+".corrupt", "", req.ID)
	r.restart()
	r.publish(req)
	r.wantSetAside(file+".corrupt", "", req.ID)
}

func TestSetAsideOfAGonePod(t *testing.T) {
	r, req := newPublished(t)
	file := r.spoilRecord()
	r.restart()
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	r.publish(r.request("a")) // of the same id, which kubelet never does
	r.wantSetAside(file+".corrupt", "")
}

// A driver that starts while the API server is unavailable uses the class that the volume had.
func TestRotationGoesOnWithoutTheAPIServer(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	r.classes.class.Parameters = map[string]string{"roleName": "web"}
	r.publish(req)
	r.restart()
	r.classes.err = fault.New(fault.Unavailable, "failed to get secretproviderclass shop/secrets: connection refused")
	r.background()
	r.store.set(func(s *fakeStore) { s.files["password"] = "two" })
	r.refreshed(1)
	r.wantFile(req, "password", "two")
	if last := r.store.requests[len(r.store.requests)-1]; last.Class.Parameters["roleName"] != "web" || last.Class.Name != "secrets" {
		t.Errorf("the store was asked for class %+v", last.Class)
	}
	testkit.Fails(t, r.Publish(t.Context(), r.request("new")), fault.Unavailable, "connection refused")
}

// The driver notices an edit from the time when it was down once it sees the class, and makes no other
// request to the store.
func TestEditWhileNoDriverRan(t *testing.T) {
	for _, tc := range []struct {
		name    string
		ref     class.Ref
		version string
		edited  bool
	}{
		{"unchanged", class.Ref{Namespace: "shop", Name: "secrets"}, "1", false},
		{"edited", class.Ref{Namespace: "shop", Name: "secrets"}, "2", true},
		{"deleted", class.Ref{Namespace: "shop", Name: "secrets"}, "", true},
		{"another class", class.Ref{Namespace: "shop", Name: "others"}, "2", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.publish(r.request("a"))
				r.restart()
				r.background()
				r.ClassVersion(tc.ref, tc.version)
				time.Sleep(10 * time.Second) // in the bubble's time; the interval is a minute
				synctest.Wait()
				want := 1
				if tc.edited {
					want++
				}
				if n := r.store.count(); n != want || r.store.fresh != want-1 {
					t.Errorf("%d fetches, %d of them fresh; want %d", n, r.store.fresh, want)
				}
			})
		})
	}
}

// With the clock set back by hours, what is on record lies in the future.
func TestClockSetBackBeforeARestart(t *testing.T) {
	r := newRig(t)
	r.publish(r.request("a"))
	rec := r.onlyRecord()
	rec.RefreshedAt, rec.DueAt = rec.RefreshedAt.Add(10*time.Hour), rec.DueAt.Add(10*time.Hour)
	s := testkit.Value(statedir.New(r.stateDir, slog.New(slog.DiscardHandler)))(t)
	testkit.Must(t, s.Put(rec))
	r.restart()
	if o := r.seen.last(volume.Recovered); o.NextAt.IsZero() || time.Until(o.NextAt) > time.Minute {
		t.Errorf("the next look is at %s, want it within the interval", o.NextAt)
	}
}

func TestRecordsAreForRootAlone(t *testing.T) {
	r := newRig(t)
	r.publish(r.request("a"))
	files, err := os.ReadDir(r.stateDir)
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, want a record and a class: %v", len(files), err)
	}
	for _, file := range files {
		testkit.Equal(t, "mode", testkit.Value(file.Info())(t).Mode().Perm(), 0o600)
	}
	testkit.Must(t, os.WriteFile(filepath.Join(r.stateDir, "x.json.partial"), []byte("half"), 0o600))
	r.restart()
	if _, err := os.Stat(filepath.Join(r.stateDir, "x.json.partial")); !os.IsNotExist(err) {
		t.Error("a half-written record is left")
	}
}

// The state has a class once, whatever number of volumes use it, until the last of them is gone, also
// over restarts.
func TestClassIsKeptOnce(t *testing.T) {
	r := newRunning(t)
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
	r, _ := newPublished(t)
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
	testkit.Equal(t, "after a refresh the classes are", r.classFiles(), []string{file})
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
			testkit.Fails(t, err, fault.Exhausted, "--namespace-state-limit", "namespace evil")
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

// A record that was set aside no longer has its tokens.
func TestSetAsideKeepsNoTokens(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("s3cr3t")}}
	req.Secrets = map[string]secret.String{"user": secret.NewString("s3cr3t")}
	r.publish(req)
	file := r.records()[0]
	data := testkit.Value(os.ReadFile(file))(t)
	if !bytes.Contains(data, []byte("s3cr3t")) {
		t.Fatal("the record does not hold the token: the test proves nothing")
	}
	testkit.Must(t, os.WriteFile(file, data[:len(data)-1], 0o600))
	for range 2 {
		r.restart()
		left := testkit.Value(os.ReadFile(file + ".corrupt"))(t)
		if bytes.Contains(left, []byte("s3cr3t")) || !bytes.Contains(left, []byte(`"bytes":`)) {
			t.Errorf("set aside is %s", left)
		}
	}
}
