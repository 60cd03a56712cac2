package volume_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	wantReason(t, r.Publish(t.Context(), req), fault.Unavailable)
	r.wantNoTarget(req)
	w.set(func(s *fakeStore) { s.fail, s.panics = nil, true })
	wantReason(t, r.Publish(t.Context(), req), fault.Internal)
	r.wantNoTarget(req)
	w.leave = true
	wantReason(t, r.Publish(t.Context(), req), fault.Internal)
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
	stage, err := r.Mounts.MakeStage(req.Target, tmpfs.Options{Size: 1 << 20, Inodes: 64, Mode: 0o700})
	testkit.Must(t, err)
	testkit.Must(t, os.WriteFile(filepath.Join(stage.Path(), "password"), []byte("half"), 0o600))
	r.restart()
	r.Providers = provider.Registry{"fake": w}
	if r.Count() != 0 {
		t.Fatal("the volume counts as published")
	}
	w.set(func(s *fakeStore) { s.fail = fault.New(fault.Denied, "no") })
	wantReason(t, r.Publish(t.Context(), req), fault.Denied)
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
	r.RefreshAll()
	testkit.Eventually(t, "the refreshes are done", func() bool { return r.seen.count("refresh", false) == 2 })
	r.wantFile(req, "password", "one")
	if left, _ := filepath.Glob(filepath.Join(req.Target, "..mayfly-*")); len(left) != 1 {
		t.Fatalf("%d stages are left, the test wants one", len(left))
	}
	testkit.Must(t, r.Unpublish(t.Context(), gone.ID, gone.Target))
	r.wantNoTarget(gone)
	w.leave = false
	r.RefreshAll()
	testkit.Eventually(t, "the next refresh is done", func() bool { return r.seen.count("refresh", false) == 3 })
	wantNoStage(t, req.Target)
	_, err := r.Mounts.MakeStage(req.Target, tmpfs.Options{Size: 1 << 20, Inodes: 64, Mode: 0o700})
	testkit.Must(t, err)
	r.restart()
	wantNoStage(t, req.Target)
	r.wantFile(req, "password", "one")
}
