package suite

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
)

// refusedNeverInFiles: a refused item does not get into a file that never had it, though the
// identity read it before.
func refusedNeverInFiles(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "one")
	w.PutStatic("/app/x", "refused")
	pod := w.pod("web")
	first := w.fetch(w.request(pod, k8s("\n- {secretPath: /app/a, fileName: a, secretType: static}")))
	const edited = `
- {secretPath: /app/a, fileName: a, secretType: static}
- {secretPath: /app/x, fileName: x, secretType: static}
- {secretPath: /app/y, fileName: y, secretType: static}`
	r := w.request(pod, k8s(edited))
	r.Current, r.Fresh = first.Versions, true
	w.refuse(r, "/app/y")
	w.Forbid()
	for _, prefix := range []string{"/app/a", "/app/y"} {
		w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: prefix, Claims: map[string]string{"namespace": "shop", "service_account_name": "web"}})
	}
	w.PutStatic("/app/y", "why")
	w.clock.advance(3 * time.Minute)
	r = w.request(pod, k8s(edited))
	r.Current = first.Versions // the files hold a alone
	p, err := w.provider.Fetch(t.Context(), r)
	if err == nil {
		t.Errorf("files %v, though x is refused", files(p))
	}
}

// credentialsLast: a first publish that fails for a missing item makes no
// credential, however often kubelet tries.
func credentialsLast(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	pod := w.pod("web")
	for range 3 {
		w.refuse(w.request(pod, k8s(staticAndDynamic)), "/app/a")
	}
	if made, _ := w.Credentials(); made != 0 {
		t.Errorf("%d credentials were made in vain", made)
	}
	w.PutStatic("/app/a", "value")
	w.fetch(w.request(pod, k8s(staticAndDynamic)))
	if made, alive := w.Credentials(); made != 1 || alive != 1 {
		t.Errorf("%d credentials made, %d alive, want 1", made, alive)
	}
}
