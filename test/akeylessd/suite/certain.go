package suite

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
)

// foreignAnswers has a proxy answer for the gateway before a live volume, whose
// file may be missing: every such answer is an outage.
func foreignAnswers(t *testing.T, o Options) {
	w := newWorld(t, o, func(c *akeyless.Config) { c.MaxRetries = -1 })
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s("- {secretPath: /app/a, fileName: a, secretType: static, optional: true}"))
	r.Current = w.fetch(r).Versions
	r.Fresh = true
	for _, d := range []akeylessd.Disturbance{
		{Status: 404, Body: "default backend - 404"},
		{Status: 404, Body: `{"message":"no Route matched with those values"}`},
		{Status: 403, Body: "<html>blocked"},
		{Status: 401},
		{Status: 200, Body: `{"status":"maintenance"}`},
	} {
		w.Heal()
		d.Path = "/get-secret-value"
		w.Disturb(d)
		w.clock.advance(10 * time.Second)
		if p, err := w.provider.Fetch(t.Context(), r); err == nil || !fault.Of(err).Outage() {
			t.Errorf("%d %q: %v, %s: %v", d.Status, d.Body, p, fault.Of(err), err)
		}
	}
	w.Heal()
	w.clock.advance(10 * time.Second)
	if p := w.fetch(r); len(p.Files) != 1 {
		t.Errorf("afterwards %d files", len(p.Files))
	}
}

// denialRepeated refuses a live volume: that counts when it is repeated.
func denialRepeated(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s(oneObject))
	r.Current = w.fetch(r).Versions
	r.Fresh = true
	w.Disturb(akeylessd.Disturbance{Path: "/get-secret-value", Status: 403, Body: `{"error":"Forbidden"}`})
	for _, want := range []fault.Reason{fault.Unverified, fault.Denied} {
		_, err := w.provider.Fetch(t.Context(), r)
		if fault.Of(err) != want {
			t.Errorf("%s, want %s: %v", fault.Of(err), want, err)
		}
		w.clock.advance(fault.RetryAfter(err))
	}
}
