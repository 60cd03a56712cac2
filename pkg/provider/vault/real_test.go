package vault_test

import (
	"testing"
)

func TestSmoke(t *testing.T) {
	w := shared
	w.kv1(t, "smoke", map[string]any{"user": "u1", "n": 12345678901234567})
	w.kv2(t, "smoke", map[string]any{"password": "<p&w>", "deep": map[string]any{"a": "b<"}})
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, `
- objectName: user
  secretPath: kv1/smoke
  secretKey: user
- objectName: n
  secretPath: /v1/kv1/smoke
  secretKey: n
- objectName: dir/password
  secretPath: /kv2/data/smoke
  secretKey: password
  filePermission: 0640
- objectName: deep
  secretPath: v1/kv2/data/smoke
  secretKey: deep
- objectName: whole
  secretPath: kv1/smoke
`)
	payload := mustFetch(t, p, r)
	wantFile(t, payload, "user", "u1")
	wantFile(t, payload, "n", "12345678901234567")
	wantFile(t, payload, "dir/password", "<p&w>")
	wantFile(t, payload, "deep", `{"a":"b<"}`)
	t.Log(files(payload)["whole"], payload.Versions, payload.Warnings, payload.RefreshAt)
	if err := p.Release(t.Context(), r.Volume); err != nil {
		t.Fatal(err)
	}
}
