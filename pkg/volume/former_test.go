package volume_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// move edits the class so that another provider serves it, and has the volume
// follow.
func (r *rig) move(to string, failed bool) {
	r.t.Helper()
	n := r.seen.count("refresh", failed)
	r.classes.edit(func(c *class.Class) { c.Provider = to })
	r.RefreshAll()
	eventually(r.t, "the volume has followed", func() bool { return r.seen.count("refresh", failed) > n })
}

// wantFormer wants the record to name these former providers.
func (r *rig) wantFormer(names ...string) {
	r.t.Helper()
	rec := r.onlyRecord()
	for i, h := range rec.Former {
		if i >= len(names) || h.Provider != names[i] || string(h.State.Reveal()) != "state of "+rec.ID {
			r.t.Errorf("former provider %s with state %q, want %v", h.Provider, h.State.Reveal(), names)
		}
	}
	if len(rec.Former) != len(names) {
		r.t.Errorf("%d former providers, want %v", len(rec.Former), names)
	}
}

func TestEditOfTheProviderReleasesTheFormer(t *testing.T) {
	r := newRig(t)
	r.background()
	r.other.files["password"] = "other"
	r.store.failRel = 1
	req := r.request("a")
	r.publish(req)
	r.move("other", false)
	r.wantFile(req, "password", "other")
	eventually(t, "the former provider has released", func() bool { return r.store.releases() == 1 })
	eventually(t, "the record knows", func() bool { return len(r.onlyRecord().Former) == 0 })
	eventually(t, "the observer is told", func() bool { return r.seen.count(volume.Released, false) == 1 })
	if o := r.seen.last(volume.Released); o.Provider != "fake" || o.Err != nil || o.Pod != req.Pod {
		t.Errorf("the observer was told %+v", o)
	}
	must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	eventually(t, "the provider has released", func() bool { return r.other.releases() == 1 })
	eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
	if n := r.store.releases(); n != 1 {
		t.Errorf("%d releases by the former provider, want 1", n)
	}
}

func TestFormerProviderIsReleasedAfterARestart(t *testing.T) {
	r := newRig(t)
	stop := r.background()
	r.store.failRel = 1000
	req := r.request("a")
	r.publish(req)
	r.move("other", false)
	stop()
	r.wantFormer("fake")
	r.store.set(func(s *fakeStore) { s.failRel = 0 })
	r.restart()
	if r.store.imported[req.ID] != "state of "+req.ID || r.other.imported[req.ID] != "state of "+req.ID {
		t.Errorf("imported %v and %v", r.store.imported, r.other.imported)
	}
	r.background()
	eventually(t, "the former provider has released", func() bool { return r.store.releases() == 1 })
	eventually(t, "the record knows", func() bool { return len(r.onlyRecord().Former) == 0 })
	if n := r.other.releases(); n != 0 {
		t.Errorf("%d releases of a live volume", n)
	}
}

// The end of what a provider held must not hit what it gives once it serves
// the volume again.
func TestEditBackToTheFormerProvider(t *testing.T) {
	r := newRig(t)
	r.background()
	r.store.failRel = 1000
	req := r.request("a")
	r.publish(req)
	r.move("other", false)
	r.other.set(func(s *fakeStore) { s.failRel = 1000 })
	r.move("fake", false)
	r.store.set(func(s *fakeStore) { s.failRel = 0 })
	r.other.set(func(s *fakeStore) { s.failRel = 0 })
	eventually(t, "the other provider has released", func() bool { return r.other.releases() == 1 })
	eventually(t, "the record knows", func() bool { return len(r.onlyRecord().Former) == 0 })
	if n := r.store.releases(); n != 0 {
		t.Errorf("%d releases of a live volume", n)
	}
	if rec := r.onlyRecord(); rec.Provider != "fake" {
		t.Errorf("the provider is %s", rec.Provider)
	}
}

// A provider that has failed may hold a login, or more.
func TestUnpublishReleasesAProviderThatFailed(t *testing.T) {
	r := newRig(t)
	r.background()
	req := r.request("a")
	r.publish(req)
	r.other.fail = fault.New(fault.Denied, "permission denied")
	r.move("other", true)
	r.wantFile(req, "password", "one")
	r.wantFormer("other")
	if n := r.store.releases() + r.other.releases(); n != 0 {
		t.Errorf("%d releases of a live volume", n)
	}
	must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	eventually(t, "both have released", func() bool { return r.store.releases() == 1 && r.other.releases() == 1 })
	eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
}

// What an earlier volume of the same id left is not forgotten when neither its
// release nor the new publish works.
func TestFailedPublishGoesOnWithAnEarlierRelease(t *testing.T) {
	r := newRig(t)
	stop := r.background()
	r.store.failRel = 1000
	req := r.request("a")
	r.publish(req)
	must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	r.classes.spoil(fault.New(fault.ClassNotFound, "the class is gone"))
	wantReason(t, r.Publish(t.Context(), req), fault.ClassNotFound)
	stop()
	r.wantFormer("fake")
	r.store.set(func(s *fakeStore) { s.failRel = 0 })
	r.restart()
	r.background()
	eventually(t, "the credentials are released", func() bool { return r.store.releases() == 1 })
	eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
}

// A release that goes on after the volume's id has come into use again must not
// take the new volume's record with it.
func TestLateReleaseLeavesTheNewRecordAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.background()
		gate := make(chan struct{})
		r.store.relGate = gate
		req := r.request("a")
		r.publish(req)
		must(t, r.Unpublish(t.Context(), req.ID, req.Target))
		synctest.Wait() // the release waits at the gate
		ctx, cancel := context.WithCancel(t.Context())
		published := make(chan error, 1)
		go func() { published <- r.Publish(ctx, req) }()
		synctest.Wait() // the publish waits for the release
		cancel()        // which it can do only for so long
		err := <-published
		close(gate)
		must(t, err)
		synctest.Wait()
		if n := r.store.releases(); n != 1 {
			t.Errorf("%d releases, want 1", n)
		}
		if rec := r.onlyRecord(); rec.Leaving || rec.PublishedAt.IsZero() {
			t.Errorf("the record is of a volume that goes: leaving %t, published at %s", rec.Leaving, rec.PublishedAt)
		}
	})
}
