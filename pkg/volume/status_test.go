package volume_test

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// only is the status of the one volume.
func (r *rig) only() volume.Status {
	r.t.Helper()
	all := r.Statuses()
	if len(all) != 1 {
		r.t.Fatalf("%d volumes, want 1: %+v", len(all), all)
	}
	return all[0]
}

func TestStatusFollowsAVolume(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	gate := make(chan struct{})
	r.store.set(func(s *fakeStore) { s.gate, s.lease = gate, time.Hour })
	published := make(chan error, 1)
	go func() { published <- r.Publish(t.Context(), req) }()
	testkit.Eventually(t, "the store is asked", func() bool { return r.store.count() == 1 })
	if s := r.only(); s.State != volume.Publishing || s.ID != req.ID || s.Pod != req.Pod || s.Class != req.Class || s.Since.IsZero() {
		t.Errorf("while it is published: %+v", s)
	}
	close(gate)
	testkit.Must(t, <-published)
	s := r.only()
	if s.State != volume.Fresh || s.Provider != "fake" || s.ClassVersion != "1" || len(s.Versions) != 1 || s.PublishedAt.IsZero() || s.NextAt.IsZero() || s.Failures != 0 {
		t.Errorf("published: %+v", s)
	}
	if len(s.Ends) != 1 || len(s.EndsOf) != 1 || s.EndsOf[0] != "password" {
		t.Errorf("the credential ends %v, of %q", s.Ends, s.EndsOf)
	}

	stop := r.background()
	r.store.set(func(st *fakeStore) { st.fail = fault.New(fault.Unavailable, "sealed") })
	r.refreshNow()
	failing := r.only()
	if failing.State != volume.Failing || failing.Failures != 1 || failing.LastReason != fault.Unavailable || failing.FailedAt.IsZero() || len(failing.Versions) != 1 {
		t.Errorf("after a failure: %+v", failing)
	}
	stop()
	r.restart()
	if s := r.only(); s.State != volume.Failing || s.LastFailure != failing.LastFailure || s.LastReason != fault.Unavailable || s.FailedAt.IsZero() || len(s.EndsOf) != 1 {
		t.Errorf("after a restart: %+v", s)
	}

	stop = r.background()
	r.classes.edit(func(c *class.Class) { c.OnDenied = class.DeniedEmpty })
	r.store.set(func(st *fakeStore) { st.fail = fault.New(fault.Denied, "no") })
	r.refreshNow()
	if s := r.only(); s.State != volume.Emptied {
		t.Errorf("after a denial: %+v", s)
	}
	r.store.set(func(st *fakeStore) { st.fail = nil })
	r.refreshNow()
	if s := r.only(); s.State != volume.Fresh || s.LastFailure != "" || s.LastReason != "" || !s.FailedAt.IsZero() {
		t.Errorf("after it recovered: %+v", s)
	}
	stop()
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	if all := r.Statuses(); len(all) != 0 {
		t.Errorf("after it went: %+v", all)
	}
	if o := r.Overview(); len(o.Revocations) != 1 || o.Revocations[0].Pod != req.Pod || o.Revocations[0].Provider != "fake" {
		t.Errorf("what is to be ended: %+v", o.Revocations)
	}
}

func TestStatusFromMemory(t *testing.T) {
	r := newRig(t)
	r.classes.edit(func(c *class.Class) { c.OnUnavailable = class.UnavailableLastGood })
	r.store.set(func(s *fakeStore) { s.fail, s.memory = fault.New(fault.Unavailable, "sealed"), "old" })
	r.publish(r.request("a"))
	if s := r.only(); s.State != volume.FromMemory || s.AsOf.IsZero() {
		t.Errorf("%+v", s)
	}
}

// A manual refresh concerns only the pod's volumes, and many of them in a row make one request.
func TestRefreshPod(t *testing.T) {
	r := newRig(t)
	a, b := r.request("a"), r.request("b")
	r.publish(a)
	r.publish(b)
	before := r.store.count()
	for range 50 {
		if ids := r.RefreshPod("shop", "a"); len(ids) != 1 || ids[0] != a.ID {
			t.Fatalf("refreshes %q", ids)
		}
	}
	if ids := r.RefreshPod("bank", "a"); len(ids) != 0 {
		t.Errorf("another namespace's pod: %q", ids)
	}
	for _, s := range r.Statuses() {
		if due := s.NextAt.Before(time.Now().Add(2 * time.Second)); due != (s.ID == a.ID) {
			t.Errorf("%s is due at %s", s.ID, s.NextAt)
		}
	}
	r.background()
	testkit.Eventually(t, "the volume is refreshed", func() bool { return r.store.count() == before+1 })
	r.store.set(func(s *fakeStore) {
		if s.fresh != 1 || s.requests[len(s.requests)-1].Volume != a.ID {
			t.Errorf("%d fresh reads", s.fresh)
		}
	})
}
