package suite

import (
	"maps"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

func (w *world) wantFiles(p *provider.Payload, want map[string]string) {
	w.t.Helper()
	if got := files(p); !maps.Equal(got, want) {
		w.t.Errorf("files %q, want %q", got, want)
	}
}

// wholeSecrets: each key of a value is a file, and comes and goes with the key.
func wholeSecrets(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/json", map[string]any{"user": "ann", "hosts": []string{"a", "b"}})
	w.PutStatic("/app/json-text", `{"tls.key":"k","tls.crt":"c"}`)
	w.PutStatic("/app/text", "plain")
	w.PutRotated("/app/rotated", map[string]any{"username": "root", "payload": `{"token":"deep","username":"inner"}`}, time.Time{})
	r := w.request(w.pod("web"), k8s(`
- {secretPath: /app/json, secretKeys: "*", secretType: static}
- {secretPath: /app/json-text, fileName: tls, secretKeys: {"*": "*", "tls\\.key": key, tls.crt: crt}, secretType: static}
- {secretPath: /app/rotated, objectName: root, secretKeys: "*"}
- {secretPath: /app/perhaps, fileName: none, secretKeys: "*", secretType: static, optional: true}`))
	want := map[string]string{
		"user": "ann", "hosts": `["a","b"]`, "tls/key": "k", "tls/crt": "c", "root/username": "root", "root/token": "deep",
	}
	p := w.fetch(r)
	w.wantFiles(p, want)
	r.Current = p.Versions
	w.PutStatic("/app/json", map[string]any{"user": "bob", "port": 1})
	w.PutStatic("/app/perhaps", map[string]any{"there": "now"})
	w.clock.advance(10 * time.Minute)
	want["user"], want["port"], want["none/there"] = "bob", "1", "now"
	delete(want, "hosts")
	p = w.fetch(r)
	w.wantFiles(p, want)

	const text = `[{secretPath: /app/text, fileName: x, secretKeys: "*", secretType: static}]`
	if err := w.refuse(w.request(w.pod("web"), k8s(text)), `objects[0] "x/*"`, "/app/text has no keys"); fault.Of(err) != fault.NotFound {
		t.Errorf("reason %s", fault.Of(err))
	}
}
