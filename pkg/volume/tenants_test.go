package volume_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Pods of one tenant that come and go at a server that does not revoke do not delay the revocations of
// another tenant, neither at another server nor at the same one.
func TestSlowReleasesHoldUpNoOtherTenant(t *testing.T) {
	for _, server := range []string{"the same", "another"} {
		t.Run(server, func(t *testing.T) {
			r := newRig(t)
			r.background()
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
	r := newRig(t)
	r.background()
	req, other := r.request("a"), r.request("b")
	r.publish(req)
	r.publish(other)
	r.store.set(func(s *fakeStore) { s.panics = true })
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target)) // Export and Release
	r.RefreshAll()
	testkit.Eventually(t, "the refresh has failed", func() bool { return r.seen.count(volume.Refreshed, true) > 0 })
	r.restart() // Import
	if err := r.Publish(t.Context(), r.request("c")); err == nil || !strings.Contains(err.Error(), "the driver has a defect") {
		t.Errorf("got %v", err)
	}
	r.store.set(func(s *fakeStore) { s.panics = false })
	r.background()
	testkit.Eventually(t, "the release is done after all", func() bool { return r.store.releases() > 0 })
	r.RefreshAll()
	testkit.Eventually(t, "the other volume is refreshed", func() bool { return r.seen.count(volume.Refreshed, false) > 0 })
}
