package volume_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"testing/synctest"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// wantReleases wants so many releases by the provider fake and by the other.
func (r *rig) wantReleases(fake, other int) {
	r.t.Helper()
	if a, b := r.store.releases(), r.other.releases(); a != fake || b != other {
		r.t.Errorf("%d releases by the provider and %d by the other, want %d and %d", a, b, fake, other)
	}
}

// wantLive wants the one record to be of a live volume of the provider.
func (r *rig) wantLive(provider string) {
	r.t.Helper()
	if rec := r.onlyRecord(); rec.Leaving || rec.PublishedAt.IsZero() || rec.Provider != provider {
		r.t.Errorf("the record is of provider %s, leaving %t, published at %s", rec.Provider, rec.Leaving, rec.PublishedAt)
	}
}

// The driver refuses an edit of the provider under a running pod, also after a restart, and reports it.
// It refreshes the pod with the class that the pod had, and asks no other provider.
func TestProviderCannotChange(t *testing.T) {
	r := newRig(t)
	stop := r.background()
	req := r.request("a")
	r.publish(req)
	r.classes.edit(func(c *class.Class) { c.Provider = "other" })
	for _, value := range []string{"two", "three"} {
		r.store.set(func(s *fakeStore) { s.files["password"] = value })
		o := r.refreshNow()
		testkit.Fails(t, o.Err, fault.InvalidClass, "SecretProviderClass shop/secrets: spec.provider cannot change under a running pod: restart it", `"fake"`, `"other"`)
		r.wantFile(req, "password", value)
		testkit.Equal(t, "fetches from the other provider", r.other.count(), 0)
		stop()
		r.restart()
		stop = r.background()
	}
	r.publish(req) // kubelet's republish is not held up
	r.wantReleases(0, 0)

	restarted := r.request("b") // the pod that takes its place
	r.publish(restarted)
	testkit.Equal(t, "fetches from the other provider for a new pod", r.other.count(), 1)
	testkit.Must(t, r.Unpublish(t.Context(), restarted.ID, restarted.Target))
	r.classes.edit(func(c *class.Class) { c.Provider = "fake" })
	if o := r.refreshNow(); o.Err != nil {
		t.Errorf("after the edit is undone: %v", o.Err)
	}
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	testkit.Eventually(t, "both are released", func() bool { return len(r.records()) == 0 })
	r.wantReleases(1, 1)
}

// leave publishes and unpublishes, and leaves a revocation that fails.
func (r *rig) leave(req volume.Request) {
	r.t.Helper()
	stop := r.background()
	r.store.set(func(s *fakeStore) { s.failRel = 1000 })
	r.publish(req)
	testkit.Must(r.t, r.Unpublish(r.t.Context(), req.ID, req.Target))
	testkit.Eventually(r.t, "a release has failed", func() bool { return r.seen.count(volume.ReleaseFailed, true) > 0 })
	stop()
	if rec := r.onlyRecord(); !rec.Leaving || rec.Provider != "fake" || string(rec.ProviderState.Reveal()) != "state of "+req.ID {
		r.t.Fatalf("the record is of provider %s with state %q, leaving %t", rec.Provider, rec.ProviderState.Reveal(), rec.Leaving)
	}
	r.store.set(func(s *fakeStore) { s.failRel = 0 })
}

// A new volume of the same id and provider uses the credentials that the driver still had to revoke.
// The driver revokes them with the new volume, also if it is killed before it deletes the revocation's
// record.
func TestPublishTakesARevocationOver(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(map[bool]string{false: "at once", true: "over restarts"}[restart], func(t *testing.T) {
			r := newRig(t)
			req := r.request("a")
			r.leave(req)
			file := r.records()[0]
			revocation := testkit.Value(os.ReadFile(file))(t)
			if restart {
				r.restart()
				testkit.Equal(t, "imported", r.store.imported[req.ID], "state of "+req.ID)
			}
			r.publish(req)
			r.wantLive("fake")
			if restart {
				testkit.Must(t, os.WriteFile(file, revocation, 0o600))
				r.restart()
				r.wantLive("fake")
			}
			r.background()
			r.refreshNow()
			r.wantFile(req, "password", "one")
			r.wantReleases(0, 0)
			testkit.Empty(t, "revocations that are still to come", r.Overview().Revocations)
			testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
			testkit.Eventually(t, "the credentials are released", func() bool { return len(r.records()) == 0 })
			r.wantReleases(1, 0)
		})
	}
}

// A new volume of the same id and another provider does not wait for the
// revocation, which goes on and ends nothing of the new volume.
func TestPublishBesideARevocationOfAnotherProvider(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(map[bool]string{false: "at once", true: "over a restart"}[restart], func(t *testing.T) {
			r := newRig(t)
			req := r.request("a")
			r.leave(req)
			r.classes.edit(func(c *class.Class) { c.Provider = "other" })
			r.publish(req)
			testkit.Equal(t, "records: the volume's, and the revocation's", len(r.records()), 2)
			if restart {
				r.restart()
			}
			r.background()
			testkit.Eventually(t, "the earlier provider has released", func() bool { return r.store.releases() == 1 })
			testkit.Eventually(t, "the revocation is forgotten", func() bool { return len(r.records()) == 1 })
			r.wantLive("other")
			r.wantFile(req, "password", "one")
			r.wantReleases(1, 0)
			testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
			testkit.Eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
			r.wantReleases(1, 1)
		})
	}
}

// A publish that fails neither revokes early nor leaves a credential alive, whether it has cancelled
// a revocation or not.
func TestFailedPublishGoesOnWithARevocation(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*rig)
		want  fault.Reason
	}{
		"before the store is asked": {func(r *rig) { r.classes.spoil(fault.New(fault.ClassNotFound, "the class is gone")) }, fault.ClassNotFound},
		"by the store":              {func(r *rig) { r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Denied, "no") }) }, fault.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			req := r.request("a")
			r.leave(req)
			tc.spoil(r)
			testkit.Fails(t, r.Publish(t.Context(), req), tc.want)
			if rec := r.onlyRecord(); !rec.Leaving || rec.Provider != "fake" {
				t.Errorf("the record is of provider %s, leaving %t", rec.Provider, rec.Leaving)
			}
			r.restart()
			r.background()
			testkit.Eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
			r.wantReleases(1, 0)
		})
	}
}

// A publish waits for a release of the same id that runs, and never runs beside
// it: the provider could end what the new volume gets.
func TestPublishWaitsForARelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunning(t)
		gate := make(chan struct{})
		r.store.relGate = gate
		req := r.request("a")
		r.publish(req)
		testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
		synctest.Wait() // the release waits at the gate
		ctx, cancel := context.WithCancel(t.Context())
		published := make(chan error, 2)
		go func() { published <- r.Publish(ctx, req) }()
		synctest.Wait() // the publish waits for the release
		cancel()
		testkit.Fails(t, <-published, fault.Canceled, "waiting for the revocation", "provider fake")
		r.wantNoTarget(req)
		go func() { published <- r.Publish(t.Context(), req) }()
		synctest.Wait()
		testkit.Equal(t, "fetches while the release runs, with that of the volume before", r.store.count(), 1)
		close(gate)
		testkit.Must(t, <-published)
		synctest.Wait()
		r.wantReleases(1, 0)
		r.wantLive("fake")
		r.wantFile(req, "password", "one")
	})
}

// Pods of one tenant that come and go at a server that does not revoke do not delay the revocations of
// another tenant, neither at another server nor at the same one.
func TestSlowReleasesHoldUpNoOtherTenant(t *testing.T) {
	for _, server := range []string{"the same", "another"} {
		t.Run(server, func(t *testing.T) {
			r := newRunning(t)
			r.store.keptBack, r.store.servers = map[string]bool{}, map[string]string{}
			for i := range 12 {
				req := r.request(fmt.Sprint("evil", i))
				req.Pod.Namespace = "evil"
				r.store.set(func(s *fakeStore) { s.keptBack[req.ID], s.servers[req.ID] = true, "the same" })
				r.publish(req)
				testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
			}
			good := r.request("good")
			r.store.set(func(s *fakeStore) { s.servers[good.ID] = server })
			r.publish(good)
			testkit.Must(t, r.Unpublish(t.Context(), good.ID, good.Target))
			testkit.Eventually(t, "the release of the other tenant", func() bool { return r.store.releases() == 1 })
		})
	}
}

// A panic of a provider affects no other volume and leaves no lock behind.
func TestPanicsOfTheProvider(t *testing.T) {
	r := newRunning(t)
	req, other := r.request("a"), r.request("b")
	r.publish(req)
	r.publish(other)
	r.store.set(func(s *fakeStore) { s.panics = true })
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target)) // Export and Release
	r.RefreshAll()
	testkit.Eventually(t, "the refresh has failed", func() bool { return r.seen.count(volume.Refreshed, true) > 0 })
	r.restart() // Import
	testkit.Says(t, r.Publish(t.Context(), r.request("c")), "the driver has a defect")
	r.store.set(func(s *fakeStore) { s.panics = false })
	r.background()
	testkit.Eventually(t, "the release is done after all", func() bool { return r.store.releases() > 0 })
	r.RefreshAll()
	testkit.Eventually(t, "the other volume is refreshed", func() bool { return r.seen.count(volume.Refreshed, false) > 0 })
}
