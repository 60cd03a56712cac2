package suite

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
)

// wayOut: a volume with a credential always has a way to revoke it. With nothing due for hours, the
// provider takes kubelet's newer service account tokens in time, without a request.
func wayOut(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.AuthMethod(k8sID, akeylessd.Method{Type: "k8s", ConfigName: config, Audience: audience, Life: 10 * time.Minute})
	w.PutDynamic("/app/db", 100*time.Hour)
	pod := w.pod("web")
	p := w.fetch(w.request(pod, k8s(dynamicObjects)))
	for range 3 {
		wait := p.RefreshAt.Sub(w.clock.now())
		if wait < 30*time.Minute || wait >= time.Hour {
			t.Fatalf("the next look is in %v, and the service account token ends in an hour", wait)
		}
		w.clock.advance(wait)
		w.wantCounts(w.counted(func() { p = w.fetch(w.request(pod, k8s(dynamicObjects))) }), nil)
	}
	w.clock.advance(30 * time.Minute)
	w.release(w.request(pod, k8s(dynamicObjects)))
	w.wantCredentials(1, 0)
}
