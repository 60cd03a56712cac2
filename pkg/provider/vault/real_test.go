package vault_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/providertest"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// TestConformance runs the suite on a Vault of its own, which it freezes last.
func TestConformance(t *testing.T) {
	w := ownWorld(t)
	const value = "conformance-value-1"
	w.kv1(t, "conf", map[string]any{"k": value})
	w.kv2(t, "conf", map[string]any{"k": value + "-two"})
	w.kv1(t, "refused", map[string]any{"k": value})
	pg := newPostgres(t, w)
	pg.Role(t, w.Server, "hour", "1h", "2h")
	var tokens []string
	ask := func(account, objects string) func(*testing.T, string) provider.Request {
		return func(t *testing.T, volume string) provider.Request {
			r := w.request(t, w.pod(account), nil, objects)
			r.Volume = volume
			tokens = append(tokens, r.Tokens["vault"].JWT.Reveal())
			return r
		}
	}
	const both = "- {objectName: a, secretPath: kv1/conf, secretKey: k}\n- {objectName: b/c, secretPath: kv2/data/conf, secretKey: k}\n"
	gate := newGate(t, w.Address)
	start := func(t *testing.T) provider.Provider {
		return newProvider(t, func(c *vault.Config) { c.DefaultAddress, c.RequestTimeout = gate.URL, time.Minute })
	}
	changes := 0
	through := func(f func(*testing.T, string) provider.Request) func(*testing.T, string) provider.Request {
		return func(t *testing.T, volume string) provider.Request {
			r := f(t, volume)
			delete(r.Class.Parameters, "vaultAddress")
			return r
		}
	}
	providertest.Run(t, providertest.Harness{
		Provider: start(t),
		Restart:  start,
		Allowed:  through(ask("app", both)),
		Denied:   through(ask("stranger", both)),
		Partial:  through(ask("app", both+"- {objectName: d, secretPath: kv1/missing, secretKey: k}\n")),
		Credentials: &providertest.Credentials{
			Allowed: through(ask("app", "- {objectName: db, secretPath: database/creds/hour}\n- {objectName: a, secretPath: kv1/conf, secretKey: k}\n")),
			Made:    func(t *testing.T) int { return pg.Users(t) },
			Edits: map[string]func(map[string]string){
				"the login":                  func(p map[string]string) { p["roleName"] = "typo" },
				"the auth mount":             func(p map[string]string) { p["vaultAuthMountPath"] = "typo" },
				"an object more":             func(p map[string]string) { p["objects"] += "- {objectName: d, secretPath: kv1/missing}\n" },
				"the credential for another": func(p map[string]string) { p["objects"] = "[{objectName: d, secretPath: kv1/missing}]" },
			},
			Late: through(ask("app", "- {objectName: db, secretPath: database/creds/hour}\n- {objectName: a, secretPath: kv1/conf, secretKey: k}\n- {objectName: late, secretPath: kv1/late, secretKey: k}\n")),
			Add:  func(t *testing.T) { w.kv1(t, "late", map[string]any{"k": value}) },
		},
		Refused: &providertest.Refused{
			One:   through(ask("app", both)),
			Three: through(ask("app", both+"- {objectName: x, secretPath: kv1/refused, secretKey: k}\n- {objectName: y, secretPath: kv1/later, secretKey: k}\n")),
			Refuse: func(t *testing.T) {
				testkit.Must(t, w.Policy(t.Context(), "app", policy+"\npath \"kv1/refused\" { capabilities = [\"deny\"] }"))
				w.kv1(t, "later", map[string]any{"k": value})
			},
		},
		Change: func(t *testing.T) {
			changes++
			w.kv1(t, "conf", map[string]any{"k": value + strings.Repeat("!", changes)})
			w.kv2(t, "conf", map[string]any{"k": value + "-two" + strings.Repeat("!", changes)})
		},
		Hang:    func(*testing.T) <-chan struct{} { return gate.hang() },
		Secrets: func() []string { return append(tokens, value) },
	})
}

// ownWorld is for tests that harm the Vault, count what reaches it, or move
// its settings.
func ownWorld(t *testing.T) *world {
	t.Helper()
	w := testkit.Value(startWorld(t.Context(), vaulttest.Options{}))(t)
	t.Cleanup(func() {
		testkit.Equal(t, "exit code of Vault", w.stop(), 0)
	})
	return w
}

func TestValueRules(t *testing.T) {
	w := shared
	raw := []byte{0, 1, 0xff, '\n'}
	data := map[string]any{
		"text": "<a&b>\u2028 ü", "empty": "", "number": json.Number("1234567.125"), "bool": true, "list": []any{1, "x<y"},
		"map": map[string]any{"z": 1, "a": map[string]any{"b": "deep"}}, "dotted.key": "exact", "dotted": map[string]any{"key": "by path"},
		"b64": base64.StdEncoding.EncodeToString(raw) + "\n", "hex": hex.EncodeToString(raw), "null": nil,
	}
	w.kv1(t, "values", data)
	w.kv2(t, "values", data)
	for _, path := range []string{"kv1/values", "kv2/data/values"} {
		for key, want := range map[string]string{
			"text": "<a&b>\u2028 ü", "empty": "", "number": "1234567.125", "bool": "true", "list": `[1,"x<y"]`,
			"map": `{"a":{"b":"deep"},"z":1}`, "map.a.b": "deep", "dotted.key": "exact", "list.1": "x<y", "null": "null",
		} {
			payload := mustFetch(t, newProvider(t, nil), w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: "+path+", secretKey: '"+key+"'}"))
			wantFile(t, payload, "f", want)
		}
		payload := mustFetch(t, newProvider(t, nil), w.request(t, w.pod("app"), nil, `
- {objectName: a, secretPath: `+path+`, secretKey: b64, encoding: BASE64}
- {objectName: b, secretPath: `+path+`, secretKey: hex, encoding: Hex}
- {objectName: c, secretPath: `+path+`, secretKey: hex, encoding: UTF-8}`))
		wantFile(t, payload, "a", string(raw))
		wantFile(t, payload, "b", string(raw))
		wantFile(t, payload, "c", hex.EncodeToString(raw))
	}
}

// TestDataKey: a key called data is not taken for the envelope of KV v2. Where Vault's own
// provider takes it for that, in any other engine, the keys that it finds are found here too.
func TestDataKey(t *testing.T) {
	w := shared
	for _, filler := range []string{"small", strings.Repeat("x", 3<<10)} { // a large answer is kept in part
		secret := map[string]any{"data": map[string]any{"inner": "i", "both": "of data", "k": filler}, "outer": "o", "both": "of the secret"}
		w.kv1(t, "datakey", secret)
		w.kv2(t, "datakey", secret)
		w.kv1(t, "likekv2", map[string]any{"data": map[string]any{"inner": "i"}, "metadata": "no object", "outer": filler})
		for _, tc := range []struct {
			path  string
			whole string
			keys  map[string]string
			none  string
		}{
			{"kv1/datakey", "both data outer", map[string]string{"outer": "o", "inner": "i", "both": "of data", "data.inner": "i"}, `"both", "data", "outer"`},
			{"kv2/data/datakey", "both data outer", map[string]string{"outer": "o", "both": "of the secret", "data.inner": "i"}, `"both", "data", "outer"`},
			{"kv1/likekv2", "data metadata outer", map[string]string{"inner": "i", "metadata": "no object", "data": `{"inner":"i"}`}, `"data", "metadata", "outer"`},
		} {
			objects := "- {objectName: whole, secretPath: " + tc.path + ", secretKeys: {'*': '*'}}\n"
			for key := range tc.keys {
				objects += "- {objectName: " + key + ", secretPath: " + tc.path + ", secretKey: " + key + "}\n"
			}
			got, whole := files(mustFetch(t, newProvider(t, nil), w.request(t, w.pod("app"), nil, objects))), []string{}
			for name, text := range got {
				if key, ok := strings.CutPrefix(name, "whole/"); ok {
					whole = append(whole, key)
				} else if text != tc.keys[name] {
					t.Errorf("%s: key %s is %q, want %q", tc.path, name, text, tc.keys[name])
				}
			}
			slices.Sort(whole)
			testkit.Equal(t, tc.path+": the whole secret", strings.Join(whole, " "), tc.whole)
			_, err := newProvider(t, nil).Fetch(t.Context(), w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: "+tc.path+", secretKey: none}"))
			testkit.Fails(t, err, fault.NotFound, "it has "+tc.none) // a key that is not there
		}
	}
}

// TestWholeAnswer reads twice, from two logins: the same file each time.
func TestWholeAnswer(t *testing.T) {
	w := shared
	w.kv2(t, "whole", map[string]any{"z": 1.50, "a": "<x>"})
	const objects = "- {objectName: f, secretPath: kv2/data/whole}"
	one := mustFetch(t, newProvider(t, nil), w.request(t, w.pod("app"), nil, objects))
	two := mustFetch(t, newProvider(t, nil), w.request(t, w.pod("app"), nil, objects))
	if files(one)["f"] != files(two)["f"] || one.Versions[0] != two.Versions[0] || one.Versions[0].Version != "1" {
		t.Errorf("unchanged data differs: %s, %s", files(one), files(two))
	}
	var body map[string]any
	testkit.Must(t, json.Unmarshal([]byte(files(one)["f"]), &body))
	for _, key := range []string{"data", "lease_id", "lease_duration", "renewable", "warnings"} {
		if _, ok := body[key]; !ok {
			t.Errorf("the envelope has no %s: %s", key, files(one)["f"])
		}
	}
	if _, ok := body["request_id"]; ok || !strings.Contains(files(one)["f"], `"a":"<x>"`) {
		t.Errorf("the envelope is %s", files(one)["f"])
	}
}

func TestVersions(t *testing.T) {
	w := shared
	w.kv1(t, "versioned", map[string]any{"k": "v1"})
	w.kv2(t, "versioned", map[string]any{"k": "v1"})
	w.kv2(t, "versioned", map[string]any{"k": "v2"})
	ask := func(t *testing.T, p *vault.Provider) map[string]string {
		payload := mustFetch(t, p, w.request(t, w.pod("app"), nil, `
- {objectName: a, secretPath: kv1/versioned, secretKey: k}
- {objectName: b, secretPath: kv2/data/versioned, secretKey: k}
- {objectName: c, secretPath: "kv2/data/versioned?version=1", secretKey: k}`))
		wantFile(t, payload, "b", "v2")
		wantFile(t, payload, "c", "v1")
		m := map[string]string{}
		for _, v := range payload.Versions {
			m[v.ID] = v.Version
		}
		return m
	}
	a, b := ask(t, newProvider(t, nil)), ask(t, newProvider(t, nil))
	if a["b"] != "2" || a["c"] != "1" || len(a["a"]) < 20 {
		t.Errorf("versions %v: KV v2 has the store's own, KV v1 a hash", a)
	}
	testkit.Equal(t, "the version must outlive a restart, and be that of other nodes", a["a"], b["a"])
}

// TestRefusals reads Vault's own words, and what was attempted.
func TestRefusals(t *testing.T) {
	w := shared
	w.kv1(t, "refuse", map[string]any{"user": markValue, "other": markValue})
	w.kv2(t, "gone", map[string]any{"k": "v"})
	w.kv2(t, "gone", map[string]any{"k": "v"})
	for _, path := range []string{"kv2/delete/gone", "kv2/destroy/gone"} {
		versions := map[string]any{"versions": []int{2}}
		if strings.Contains(path, "destroy") {
			versions = map[string]any{"versions": []int{1}}
		}
		testkit.Must(t, w.Write(t.Context(), path, versions))
	}
	pod := func(ns, account string) issuer.PodRef {
		return issuer.PodRef{Namespace: ns, Pod: "p", ServiceAccount: account}
	}
	const one = "- {objectName: f, secretPath: kv1/refuse, secretKey: user}"
	read := func(path, key string) string {
		return "- {objectName: f, secretPath: '" + path + "', secretKey: " + key + "}"
	}
	for _, tc := range []struct {
		name    string
		pod     issuer.PodRef
		params  map[string]string
		objects string
		want    fault.Reason
		says    []string
	}{
		{"account", pod("shop", "stranger"), nil, one, fault.Denied,
			[]string{"service account name not authorized", `role "app"`, `auth mount "kubernetes"`, "shop/stranger", `audience "vault"`, "bound_service_account_names of auth/kubernetes/role/app must hold stranger"}},
		{"namespace", pod("bank", "app"), nil, one, fault.Denied, []string{"namespace not authorized", "must hold bank"}},
		{"role", pod("shop", "app"), map[string]string{"roleName": "nope"}, one, fault.Rejected, []string{"invalid role name", "spec.parameters.roleName"}},
		{"mount", pod("shop", "app"), map[string]string{"vaultAuthMountPath": "nope"}, one, fault.Unverified, []string{"permission denied", "auth/nope"}},
		{"audience", pod("shop", "app"), map[string]string{"audience": "other"}, one, fault.NoToken, []string{`no service account token for audience "other"`, "tokenRequests"}},
		{"policy", pod("shop", "app"), nil, read("kv1/forbidden", "k"), fault.Denied, []string{"permission denied", `must grant read on "kv1/forbidden"`, `spec.parameters.objects[0] "f"`}},
		{"path", pod("shop", "app"), nil, read("kv1/nothing", "k"), fault.NotFound, []string{`reading "kv1/nothing"`, "404"}},
		{"kv2 without data/", pod("shop", "app"), nil, read("kv2/data/../x", "k"), fault.InvalidClass, []string{"secretPath"}},
		{"kv2 without data, at a path with it", pod("shop", "app"), nil, read("kv2/team/data/x", "k"), fault.Denied, []string{`secretPath must be "kv2/data/team/data/x"`}},
		{"a mount that the pod may read nothing of", pod("shop", "app"), nil, read("other/team/x", "k"), fault.Denied, []string{`must grant read on "other/team/x"; if a KV engine of version 2 is mounted there, secretPath must be "other/data/team/x"`}},
		{"key", pod("shop", "app"), nil, read("kv1/refuse", "passwd"), fault.NotFound, []string{`"kv1/refuse" has no key "passwd"; it has "other", "user"`}},
		{"deleted", pod("shop", "app"), nil, read("kv2/data/gone", "k"), fault.NotFound, []string{"version 2 was deleted at", "undeleted"}},
		{"destroyed", pod("shop", "app"), nil, read("kv2/data/gone?version=1", "k"), fault.NotFound, []string{"version 1 was destroyed"}},
		{"version", pod("shop", "app"), nil, read("kv2/data/gone?version=9", "k"), fault.NotFound, []string{`"kv2/data/gone?version=9"`}},
		{"method", pod("shop", "app"), nil, read("pki/issue/app", "k"), fault.Denied, nil},
		{"encoding", pod("shop", "app"), nil, "- {objectName: f, secretPath: kv1/refuse, secretKey: user, encoding: hex}", fault.InvalidClass, []string{"objects[0].encoding", "it does not decode"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := w.request(t, tc.pod, tc.params, tc.objects)
			_, err := newProvider(t, nil).Fetch(t.Context(), r)
			if err == nil {
				t.Fatal("no error")
			}
			testkit.Fails(t, err, tc.want, tc.says...)
			if strings.Contains(err.Error(), markValue) || strings.Contains(err.Error(), r.Tokens["vault"].JWT.Reveal()) {
				t.Errorf("the error gives something away: %v", err)
			}
		})
	}
}

func TestOptional(t *testing.T) {
	w := shared
	w.kv1(t, "opt", map[string]any{"k": "v"})
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	r := w.request(t, w.pod("app"), nil, `
- {objectName: a, secretPath: kv1/opt, secretKey: k}
- {objectName: b, secretPath: kv1/opt, secretKey: later, optional: true}
- {objectName: c, secretPath: kv1/opt-later, secretKey: k, optional: "true"}`)
	if got := files(mustFetch(t, p, r)); len(got) != 1 || got["a"] != "v" {
		t.Errorf("files %v, want a alone", got)
	}
	w.kv1(t, "opt", map[string]any{"k": "v", "later": "x"})
	w.kv1(t, "opt-later", map[string]any{"k": "y"})
	c.advance(3 * time.Minute)
	if got := files(mustFetch(t, p, r)); got["b"] != "x" || got["c"] != "y" {
		t.Errorf("files %v, want b and c too", got)
	}
	// Another volume of the identity does not take "absent" for an answer.
	r2 := w.request(t, w.pod("app"), nil, "- {objectName: a, secretPath: kv1/never, secretKey: k, optional: true}")
	mustFetch(t, p, r2)
	r3 := w.request(t, w.pod("app"), nil, "- {objectName: a, secretPath: kv1/never, secretKey: k}")
	testkit.Failure(p.Fetch(t.Context(), r3))(t, fault.NotFound)
}

// TestTLS reads from a server that wants a client certificate.
func TestTLS(t *testing.T) {
	w := testkit.Value(startWorld(t.Context(), vaulttest.Options{TLS: true, RequireClientCert: true}))(t)
	t.Cleanup(func() { w.stop() })
	w.kv1(t, "tls", map[string]any{"k": "v"})
	const objects = "- {objectName: f, secretPath: kv1/tls, secretKey: k}"
	client := map[string]string{"vaultTLSClientCertPath": w.ClientCertFile, "vaultTLSClientKeyPath": w.ClientKeyFile}
	with := func(extra map[string]string) map[string]string {
		for k, v := range client {
			extra[k] = v
		}
		return extra
	}
	listed := []string{filepath.Dir(w.CAFile), filepath.Dir(w.ClientCertFile)}
	p := newProvider(t, func(c *vault.Config) { c.ClassFileDirs = listed })
	for name, params := range map[string]map[string]string{
		"file":        with(map[string]string{"vaultCACertPath": w.CAFile}),
		"directory":   with(map[string]string{"vaultCADirectory": filepath.Dir(w.CAFile)}),
		"skip verify": with(map[string]string{"vaultSkipTLSVerify": "true"}),
		"server name": with(map[string]string{"vaultCACertPath": w.CAFile, "vaultTLSServerName": "localhost"}),
	} {
		wantFile(t, mustFetch(t, p, w.request(t, w.pod("app"), params, objects)), "f", "v")
		t.Log(name)
	}
	for name, tc := range map[string]struct {
		params map[string]string
		says   string
	}{
		"no certificate": {map[string]string{"vaultCACertPath": w.CAFile}, "it may want a client certificate"},
		"wrong CA":       {with(map[string]string{}), "the system's authorities"},
		"wrong name":     {with(map[string]string{"vaultCACertPath": w.CAFile, "vaultTLSServerName": "other.example"}), "set vaultTLSServerName"},
	} {
		_, err := p.Fetch(t.Context(), w.request(t, w.pod("app"), tc.params, objects))
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %s: %v", name, fault.Of(err), err)
		}
	}
}
