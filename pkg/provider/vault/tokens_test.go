package vault_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// A volume whose read is denied again and again logs in each time, because the role's policies may
// have changed. Few tokens of these logins stay valid, and few are in the volume's state. The token of
// a lease in the files is not among those that are revoked.
func TestDenialsLeaveFewTokens(t *testing.T) {
	const refreshes = 100
	for name, object := range map[string]string{
		"a secret": `[{objectName: a, secretPath: kv1/a, secretKey: k}]`,
		"a lease":  `[{objectName: a, secretPath: database/creds/a, secretKey: k}]`,
	} {
		t.Run(name, func(t *testing.T) {
			b, c := newBroken(t, answering(200, `{"lease_id":"","lease_duration":0,"data":{"k":"v"}}`)), &clock{}
			leased := name == "a lease"
			if leased {
				b.setRead(answering(200, `{"lease_id":"database/creds/a/1","lease_duration":60,"data":{"k":"v"}}`))
			}
			first, logins, revoked := "token 1", 0, 0
			b.login = func(w http.ResponseWriter, _ *http.Request) {
				logins++
				fmt.Fprintf(w, `{"auth":{"client_token":"token %d","lease_duration":%d,"renewable":true,"token_type":"service","metadata":%s}}`, logins, 32*24*3600, kubernetesMetadata)
			}
			p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
			r := brokenRequest("v", b.URL, map[string]string{"objects": object})
			r.Tokens["vault"] = longToken(r)
			r.Current = mustFetch(t, p, r).Versions
			before := p.Export("v").Len()
			b.setRead(func(w http.ResponseWriter, q *http.Request) {
				if strings.HasSuffix(q.URL.Path, "/revoke-self") {
					if revoked++; leased && q.Header.Get("X-Vault-Token") == first {
						t.Error("the token of the lease is revoked")
					}
					w.WriteHeader(http.StatusNoContent)
					return
				}
				answering(403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)(w, q)
			})
			for n := range refreshes {
				c.advance(10 * time.Minute)
				if _, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.Denied && fault.Of(err) != fault.Unverified {
					t.Fatal(err)
				}
				if n == refreshes/2 {
					next := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
					testkit.Must(t, next.Import("v", p.Export("v")))
					p = next
				}
			}
			if logins < refreshes/2 || logins-revoked > 20 {
				t.Errorf("%d logins, and %d tokens revoked", logins, revoked)
			}
			if size := p.Export("v").Len(); size > 10*before {
				t.Errorf("the state grew from %d to %d bytes", before, size)
			}
		})
	}
}
