package vault_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

const withCertificate = "- {objectName: a, secretPath: kv1/share, secretKey: k}\n" +
	"- {objectName: crt, secretPath: pki/issue/app, method: POST, secretArgs: {common_name: a.example}, secretKey: certificate}\n"

// mayMiss is a class's objects, the second of which is not in the store.
func mayMiss(optional bool) string {
	return fmt.Sprintf("- {objectName: a, secretPath: kv1/share, secretKey: k}\n- {objectName: b, secretPath: kv1/none, secretKey: k, optional: %t}\n", optional)
}

// TestRecall starts pods from what others have read while the store is unavailable.
func TestRecall(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	jwt := map[string]string{"vaultAuthMountPath": "jwt", "roleName": "pod"}
	shareCreds := func(r *provider.Request) {
		c := *r.Class
		c.CredentialScope = class.ScopeServiceAccount
		r.Class = &c
	}
	for _, tc := range []struct {
		name    string
		account string
		params  map[string]string
		objects string
		change  func(live, asked *provider.Request)
		age     time.Duration
		want    bool
	}{
		{name: "another pod of the service account", account: "app", objects: two, want: true},
		{name: "another service account", account: "web-1", objects: two},
		{name: "too old", account: "app", objects: two, age: 20 * time.Minute},
		{name: "another role", account: "app", objects: two, change: func(_, asked *provider.Request) {
			c := *asked.Class
			c.Parameters = map[string]string{"roleName": "other", "objects": two, "vaultAddress": w.Address}
			c.ResourceVersion += "x"
			asked.Class = &c
		}},
		{name: "a re-created service account", account: "app", objects: two, change: func(_, asked *provider.Request) {
			tok := asked.Tokens["vault"]
			tok.Claims.ServiceAccountUID = "another-uid"
			asked.Tokens["vault"] = tok
		}},
		{name: "no valid token", account: "app", objects: two, change: func(_, asked *provider.Request) { asked.Tokens = nil }},
		{name: "an identity of the pod's own", account: "app", params: jwt, objects: two},
		{name: "something that was never read", account: "app", objects: two, change: func(live, _ *provider.Request) {
			c := *live.Class
			c.Parameters = map[string]string{"roleName": "app", "vaultAddress": w.Address, "objects": "- {objectName: a, secretPath: kv1/share, secretKey: k}"}
			c.ResourceVersion += "x"
			live.Class = &c
		}},
		{name: "something that another class does not mind missing", account: "app", objects: mayMiss(false), change: func(live, _ *provider.Request) {
			c := *live.Class
			c.Parameters = map[string]string{"roleName": "app", "vaultAddress": w.Address, "objects": mayMiss(true)}
			c.ResourceVersion += "x"
			live.Class = &c
		}},
		{name: "a certificate made for another pod", account: "app", objects: withCertificate},
		{name: "a certificate that the service account shares", account: "app", objects: withCertificate, want: true, change: func(live, asked *provider.Request) {
			shareCreds(live)
			shareCreds(asked)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &clock{}
			p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
			live := w.request(t, w.pod("app"), tc.params, tc.objects)
			asked := w.request(t, w.pod(tc.account), tc.params, tc.objects)
			if tc.change != nil {
				tc.change(&live, &asked)
			}
			mustFetch(t, p, live)
			at := c.now()
			c.advance(tc.age)
			var payload *provider.Payload
			var asOf time.Time
			var ok bool
			counts := w.counted(t, func() { payload, asOf, ok = p.Recall(asked, c.now().Add(-10*time.Minute)) })
			if ok != tc.want || len(counts) != 0 {
				t.Fatalf("recalled %t with %d requests, want %t with none", ok, len(counts), tc.want)
			}
			if ok {
				wantFile(t, payload, "a", "v")
				if asOf.After(at) || len(payload.Files) != 2 {
					t.Errorf("as of %s, read before %s, files %v", asOf, at, files(payload))
				}
			}
		})
	}
}
