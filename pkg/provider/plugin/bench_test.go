package plugin_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// BenchmarkFetch measures the cost of a plugin's publish beyond the provider's own time:
// "over-p50-us" is the median of the one less the median of the other, in microseconds. Mayfly's
// own limit is 1000.
func BenchmarkFetch(b *testing.B) {
	for name, size := range map[string]int{"2x4KiB": 4 << 10, "2x256KiB": 256 << 10} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, plugin.Config{})
			w.server.Forget = true
			value := string(make([]byte, size))
			w.store.Set("db", value)
			w.store.Set("api", value)
			p, r := w.get("aws"), w.request()
			r.Secrets = secretsOf("clientid", "id-0123", "clientsecret", "p@ss<w>or\"d")
			testkit.Value(p.Fetch(b.Context(), r))(b)
			own := w.ownTime(b, r)
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				testkit.Value(p.Fetch(b.Context(), r))(b)
				took = append(took, time.Since(began))
			}
			b.ReportMetric(float64((median(took)-own).Nanoseconds())/1000, "over-p50-us")
			b.ReportMetric(float64(own.Nanoseconds())/1000, "own-p50-us")
		})
	}
}

// ownTime is the provider's time for a mount with a direct call.
func (w *world) ownTime(b *testing.B, r provider.Request) time.Duration {
	b.Helper()
	w.server.Forget = false
	testkit.Value(w.get("aws").Fetch(b.Context(), r))(b)
	requests := w.server.Requests()
	w.server.Forget = true
	var m v1alpha1.CSIDriverProviderServer = w.server
	var took []time.Duration
	for range 200 {
		began := time.Now()
		testkit.Value(m.Mount(context.Background(), requests[len(requests)-1]))(b)
		took = append(took, time.Since(began))
	}
	return median(took)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
