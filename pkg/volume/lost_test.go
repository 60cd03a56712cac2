package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// crashAfterSwap leaves the volume as a kill -9 between the swap and the links
// does: one link is missing, and one is left of a file that is gone.
func (r *rig) crashAfterSwap(req volume.Request) {
	r.t.Helper()
	testkit.Must(r.t, errors.Join(
		os.Remove(filepath.Join(req.Target, "extra")),
		os.Mkdir(filepath.Join(req.Target, "..links_tmp"), 0o700),
		os.Symlink("..data/extra", filepath.Join(req.Target, "..links_tmp", "extra")),
		os.Symlink("..data/gone", filepath.Join(req.Target, "gone")),
	))
}

func (r *rig) wantNoLink(req volume.Request, name string) {
	r.t.Helper()
	if _, err := os.Lstat(filepath.Join(req.Target, name)); !os.IsNotExist(err) {
		r.t.Errorf("%s is left: %v", name, err)
	}
}

// A crash in a refresh leaves a live volume: the driver revokes nothing, answers OK to a republish
// during an outage, and repairs the links.
func TestCrashBetweenSwapAndLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.store.files["extra"] = "x"
		req := r.request("a")
		r.publish(req)
		r.crashAfterSwap(req)
		r.restart()
		r.wantFile(req, "extra", "x")
		r.wantNoLink(req, "gone")
		r.background()
		r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "Vault is sealed") })
		r.publish(req)
		synctest.Wait()
		if n := r.store.releases(); n != 0 || r.Count() != 1 {
			t.Errorf("%d releases, %d volumes", n, r.Count())
		}
		r.wantFile(req, "password", "one")
	})
}

// The driver adopts the same volume without its record. If that fails it unmounts nothing.
func TestCrashBetweenSwapAndLinksAndALostRecord(t *testing.T) {
	r := newRig(t)
	r.store.files["extra"] = "x"
	req := r.request("a")
	r.publish(req)
	r.crashAfterSwap(req)
	testkit.Must(t, os.Remove(r.records()[0]))
	r.restart()
	r.store.fail = fault.New(fault.Unavailable, "Vault is sealed")
	r.wantKept(req)
	r.wantFile(req, "extra", "x")
	r.wantNoLink(req, "gone")
	r.store.fail = nil
	r.publish(req)
	r.wantFile(req, "extra", "x")
}

// loseMount unmounts the volume on the host. The pod keeps its own mount, of
// which the open directory is a stand-in.
func (r *rig) loseMount(req volume.Request) (pod *os.File) {
	r.t.Helper()
	pod = testkit.Value(os.Open(req.Target))(r.t)
	r.t.Cleanup(func() { _ = pod.Close() })
	testkit.Must(r.t, unix.Unmount(req.Target, unix.MNT_DETACH))
	return pod
}

// A published volume whose mount is lost is still in its pod. Its credentials and its record stay until
// kubelet unpublishes it, whatever a republish fails for.
func TestLostMountKeepsTheCredentials(t *testing.T) {
	outage := func(r *rig) { r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "sealed") }) }
	for name, c := range map[string]struct {
		spoil func(r *rig)
	}{
		"outage":           {spoil: outage},
		"denied":           {spoil: func(r *rig) { r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Denied, "no") }) }},
		"panic":            {spoil: func(r *rig) { r.store.set(func(s *fakeStore) { s.panics = true }) }},
		"no class":         {spoil: func(r *rig) { r.classes.spoil(fault.New(fault.ClassNotFound, "gone")) }},
		"no mount":         {spoil: func(r *rig) { r.Mounts = failingMounts{r.Mounts} }},
		"too large":        {spoil: func(r *rig) { r.classes.edit(func(c *class.Class) { c.SizeLimit = 1 }) }},
		"another provider": {spoil: func(r *rig) { r.classes.edit(func(c *class.Class) { c.Provider = "other" }) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, req := newLive(t)
				published := r.onlyRecord().PublishedAt
				r.loseMount(req)
				mounts := r.Mounts
				c.spoil(r)
				req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("jwt-2")}}
				r.wantKept(req)
				synctest.Wait()
				rec := r.onlyRecord()
				if rec.Leaving || !rec.PublishedAt.Equal(published) || rec.Provider != "fake" || rec.Tokens["vault"].JWT.Reveal() != "jwt-2" || r.Count() != 1 {
					t.Errorf("the record is %+v, and %d volumes are known", rec, r.Count())
				}
				testkit.Equal(t, "fetches from another provider", r.other.count(), 0)
				testkit.Equal(t, "releases while the pod runs", r.store.releases()+r.other.releases(), 0)
				r.Mounts = mounts
				r.store.set(func(s *fakeStore) { s.panics = false })
				testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
				synctest.Wait()
				if r.store.releases() != 1 || r.other.releases() != 0 {
					t.Errorf("%d and %d releases after the unpublish", r.store.releases(), r.other.releases())
				}
				r.wantNothing(req)
			})
		})
	}
}

type failingMounts struct{ target.Mounts }

func (failingMounts) Mount(string, tmpfs.Options) error { return errors.New("no such luck") }

// The republish after an outage mounts again.
func TestLostMountIsMadeAgain(t *testing.T) {
	r, req := newPublished(t)
	r.loseMount(req)
	r.store.fail = fault.New(fault.Unavailable, "sealed")
	if err := r.Publish(t.Context(), req); err == nil {
		t.Fatal("there is no mount, and the republish answers OK")
	}
	r.store.fail = nil
	r.publish(req)
	r.wantFile(req, "password", "one")
	if rec := r.onlyRecord(); rec.Leaving {
		t.Errorf("the record is %+v", rec)
	}
}

// A kill while the driver mounts a lost volume again leaves an empty mount. The volume is still in its
// pod.
func TestKilledWhileALostMountIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, req := newPublished(t)
		r.loseMount(req)
		testkit.Must(t, r.Mounts.Mount(req.Target, tmpfs.Options{Size: 1 << 20, Inodes: 64}))
		r.restart()
		r.background()
		r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "sealed") })
		if err := r.Publish(t.Context(), req); err == nil {
			t.Error("the volume is empty, and the republish answers OK")
		}
		synctest.Wait()
		if r.store.releases() != 0 || r.Count() != 1 {
			t.Errorf("%d releases, %d volumes", r.store.releases(), r.Count())
		}
		r.store.set(func(s *fakeStore) { s.fail = nil })
		r.publish(req)
		r.wantFile(req, "password", "one")
	})
}

// quickUnmount unmounts a target right after each look at it, or after it was
// mounted.
type quickUnmount struct {
	target.Mounts
	armed atomic.Bool
}

func (m *quickUnmount) Inspect(target string) (tmpfs.Info, error) {
	info, err := m.Mounts.Inspect(target)
	m.unmount(target)
	return info, err
}

func (m *quickUnmount) Mount(target string, o tmpfs.Options) error {
	err := m.Mounts.Mount(target, o)
	m.unmount(target)
	return err
}

func (m *quickUnmount) unmount(target string) {
	if m.armed.Load() {
		_ = unix.Unmount(target, unix.MNT_DETACH)
	}
}

// The driver writes nothing if the mount goes between the check and the write: the files would be on
// the node's disk.
func TestUnmountBetweenLookAndWrite(t *testing.T) {
	for name, denied := range map[string]error{"refresh": nil, "onDenied": fault.New(fault.Denied, "no")} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			m := &quickUnmount{Mounts: r.Mounts}
			r.Mounts = m
			r.classes.class.OnDenied = class.DeniedEmpty
			r.background()
			req := r.request("a")
			r.publish(req)
			r.store.set(func(s *fakeStore) { s.files["password"], s.fail = "two", denied })
			m.armed.Store(true)
			o := r.refreshNow()
			wantNoFiles(t, req.Target)
			if denied == nil {
				testkit.Fails(t, o.Err, fault.Mount, "no longer mounted")
			}
		})
	}
	t.Run("publish", func(t *testing.T) {
		r := newRig(t)
		m := &quickUnmount{Mounts: r.Mounts}
		r.Mounts = m
		m.armed.Store(true)
		req := r.request("a")
		testkit.Fails(t, r.Publish(t.Context(), req), fault.Mount, "no longer mounted")
		r.wantNoTarget(req)
	})
}

func wantNoFiles(t *testing.T, dir string) {
	t.Helper()
	entries := testkit.Value(os.ReadDir(dir))(t)
	for _, e := range entries {
		t.Errorf("%s is on the disk", e.Name())
	}
}

// slowObserver delays the end of an unpublish.
type slowObserver struct {
	volume.Observer
	goOn chan struct{}
}

func (o slowObserver) Observe(x volume.Outcome) {
	if x.Kind == volume.Unpublished {
		<-o.goOn
	}
	o.Observer.Observe(x)
}

// A publish waits for an unpublish of the same id that is in its last steps. The end of the old volume
// takes neither the record nor the credentials of the new one.
func TestPublishInTheTailOfAnUnpublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		goOn := make(chan struct{})
		r.Observer = slowObserver{r.Observer, goOn}
		r.background()
		req := r.request("a")
		r.publish(req)
		unpublished, published := make(chan error, 1), make(chan error, 1)
		go func() { unpublished <- r.Unpublish(t.Context(), req.ID, req.Target) }()
		synctest.Wait() // the unpublish is in its last steps
		go func() { published <- r.Publish(t.Context(), req) }()
		synctest.Wait()
		close(goOn)
		testkit.Must(t, errors.Join(<-unpublished, <-published))
		synctest.Wait()
		r.wantFile(req, "password", "one")
		if rec := r.onlyRecord(); rec.Leaving || rec.PublishedAt.IsZero() || r.Count() != 1 {
			t.Errorf("the record is %+v, and %d volumes are known", rec, r.Count())
		}
		if n := r.store.releases(); n > 1 || r.store.count() != 2 || r.store.last != "fetch" {
			t.Errorf("%d releases, %d fetches, the last call was a %s: the release hit the new volume", n, r.store.count(), r.store.last)
		}
	})
}

// writer is a provider that writes to a stage before it asks the store.
type writer struct {
	*fakeStore
	leave bool // the stage, as a crash does
}

func (w *writer) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	stage, err := r.Stager.Stage()
	if err != nil {
		return nil, err
	}
	if !w.leave {
		defer func() { _ = stage.Close() }()
	}
	if err := os.WriteFile(filepath.Join(stage.Path(), "password"), []byte("half"), 0o600); err != nil {
		return nil, err
	}
	return w.fakeStore.Fetch(ctx, r)
}

func newStageRig(t *testing.T) (*rig, *writer) {
	t.Helper()
	r := newRig(t)
	w := &writer{fakeStore: r.store}
	r.Providers = provider.Registry{"fake": w}
	return r, w
}

func wantNoStage(t *testing.T, target string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(target, "..mayfly-*")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// A provider has its stage before the first payload as well as after it, and
// a failure of any kind undoes what was mounted for it.
func TestStageBeforeTheFirstPayload(t *testing.T) {
	r, w := newStageRig(t)
	req := r.request("a")
	w.set(func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "down") })
	testkit.Fails(t, r.Publish(t.Context(), req), fault.Unavailable)
	r.wantNoTarget(req)
	w.set(func(s *fakeStore) { s.fail, s.panics = nil, true })
	testkit.Fails(t, r.Publish(t.Context(), req), fault.Internal)
	r.wantNoTarget(req)
	w.leave = true
	testkit.Fails(t, r.Publish(t.Context(), req), fault.Internal)
	r.wantNoTarget(req)
	w.leave = false
	w.set(func(s *fakeStore) { s.panics = false })
	r.publish(req)
	r.wantFile(req, "password", "one")
	wantNoStage(t, req.Target)
}

// A crash between the mount and the payload leaves a mount that holds a stage,
// which is no published volume: the next publish makes it one.
func TestCrashBeforeTheFirstPayload(t *testing.T) {
	r, w := newStageRig(t)
	req := r.request("a")
	testkit.Must(t, os.Mkdir(req.Target, 0o750))
	testkit.Must(t, r.Mounts.Mount(req.Target, tmpfs.Options{Size: 1 << 20, Inodes: 64}))
	stage := testkit.Value(r.Mounts.MakeStage(req.Target, tmpfs.Options{Size: 1 << 20, Inodes: 64, Mode: 0o700}))(t)
	testkit.Must(t, os.WriteFile(filepath.Join(stage.Path(), "password"), []byte("half"), 0o600))
	r.restart()
	r.Providers = provider.Registry{"fake": w}
	if r.Count() != 0 {
		t.Fatal("the volume counts as published")
	}
	w.set(func(s *fakeStore) { s.fail = fault.New(fault.Denied, "no") })
	testkit.Fails(t, r.Publish(t.Context(), req), fault.Denied)
	r.wantNoTarget(req)
	w.set(func(s *fakeStore) { s.fail = nil })
	r.publish(req)
	r.wantFile(req, "password", "one")
	wantNoStage(t, req.Target)
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	r.wantNoTarget(req)
}

// A crash in a refresh leaves a stage in a live volume. The recovery, the next refresh or the unpublish
// removes it.
func TestCrashInARefresh(t *testing.T) {
	r, w := newStageRig(t)
	r.background()
	req, gone := r.request("a"), r.request("b")
	r.publish(req)
	r.publish(gone)
	w.leave = true
	r.refreshed(2)
	r.wantFile(req, "password", "one")
	if left, _ := filepath.Glob(filepath.Join(req.Target, "..mayfly-*")); len(left) != 1 {
		t.Fatalf("%d stages are left, the test wants one", len(left))
	}
	testkit.Must(t, r.Unpublish(t.Context(), gone.ID, gone.Target))
	r.wantNoTarget(gone)
	w.leave = false
	r.refreshed(3)
	wantNoStage(t, req.Target)
	testkit.Value(r.Mounts.MakeStage(req.Target, tmpfs.Options{Size: 1 << 20, Inodes: 64, Mode: 0o700}))(t)
	r.restart()
	wantNoStage(t, req.Target)
	r.wantFile(req, "password", "one")
}
