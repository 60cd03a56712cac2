package vault_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestSteadyState lets intervals pass: one request for each distinct
// secret and identity in each, however many volumes there are.
func TestSteadyState(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now, cfg.DefaultInterval = c.now, time.Minute })
	type due struct {
		r  provider.Request
		at time.Time
	}
	var volumes []due
	for range 20 {
		r := w.request(t, w.pod("app"), nil, two)
		volumes = append(volumes, due{r, mustFetch(t, p, r).RefreshAt})
		c.advance(time.Second)
	}
	const seconds = 8 * 60
	counts := w.counted(t, func() {
		for range seconds {
			c.advance(time.Second)
			for i := range volumes {
				if !c.now().Before(volumes[i].at) {
					volumes[i].at = mustFetch(t, p, volumes[i].r).RefreshAt
				}
			}
		}
	})
	for _, path := range []string{"kv1/share", "kv2/data/share"} {
		if counts[path] < 7 || counts[path] > 9 {
			t.Errorf("%d reads of %s in 8 intervals", counts[path], path)
		}
	}
	if n := counts.Under("auth/"); n != 0 {
		t.Errorf("%d logins and renewals, want none: %v", n, counts)
	}
	c.advance(33 * time.Minute) // to two thirds of the Vault token's hour
	counts = w.counted(t, func() {
		for i := range volumes {
			mustFetch(t, p, volumes[i].r)
		}
	})
	if counts["auth/token/renew-self"] != 1 || under(counts, "/login") != 0 {
		t.Errorf("requests %v, want one renewal", counts)
	}
}

// TestFreshIsReadOnce has all volumes of an edited class read at once.
func TestFreshIsReadOnce(t *testing.T) {
	w := shared
	w.putShare(t, "old")
	p := newProvider(t, nil)
	var requests []provider.Request
	for range 30 {
		r := w.request(t, w.pod("app"), nil, two)
		mustFetch(t, p, r)
		r.Fresh = true
		requests = append(requests, r)
	}
	w.putShare(t, "new")
	counts := w.counted(t, func() { fetchAll(t, p, 30, requests) })
	if counts["kv1/share"] > 10 {
		t.Errorf("%d reads for 30 volumes at once", counts["kv1/share"])
	}
	for _, r := range requests {
		r.Fresh = false
		wantFile(t, mustFetch(t, p, r), "a", "new")
	}
}

// TestMetadataCheckIsNotForEver reads the data once an hour: the policy may now allow only the
// metadata.
func TestMetadataCheckIsNotForEver(t *testing.T) {
	w := shared
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	w.kv2(t, "watched/hour", map[string]any{"k": "one"})
	r := w.longTokens(t, w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: kv2/data/watched/hour, secretKey: k}"))
	mustFetch(t, p, r)
	state := p.Export(r.Volume)
	for _, want := range []struct{ polls, reads int }{{29, 0}, {30, 1}} {
		counts := w.counted(t, func() {
			for n := range want.polls {
				if n == 14 { // a restart does not count anew
					p = newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
					testkit.Must(t, p.Import(r.Volume, state))
				}
				c.advance(2 * time.Minute)
				mustFetch(t, p, r)
				state = p.Export(r.Volume)
			}
		})
		if got := counts["kv2/data/watched/hour"]; got != want.reads {
			t.Errorf("%d reads of the data in %d polls, want %d", got, want.polls, want.reads)
		}
	}
}

// TestMetadataCheck reads only the version if the policy allows that.
func TestMetadataCheck(t *testing.T) {
	w := shared
	for _, tc := range []struct {
		path            string
		meta, data      int // of three polls without a change
		metaCh, dataCh  int // of one with a change
		metaDel, reason string
	}{
		{path: "watched/a", meta: 3, data: 0, metaCh: 1, dataCh: 1},
		{path: "unwatched", meta: 1, data: 3, metaCh: 0, dataCh: 1},
	} {
		c := &clock{}
		p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
		w.kv2(t, tc.path, map[string]any{"k": "one"})
		r := w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: kv2/data/"+tc.path+", secretKey: k}")
		mustFetch(t, p, r)
		poll := func(times int) map[string]int {
			return w.counted(t, func() {
				for range times {
					c.advance(2 * time.Minute)
					mustFetch(t, p, r)
				}
			})
		}
		if n := poll(3); n["kv2/metadata/"+tc.path] != tc.meta || n["kv2/data/"+tc.path] != tc.data {
			t.Errorf("%s unchanged: %v", tc.path, n)
		}
		w.kv2(t, tc.path, map[string]any{"k": "two"})
		if n := poll(1); n["kv2/metadata/"+tc.path] != tc.metaCh || n["kv2/data/"+tc.path] != tc.dataCh {
			t.Errorf("%s changed: %v", tc.path, n)
		}
		wantFile(t, mustFetch(t, p, r), "f", "two")

		// Deleted for good and made anew: version 2 again, but another one.
		if _, err := w.Client().Logical().DeleteWithContext(t.Context(), "kv2/metadata/"+tc.path); err != nil {
			t.Fatal(err)
		}
		w.kv2(t, tc.path, map[string]any{"k": "x"})
		w.kv2(t, tc.path, map[string]any{"k": "another two"})
		c.advance(2 * time.Minute)
		wantFile(t, mustFetch(t, p, r), "f", "another two")

		testkit.Must(t, w.Write(t.Context(), "kv2/delete/"+tc.path, map[string]any{"versions": []int{2}}))
		c.advance(2 * time.Minute)
		if _, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.NotFound || !strings.Contains(err.Error(), "was deleted") {
			t.Errorf("a deleted secret: %v", err)
		}
	}
}

// TestMetadataCheckOutlivesARevokedToken revokes the Vault token: a refusal of the metadata for that
// reason does not end the checks.
func TestMetadataCheckOutlivesARevokedToken(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	w.kv2(t, "watched/a", map[string]any{"k": "one"})
	r := w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: kv2/data/watched/a, secretKey: k}")
	mustFetch(t, p, r)
	testkit.Must(t, w.Write(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login", nil))
	c.advance(2 * time.Minute)
	mustFetch(t, p, r)
	counts := w.counted(t, func() {
		for range 3 {
			c.advance(2 * time.Minute)
			mustFetch(t, p, r)
		}
	})
	if counts["kv2/metadata/watched/a"] != 3 || counts["kv2/data/watched/a"] != 0 {
		t.Errorf("requests %v, want a look at the version only", counts)
	}
}

// TestManyAskForNothing has volumes of one identity ask at once for a path that is not there. Those
// for which it is optional are served, and the others are told.
func TestManyAskForNothing(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	p := newProvider(t, nil)
	mustFetch(t, p, w.request(t, w.pod("app"), nil, two))
	var wg sync.WaitGroup
	for i := range 20 {
		missing := w.request(t, w.pod("app"), nil, "- {objectName: a, secretPath: kv1/nowhere, secretKey: k}")
		wg.Go(func() {
			if i%2 == 0 {
				missing.Class.Parameters["objects"] = "- {objectName: a, secretPath: kv1/nowhere, secretKey: k, optional: true}"
			}
			_, err := p.Fetch(t.Context(), missing)
			if (err == nil) != (i%2 == 0) || (err != nil && fault.Of(err) != fault.NotFound) {
				t.Errorf("optional %v: %v", i%2 == 0, err)
			}
		})
	}
	wg.Wait()
}
