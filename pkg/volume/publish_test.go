package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestPublishMountsAndWrites(t *testing.T) {
	r := newRig(t)
	gid := uint32(kubelet.MappedGroup(4242))
	req := r.request("a")
	req.GID = &gid
	r.store.files["nested/key"] = "two"
	r.store.modes["nested/key"] = 0o400
	r.publish(req)

	r.wantFile(req, "password", "one")
	r.wantFile(req, "nested/key", "two")
	var st unix.Stat_t
	testkit.Must(t, unix.Stat(filepath.Join(req.Target, "nested/key"), &st))
	if st.Mode&0o777 != 0o440 || st.Gid != gid {
		t.Errorf("mode %o, group %d: want 0440 and %d, so that the pod's fsGroup can read", st.Mode&0o777, st.Gid, gid)
	}
	mounts := testkit.Value(tmpfs.New())(t)
	info := testkit.Value(mounts.Inspect(req.Target))(t)
	for _, option := range []string{"nosuid", "nodev", "noexec"} {
		if !info.Ours || !info.Has(option) {
			t.Errorf("mount %+v: want ours, with %s", info, option)
		}
	}
	if r.classes.held() != 1 || r.Count() != 1 || len(r.records()) != 1 {
		t.Errorf("held %d, count %d, records %v", r.classes.held(), r.Count(), r.records())
	}
}

func TestFailedFirstPublishLeavesNothing(t *testing.T) {
	denied := fault.New(fault.Denied, "logging in: service account name not authorized")
	for _, tc := range []struct {
		name  string
		spoil func(r *rig)
		want  fault.Reason
		text  string
	}{
		{"denied", func(r *rig) { r.store.fail = denied }, fault.Denied, "service account name not authorized"},
		{"class missing", func(r *rig) {
			r.classes.err = fault.New(fault.ClassNotFound, "failed to get secretproviderclass shop/secrets")
		}, fault.ClassNotFound, "failed to get secretproviderclass shop/secrets"},
		{"unknown provider", func(r *rig) { r.classes.class.Provider = "nosuch" }, fault.UnknownProvider, `spec.provider: no provider "nosuch"`},
		{"too large", func(r *rig) { r.store.files["big"] = strings.Repeat("x", 2<<20) }, fault.TooLarge, "volumeSizeLimit"},
		{"too many files", func(r *rig) {
			for i := range 40 {
				r.store.files[filepath.Join("d"+strings.Repeat("x", i), "f")] = ""
			}
		}, fault.TooLarge, "volumeInodeLimit"},
		{"hostile name", func(r *rig) { r.store.files["../../etc/passwd"] = "x" }, fault.InvalidClass, "../../etc/passwd"},
		{"panic", func(r *rig) { r.store.panics = true }, fault.Internal, "the driver has a defect"},
		{"partial", func(r *rig) { r.store.partial = fault.New(fault.NotFound, "secret/data/gone: no such secret") }, fault.NotFound, "secret/data/gone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRunning(t)
			other := r.request("other")
			r.publish(other)
			charged := r.contents()
			tc.spoil(r)
			req := r.request("a")
			err := r.Publish(t.Context(), req)
			testkit.Fails(t, err, tc.want, tc.text, "failed to mount secrets store objects for pod shop/a")
			var kept *volume.KeptError
			if errors.As(err, &kept) {
				t.Error("a first publish has nothing to keep")
			}
			r.wantNoTarget(req)
			testkit.Eventually(t, "only the other volume's record is left", func() bool { return len(r.records()) == 1 })
			if r.Count() != 1 || r.classes.held() != 1 || len(r.Statuses()) != 1 || r.contents() != charged {
				t.Errorf("count %d, held %d, statuses %v, %d bytes are charged: want those of the other volume", r.Count(), r.classes.held(), r.Statuses(), r.contents())
			}
			r.wantFile(other, "password", "one")
		})
	}
}

func TestTargetsThatAreNotOurs(t *testing.T) {
	for _, tc := range []struct {
		name  string
		plant func(t *testing.T, target string)
		want  fault.Reason
	}{
		{"parent missing", func(t *testing.T, target string) { testkit.Must(t, os.Remove(filepath.Dir(target))) }, fault.Mount},
		{"symlink", func(t *testing.T, target string) { testkit.Must(t, os.Symlink(t.TempDir(), target)) }, fault.Mount},
		{"file", func(t *testing.T, target string) { testkit.Must(t, os.WriteFile(target, []byte("x"), 0o600)) }, fault.Mount},
		{"foreign tmpfs", func(t *testing.T, target string) { mountTmpfs(t, target) }, fault.Conflict},
		{"bind mount", func(t *testing.T, target string) {
			testkit.Must(t, os.Mkdir(target, 0o750))
			testkit.Must(t, unix.Mount(t.TempDir(), target, "", unix.MS_BIND, ""))
		}, fault.Conflict},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			req := r.request("a")
			tc.plant(t, req.Target)
			testkit.Fails(t, r.Publish(t.Context(), req), tc.want, req.Target)
			if _, err := os.Lstat(req.Target); err != nil && tc.name != "parent missing" {
				t.Errorf("what stood at the target path is gone: %v", err)
			}
		})
	}
}

func mountTmpfs(t *testing.T, target string) {
	t.Helper()
	testkit.Must(t, os.MkdirAll(target, 0o750))
	testkit.Must(t, unix.Mount("tmpfs", target, "tmpfs", 0, "size=1m"))
}

// The driver adopts a volume that another driver mounted.
func TestAdoptsTheVolumeOfAnotherDriver(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	mountTmpfs(t, req.Target)
	root := testkit.Value(os.Open(req.Target))(t)
	dir, err := atomicdir.Open(root)
	testkit.Must(t, errors.Join(err, root.Close()))
	testkit.Value(dir.Write([]atomicdir.File{{Path: "password", Contents: []byte("old")}}, atomicdir.Options{}))(t)
	testkit.Must(t, dir.Close())

	r.store.fail = fault.New(fault.Denied, "no")
	r.wantKept(req)
	r.wantFile(req, "password", "old")
	r.store.fail = nil
	r.publish(req)
	r.wantFile(req, "password", "one")
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	r.wantNoTarget(req)
}

func TestSameIDForSomethingElse(t *testing.T) {
	r, req := newPublished(t)
	for name, change := range map[string]func(*volume.Request){
		"target": func(q *volume.Request) { q.Target += "2" },
		"pod":    func(q *volume.Request) { q.Pod.UID = "another" },
		"class":  func(q *volume.Request) { q.Class = class.Ref{Namespace: "shop", Name: "another"} },
	} {
		other := req
		change(&other)
		t.Run(name, func(t *testing.T) {
			testkit.Fails(t, r.Publish(t.Context(), other), fault.Conflict, "already published")
		})
	}
	r.wantFile(req, "password", "one")
}

func TestPublishTwiceAtOnce(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	gate := make(chan struct{})
	r.store.set(func(s *fakeStore) { s.gate = gate })
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { errs[i] = r.Publish(t.Context(), req) })
	}
	testkit.Eventually(t, "a fetch runs", func() bool { return r.store.count() == 1 })
	close(gate)
	wg.Wait()
	testkit.Must(t, errors.Join(errs...))
	testkit.Equal(t, "fetches for one volume", r.store.count(), 1)
}

func TestUnpublishDuringPublish(t *testing.T) {
	r := newRunning(t)
	req := r.request("a")
	r.store.set(func(s *fakeStore) { s.gate = make(chan struct{}) })
	published := make(chan error, 1)
	go func() { published <- r.Publish(t.Context(), req) }()
	testkit.Eventually(t, "a fetch runs", func() bool { return r.store.count() == 1 })
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	testkit.Fails(t, <-published, fault.Canceled)
	testkit.Eventually(t, "the credentials are released", func() bool { return r.store.releases() == 1 })
	testkit.Eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
	r.wantNothing(req)
	if r.Count() != 0 || r.classes.held() != 0 {
		t.Errorf("count %d, held %d", r.Count(), r.classes.held())
	}
}

func TestUnpublishBeforeAfterAndTwice(t *testing.T) {
	r := newRunning(t)
	req := r.request("a")
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	r.publish(req)
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	testkit.Eventually(t, "the credentials are released", func() bool { return r.store.releases() == 1 })
	testkit.Eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
	r.wantNothing(req)
	r.publish(req) // the same id again: kubelet may have been restarted
	r.wantFile(req, "password", "one")
}

func TestUnpublishLeavesForeignMountsAlone(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	testkit.Must(t, os.Mkdir(req.Target, 0o750))
	testkit.Must(t, unix.Mount(t.TempDir(), req.Target, "", unix.MS_BIND, ""))
	testkit.Fails(t, r.Unpublish(t.Context(), req.ID, req.Target), fault.Conflict, "mounted by something else")
}

// fullState has the state directory on a file system that fill fills up.
func fullState(t *testing.T, r *rig) (fill, drain func()) {
	t.Helper()
	testkit.Must(t, unix.Mount("tmpfs", r.stateDir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(r.stateDir, unix.MNT_DETACH) })
	r.restart()
	ballast := filepath.Join(r.stateDir, "ballast")
	fill = func() { // as far as there is room
		if err := os.WriteFile(ballast, make([]byte, 128<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling the state directory: %v", err)
		}
	}
	return fill, func() { testkit.Must(t, os.Remove(ballast)) }
}

func TestStateDirectoryFull(t *testing.T) {
	r := newRig(t)
	fill, drain := fullState(t, r)
	fill()
	req := r.request("a")
	req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("s3cr3t")}}
	err := r.Publish(t.Context(), req)
	testkit.Fails(t, err, fault.State, "no space left", r.stateDir)
	testkit.Lacks(t, err.Error(), "s3cr3t")
	r.wantNoTarget(req)
	drain()
	r.publish(req)
	r.wantFile(req, "password", "one")
}

// The driver adopts a live volume whose record was lost although it can save no record, and does not
// revoke what the volume now holds.
func TestAdoptionWithAFullStateDirectory(t *testing.T) {
	r := newRig(t)
	fill, drain := fullState(t, r)
	req := r.request("a")
	r.publish(req)
	testkit.Must(t, os.Remove(r.records()[0]))
	r.restart()
	r.background()
	fill()
	r.store.set(func(s *fakeStore) { s.files["password"] = "two" })
	r.publish(req)
	r.wantFile(req, "password", "two")
	drain()
	r.refreshed(1)
	testkit.Equal(t, "releases of a live volume", r.store.releases(), 0)
	testkit.Equal(t, "the record's target", r.onlyRecord().Target, req.Target)
}

func TestLastGood(t *testing.T) {
	down := fault.New(fault.Unavailable, "connection refused")
	for _, tc := range []struct {
		name   string
		policy class.OnUnavailable
		memory string
		fail   error
		age    time.Duration
		want   fault.Reason
	}{
		{"starts from memory", class.UnavailableLastGood, "remembered", down, time.Hour, ""},
		{"the class does not ask", class.UnavailableFail, "remembered", down, time.Hour, fault.Unavailable},
		{"nothing in memory", class.UnavailableLastGood, "", down, time.Hour, fault.Unavailable},
		{"too old", class.UnavailableLastGood, "remembered", down, time.Minute, fault.Unavailable},
		{"a denial is no outage", class.UnavailableLastGood, "remembered", fault.New(fault.Denied, "no"), time.Hour, fault.Denied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.LastGoodAge = tc.age
			r.classes.class.OnUnavailable = tc.policy
			r.store.memory, r.store.fail = tc.memory, tc.fail
			req := r.request("a")
			err := r.Publish(t.Context(), req)
			if tc.want != "" {
				testkit.Fails(t, err, tc.want)
				return
			}
			testkit.Must(t, err)
			r.wantFile(req, "password", "remembered")
			if o := r.seen.outcomes[0]; o.AsOf.IsZero() || time.Until(o.NextAt) > 10*time.Second {
				t.Errorf("the observer was told %+v", o)
			}
			r.store.set(func(s *fakeStore) { s.fail = nil })
			r.background()
			testkit.Eventually(t, "the volume is fresh", func() bool { return r.seen.count("refresh", false) == 1 })
			r.wantFile(req, "password", "one")
		})
	}
}

func TestStats(t *testing.T) {
	r, req := newPublished(t)
	s, err := r.Stats(req.ID, req.Target)
	testkit.Must(t, err)
	if s.Bytes.Used == 0 || s.Bytes.Total < 2<<20 || s.Inodes.Used == 0 || s.Inodes.Total < 64 {
		t.Errorf("stats %+v", s)
	}
	_, err = r.Stats(req.ID, t.TempDir())
	testkit.Fails(t, err, fault.NotFound, "not published")
}

// watchedMounts counts mounts, and can delay them or have them fail.
type watchedMounts struct {
	target.Mounts
	begun chan struct{} // closed when the first begins
	goOn  chan struct{} // all wait for it
	made  chan struct{} // closed when the first is made
	spoil func() error

	mu    sync.Mutex
	count int
}

func watch(r *rig) *watchedMounts {
	m := &watchedMounts{Mounts: r.Mounts, begun: make(chan struct{}), goOn: make(chan struct{}), made: make(chan struct{})}
	r.Mounts = m
	return m
}

func (m *watchedMounts) Mount(target string, o tmpfs.Options) error {
	m.mu.Lock()
	m.count++
	first := m.count == 1
	m.mu.Unlock()
	if first {
		close(m.begun)
	}
	<-m.goOn
	if m.spoil != nil {
		if err := m.spoil(); err != nil {
			return err
		}
	}
	err := m.Mounts.Mount(target, o)
	if first && err == nil {
		close(m.made)
	}
	return err
}

func (m *watchedMounts) mounts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count
}

// TestMountsWhileTheStoreIsAsked: the store does not answer before the volume
// is mounted, which is done once.
func TestMountsWhileTheStoreIsAsked(t *testing.T) {
	r := newRig(t)
	m := watch(r)
	close(m.goOn)
	r.store.gate = m.made
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req := r.request("a")
	testkit.Must(t, r.Publish(ctx, req))
	r.wantFile(req, "password", "one")
	testkit.Equal(t, "mounts", m.mounts(), 1)
}

// TestNoMountIsLeft: the store refuses while the volume is being mounted, and
// either may be done first.
func TestNoMountIsLeft(t *testing.T) {
	for range 30 {
		r := newRig(t)
		m := watch(r)
		r.store.fail, r.store.gate = fault.New(fault.Denied, "no"), m.begun
		go func() {
			<-m.begun
			close(m.goOn)
		}()
		req := r.request("a")
		testkit.Fails(t, r.Publish(t.Context(), req), fault.Denied)
		r.wantNoTarget(req)
	}
}

// TestRefusedAtOnce: if the store refuses before the mount has begun, the driver does not mount.
func TestRefusedAtOnce(t *testing.T) {
	r := newRig(t)
	r.store.fail = fault.New(fault.Denied, "no")
	var all []volume.Request
	for i := range 100 {
		all = append(all, r.request(fmt.Sprintf("a%d", i)))
		testkit.Fails(t, r.Publish(t.Context(), all[i]), fault.Denied)
	}
	for _, req := range all {
		r.wantNoTarget(req)
	}
}

// TestMountThatFails: the driver reports the mount's error once the store has answered, and releases
// what the store issued.
func TestMountThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func() error
		want  fault.Reason
	}{
		"an error": {func() error { return errors.New("no such luck") }, fault.Mount},
		"a panic":  {func() error { panic("a defect") }, fault.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			m := watch(r)
			close(m.goOn)
			m.spoil = c.spoil
			r.store.state = "a credential"
			r.background()
			req := r.request("a")
			testkit.Fails(t, r.Publish(t.Context(), req), c.want)
			testkit.Eventually(t, "what the store gave is let go", func() bool { return r.store.releases() > 0 })
		})
	}
}
