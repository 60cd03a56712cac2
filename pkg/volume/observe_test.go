package volume_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// last is the newest outcome of a kind.
func (o *observer) last(k volume.Kind) volume.Outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range slices.Backward(o.outcomes) {
		if x.Kind == k {
			return x
		}
	}
	return volume.Outcome{}
}

// refreshNow has every volume refreshed, and gives the outcome.
func (r *rig) refreshNow() volume.Outcome {
	r.t.Helper()
	done := func() int { return r.seen.count(volume.Refreshed, false) + r.seen.count(volume.Refreshed, true) }
	before := done()
	r.RefreshAll()
	testkit.Eventually(r.t, "the refresh is done", func() bool { return done() > before })
	return r.seen.last(volume.Refreshed)
}

// An outcome has the version of the class, the claims of the tokens and the ids of the requests, also
// after a failure.
func TestOutcomesSayWhoAsked(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("jwt-1"), Claims: identity.Claims{ID: "jti-1", ServiceAccountUID: "sa-1"}}}
	r.store.fail = fault.New(fault.Denied, "no")
	check := func(o volume.Outcome, version string, asked ...string) {
		t.Helper()
		claims := []identity.AudienceClaims{{Audience: "vault", Claims: identity.Claims{ID: "jti-1", ServiceAccountUID: "sa-1"}}}
		if o.ClassVersion != version || !slices.Equal(o.Tokens, claims) || !slices.Equal(o.Asked, asked) {
			t.Errorf("class version %q, tokens %v, asked %q, want %q and %q", o.ClassVersion, o.Tokens, o.Asked, version, asked)
		}
	}
	testkit.Fails(t, r.Publish(t.Context(), req), fault.Denied)
	check(r.seen.last(volume.Published), "1", "fetch-1")
	r.store.fail = nil
	r.publish(req)
	check(r.seen.last(volume.Published), "1", "fetch-2")
	r.background()
	r.classes.edit(func(*class.Class) {})
	check(r.refreshNow(), "1+", "fetch-3")
	r.store.set(func(s *fakeStore) { s.failRel = 1 })
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	check(r.seen.last(volume.Unpublished), "1+")
	testkit.Eventually(t, "the release is done", func() bool {
		return r.store.releases() > 0 && r.seen.last(volume.Released).ID != "" && len(r.seen.last(volume.Released).Asked) == 2
	})
	check(r.seen.last(volume.Released), "1+", "release-1", "release-0")
}

// An outcome says whether a failure repeats the one before.
func TestRepeatedFailures(t *testing.T) {
	r := newRig(t)
	r.publish(r.request("a"))
	r.background()
	for range 2 {
		r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "sealed") })
		r.refreshNow()
		r.refreshNow()
		r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Denied, "no") })
		r.refreshNow()
		r.store.set(func(s *fakeStore) { s.fail = nil })
		r.refreshNow()
	}
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	var before fault.Reason
	repeated := 0
	for _, o := range r.seen.outcomes {
		if o.Kind != volume.Refreshed {
			continue
		}
		if want := o.Err != nil && o.Reason() == before; o.Repeated != want {
			t.Errorf("a %q after a %q is said to repeat: %t", o.Reason(), before, o.Repeated)
		}
		if o.Repeated {
			repeated++
		}
		before = o.Reason()
	}
	if repeated < 2 {
		t.Errorf("%d repeated failures, want 2 at least", repeated)
	}
}

// Until the driver has read the store, the outcomes have the time of the last good content, also after
// a restart.
func TestLastGoodOutlivesARestart(t *testing.T) {
	r := newRig(t)
	r.classes.class.OnUnavailable = class.UnavailableLastGood
	r.store.memory, r.store.fail = "remembered", fault.New(fault.Unavailable, "down")
	r.publish(r.request("a"))
	asOf := r.seen.last(volume.Published).AsOf
	r.restart()
	if got := r.seen.last(volume.Recovered).AsOf; asOf.IsZero() || !got.Equal(asOf) {
		t.Errorf("recovered as of %s, want %s", got, asOf)
	}
	r.background()
	if o := r.refreshNow(); o.Err == nil || !o.AsOf.Equal(asOf) {
		t.Errorf("a failed refresh (%v) is as of %s", o.Err, o.AsOf)
	}
	r.store.set(func(s *fakeStore) { s.fail = nil })
	testkit.Eventually(t, "the store was read", func() bool { return r.seen.count(volume.Refreshed, false) > 0 })
	if o := r.seen.last(volume.Refreshed); !o.AsOf.IsZero() {
		t.Errorf("a good refresh is as of %s", o.AsOf)
	}
}

// The observer gets the release of a volume after its unpublish.
func TestReleaseIsToldAfterUnpublish(t *testing.T) {
	r := newRunning(t)
	for i := range 50 {
		req := r.request(fmt.Sprint("p", i))
		r.publish(req)
		testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	}
	testkit.Eventually(t, "all is released", func() bool { return r.seen.count(volume.Released, false) == 50 })
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	gone := map[string]bool{}
	for _, o := range r.seen.outcomes {
		switch o.Kind {
		case volume.Unpublished:
			gone[o.ID] = true
		case volume.Released:
			if !gone[o.ID] {
				t.Errorf("%s is released before it is unpublished", o.ID)
			}
		}
	}
}

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
	testkit.Equal(t, "after a denial", r.only().State, volume.Emptied)
	r.store.set(func(st *fakeStore) { st.fail = nil })
	r.refreshNow()
	if s := r.only(); s.State != volume.Fresh || s.LastFailure != "" || s.LastReason != "" || !s.FailedAt.IsZero() {
		t.Errorf("after it recovered: %+v", s)
	}
	stop()
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	testkit.Equal(t, "after it went", len(r.Statuses()), 0)
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
	testkit.Equal(t, "another namespace's pod", len(r.RefreshPod("bank", "a")), 0)
	for _, s := range r.Statuses() {
		testkit.Equal(t, "due at once, "+s.ID, s.NextAt.Before(time.Now().Add(2*time.Second)), s.ID == a.ID)
	}
	r.background()
	testkit.Eventually(t, "the volume is refreshed", func() bool { return r.store.count() == before+1 })
	r.store.set(func(s *fakeStore) {
		if s.fresh != 1 || s.requests[len(s.requests)-1].Volume != a.ID {
			t.Errorf("%d fresh reads", s.fresh)
		}
	})
}
