package suite

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
)

// recall: a new pod can start from the answers to pods of its own identity, and from nothing else.
func recall(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	w.PutDynamic("/app/db", time.Hour)
	shared := func(account, objects string) provider.Request {
		return w.request(w.pod(account), with(k8s(objects), "sessionSharing", "serviceAccount"))
	}
	lately := func() time.Time { return w.clock.now().Add(-time.Minute) }
	w.fetch(shared("web", oneObject))
	asked := w.clock.now()
	w.wantCounts(w.counted(func() {
		p, asOf, ok := w.provider.Recall(shared("web", oneObject), lately())
		if !ok || asOf.After(asked) || asOf.Before(lately()) {
			t.Fatalf("nothing recalled (%v, %v)", ok, asOf)
		}
		wantFile(t, p, "a", "value")
	}), nil)
	perPod, perAccount := shared("web", dynamicObjects), shared("web", dynamicObjects)
	w.fetch(perPod)
	perAccount.Class.CredentialScope = class.ScopeServiceAccount
	for name, r := range map[string]provider.Request{
		"another service account":     shared("intruder", oneObject),
		"a pod's own identity":        w.request(w.pod("web"), k8s(oneObject)),
		"an item nobody read":         shared("web", twoObjects),
		"another pod's credential":    shared("web", dynamicObjects),
		"a credential nobody has yet": perAccount,
	} {
		if p, _, ok := w.provider.Recall(r, lately()); ok {
			t.Errorf("%s: recalled %v", name, files(p))
		}
	}
	p := w.fetch(perAccount)
	next := shared("web", dynamicObjects)
	next.Class.CredentialScope = class.ScopeServiceAccount
	if again, _, ok := w.provider.Recall(next, lately()); !ok || files(again)["user"] != files(p)["user"] {
		t.Error("the service account's credential was not recalled")
	}
	w.clock.advance(2 * time.Minute)
	if _, _, ok := w.provider.Recall(shared("web", oneObject), lately()); ok {
		t.Error("what is too old was recalled")
	}
}

// comesBack: a volume whose credentials could not be revoked is published again under its old id,
// and revokes them later.
func comesBack(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(dynamicObjects))
	w.fetch(r)
	w.Disturb(akeylessd.Disturbance{Path: "/dynamic-secret-tmp-creds-delete", Status: 503, Body: `{"error":"starting"}`})
	if err := w.provider.Release(t.Context(), r.Volume); err == nil {
		t.Fatal("Release succeeded though the credential lives")
	}
	w.Heal()
	w.clock.advance(2 * time.Second) // the circuit is open
	w.fetch(r)
	w.wantCredentials(2, 2)
	w.release(r)
	w.wantCredentials(2, 0)
}

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
