package vault_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func wantFiles(t *testing.T, p *provider.Payload, want map[string]string) {
	t.Helper()
	testkit.Equal(t, "files", files(p), want)
	var ids, names []string
	for i, v := range p.Versions {
		ids, names = append(ids, v.ID), append(names, p.Files[i].Path)
	}
	testkit.Equal(t, "versions, and files", ids, names)
}

func versionOf(p *provider.Payload, id string) string {
	for _, v := range p.Versions {
		if v.ID == id {
			return v.Version
		}
	}
	return ""
}

// TestWholeSecret adds and removes keys of a secret. The provider keeps only a part of a large answer,
// with the same keys.
func TestWholeSecret(t *testing.T) {
	t.Parallel()
	w := shared
	large := strings.Repeat("x", 3<<10)
	for name, tc := range map[string]struct {
		path     string
		put      func(*testing.T, map[string]any)
		versions bool
	}{
		"KV version 2": {path: "kv2/data/watched/whole", put: func(t *testing.T, d map[string]any) { w.kv2(t, "watched/whole", d) }, versions: true},
		"KV version 1": {path: "kv1/whole", put: func(t *testing.T, d map[string]any) { w.kv1(t, "whole", d) }},
	} {
		for _, filler := range []string{"small", large} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, len(filler)), func(t *testing.T) {
				c := &clock{}
				p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
				r := w.longTokens(t, w.request(t, w.pod("app"), nil, "- {objectName: db, secretPath: "+tc.path+`, secretKeys: {"*": "*", "../bad": good}, mode: 0400}`+
					"\n- {objectName: user, secretPath: "+tc.path+", secretKey: username}\n"))
				tc.put(t, map[string]any{"username": "u1", "filler": filler, "a.b": map[string]any{"c": 1.50}, "../bad": "name"})
				want := map[string]string{"db/username": "u1", "db/filler": filler, "db/a.b": `{"c":1.5}`, "db/good": "name", "user": "u1"}
				before := mustFetch(t, p, r)
				wantFiles(t, before, want)
				for i, f := range before.Files {
					if strings.HasPrefix(f.Path, "db/") && f.Mode != 0o400 || tc.versions && before.Versions[i].Version != before.Versions[0].Version {
						t.Errorf("%+v %+v", f.Path, before.Versions[i])
					}
				}
				r.Current = before.Versions
				c.advance(10 * time.Minute)
				unchanged := w.counted(t, func() { before = mustFetch(t, p, r) })
				if tc.versions && unchanged[tc.path] != 0 {
					t.Errorf("an unchanged secret was read: %v", unchanged)
				}
				wantFiles(t, before, want)
				testkit.Equal(t, "versions, as before", before.Versions, r.Current)

				tc.put(t, map[string]any{"username": "u2", "token": filler, "../bad": "name"})
				c.advance(10 * time.Minute)
				after := mustFetch(t, p, r)
				want = map[string]string{"db/username": "u2", "db/token": filler, "db/good": "name", "user": "u2"}
				wantFiles(t, after, want)
				if v := versionOf(after, "db/username"); v == versionOf(before, "db/username") || v != versionOf(after, "db/token") {
					t.Errorf("versions %v, before %v", after.Versions, before.Versions)
				}
				r.Current = after.Versions
				again, _, ok := p.Recall(w.request(t, w.pod("app"), nil, r.Class.Parameters["objects"]), c.now().Add(-time.Minute))
				if !ok {
					t.Fatal("nothing is recalled")
				}
				wantFiles(t, again, want)
				next := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
				testkit.Must(t, next.Import(r.Volume, p.Export(r.Volume)))
				counts := w.counted(t, func() { wantFiles(t, mustFetch(t, next, r), want) })
				if counts[tc.path] > 0 {
					t.Errorf("after a restart: %v", counts)
				}
			})
		}
	}
}

// TestWholeSecretMissing: a secret without keys is as one that is not there.
func TestWholeSecretMissing(t *testing.T) {
	t.Parallel()
	w := shared
	w.kv2(t, "no-keys", map[string]any{})
	w.kv1(t, "some-keys", map[string]any{"a": "v"})
	p := newProvider(t, nil)
	fetch := func(objects string) (*provider.Payload, error) {
		return p.Fetch(t.Context(), w.request(t, w.pod("app"), nil, objects))
	}
	for _, path := range []string{"kv2/data/no-keys", "kv2/data/nothing", "kv1/nothing"} {
		testkit.Failure(fetch("- {secretPath: "+path+`, secretKeys: "*"}`))(t, fault.NotFound, `objects[0] "*"`)
		payload := testkit.Value(fetch("- {secretPath: " + path + `, secretKeys: "*", optional: true}` + "\n- {objectName: a, secretPath: kv1/some-keys, secretKey: a}"))(t)
		wantFiles(t, payload, map[string]string{"a": "v"})
	}
	payload := testkit.Value(fetch("- {secretPath: kv1/some-keys, secretKeys: [a, b], optional: true}"))(t)
	wantFiles(t, payload, map[string]string{"a": "v"})
	testkit.Failure(fetch("- {secretPath: kv1/some-keys, secretKeys: [a, b]}"))(t, fault.NotFound, `objects[0] "b"`)
	testkit.Failure(fetch(`- {secretPath: kv1/forbidden, secretKeys: "*", optional: true}`))(t, fault.Denied)
}

// TestWholeSecretUnfit has keys in the store that cannot be the name of a file, or that another object
// has.
func TestWholeSecretUnfit(t *testing.T) {
	t.Parallel()
	w := shared
	w.kv1(t, "unfit", map[string]any{"../up": "v", "fine": "v"})
	w.kv1(t, "other", map[string]any{"a": "v", "b": "v"})
	w.kv1(t, "nested", map[string]any{"a/b": "v"})
	many := map[string]any{}
	for i := range 1001 {
		many[fmt.Sprint(i)] = i
	}
	w.kv1(t, "many", many)
	p := newProvider(t, nil)
	for objects, want := range map[string]struct {
		reason fault.Reason
		words  []string
	}{
		`[{objectName: d, secretPath: kv1/unfit, secretKeys: "*"}]`: {fault.InvalidClass, []string{`spec.parameters.objects[0] "d/*": the key "../up" of "kv1/unfit" cannot be the name of a file`, `{"*": "*", KEY: FILE}`}},
		`[{secretPath: kv1/other, secretKeys: "*"}, {objectName: b, secretPath: kv1/unfit, secretKey: fine}]`: {
			fault.InvalidClass, []string{`the key "b" of spec.parameters.objects[0] "*" and spec.parameters.objects[1] "b": both are the file "b"`},
		},
		`[{secretPath: kv1/other, secretKeys: "*"}, {secretPath: kv1/other, secretKeys: "*"}]`:  {fault.InvalidClass, []string{`the key "a" of`, "objects[0]", "objects[1]"}},
		`[{secretPath: kv1/other, secretKeys: "*"}, {secretPath: kv1/nested, secretKeys: "*"}]`: {fault.InvalidClass, []string{`"a/b" cannot be in "a", which is a file`}},
		`[{objectName: d, secretPath: kv1/many, secretKeys: "*"}]`:                              {fault.TooLarge, []string{`"kv1/many": it has more than 1000 keys`}},
		`[{secretPath: kv1/other, secretKeys: "*", encoding: hex}]`:                             {fault.InvalidClass, []string{`spec.parameters.objects[0].encoding: the value of "a" in "kv1/other" is not hex`}},
	} {
		_, err := p.Fetch(t.Context(), w.request(t, w.pod("app"), nil, objects))
		for _, word := range want.words {
			testkit.Fails(t, err, want.reason, word)
		}
		trial := testkit.Value(p.Try(t.Context(), w.request(t, w.pod("app"), nil, objects), true))(t)
		failed := trial.Unfit
		for _, o := range trial.Objects {
			if o.Failed != nil {
				failed = o.Failed
			}
		}
		testkit.Equal(t, objects+": the reason of the trial", fault.Of(failed), want.reason)
	}
	trial, err := p.Try(t.Context(), w.request(t, w.pod("app"), nil, `[{secretPath: kv1/other, secretKeys: "*"}]`), true)
	if err != nil || trial.Unfit != nil || len(trial.Objects) != 1 || trial.Objects[0].Name != "*" || trial.Objects[0].Files != 2 || trial.Objects[0].Size != 2 {
		t.Errorf("%+v, %v", trial, err)
	}
}

// TestWholeCredential: all keys of a credential have its one lease.
func TestWholeCredential(t *testing.T) {
	t.Parallel()
	w, pg := databaseWorld(t)
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, `
- {objectName: db, secretPath: database/creds/app, secretKeys: "*"}
- {objectName: tls, secretPath: pki/issue/app, method: POST, secretArgs: {common_name: a.example}, secretKeys: {certificate: tls.crt, private_key: tls.key}}`)
	r.Class.CredentialScope = class.ScopePod
	var payload *provider.Payload
	counts := w.counted(t, func() { payload = mustFetch(t, p, r) })
	f := files(payload)
	if len(f) != 4 || !pg.LogsIn(t, f["db/username"], f["db/password"]) || !strings.Contains(f["tls/tls.key"], "PRIVATE KEY") || counts["database/creds/app"] != 1 || counts["pki/issue/app"] != 1 {
		t.Fatalf("files %v, requests %v", slices.Collect(maps.Keys(f)), counts)
	}
	leases := map[string]string{}
	for _, l := range payload.Leases {
		leases[l.Object] = l.ID
	}
	if len(leases) != 4 || leases["db/username"] == "" || leases["db/username"] != leases["db/password"] {
		t.Errorf("leases %v", leases)
	}
	r.Current = payload.Versions
	if again := mustFetch(t, p, r); !maps.Equal(files(again), f) || !slices.Equal(again.Versions, payload.Versions) {
		t.Error("another fetch gives another credential")
	}
	testkit.Must(t, p.Release(t.Context(), r.Volume))
	testkit.Eventually(t, "the role is gone", func() bool { return pg.Users(t) == 0 })
}
