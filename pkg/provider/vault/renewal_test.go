package vault_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestRenewalThatAnswersNothing has stores and proxies that answer a renewal
// with success and no lease: it counts as not renewed, so that there is a new
// credential while the old one still works.
func TestRenewalThatAnswersNothing(t *testing.T) {
	for name, answer := range map[string]string{
		"204":              "",
		"empty lease id":   `{"lease_id":"","lease_duration":0,"data":null}`,
		"null data":        `{"data":null,"auth":null}`,
		"lease of nothing": `{"lease_id":"x/1","lease_duration":0}`,
	} {
		t.Run(name, func(t *testing.T) {
			var made atomic.Int32
			b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "sys/leases/renew"), strings.HasSuffix(r.URL.Path, "renew-self"):
					if answer == "" {
						w.WriteHeader(http.StatusNoContent)
					}
					fmt.Fprint(w, answer)
				default:
					fmt.Fprintf(w, `{"lease_id":"x/%d","lease_duration":3600,"renewable":true,"data":{"k":"v%d"}}`, made.Add(1), made.Load())
				}
			})
			b.login = goodLogin(36000)
			var now clock
			p := newProvider(t, func(c *vault.Config) { c.Now = now.now })
			r := brokenRequest("v", b.URL, map[string]string{"objects": "[{objectName: a, secretPath: database/creds/a, secretKey: k}]"})
			wantFile(t, mustFetch(t, p, r), "a", "v1")
			now.advance(45 * time.Minute)
			trail := &provider.Trail{}
			payload, err := p.Fetch(provider.WithTrail(t.Context(), trail), r)
			testkit.Must(t, err)
			wantFile(t, payload, "a", "v2")
			if b.count("sys/leases/renew") != 1 {
				t.Error("the lease was not to be renewed")
			}
			if a := trail.Accesses(); len(a) != 1 || a[0].Operation != provider.AccessRenew || a[0].Lease != "x/1" || a[0].Err == nil || a[0].Asked == "" {
				t.Errorf("the trail has %+v", a)
			}
		})
	}
}

// TestTokenRenewalThatAnswersNothing: a Vault token that was not renewed is
// replaced by that of a new login, and what hangs on it too.
func TestTokenRenewalThatAnswersNothing(t *testing.T) {
	for name, answer := range map[string]string{"204": "", "null auth": `{"data":null,"auth":null}`} {
		t.Run(name, func(t *testing.T) {
			var made atomic.Int32
			b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "renew-self") {
					if answer == "" {
						w.WriteHeader(http.StatusNoContent)
					}
					fmt.Fprint(w, answer)
					return
				}
				fmt.Fprintf(w, `{"lease_id":"x/%d","lease_duration":36000,"renewable":true,"data":{"k":"v%d"}}`, made.Add(1), made.Load())
			})
			b.login = goodLogin(3600)
			var now clock
			p := newProvider(t, func(c *vault.Config) { c.Now = now.now })
			r := brokenRequest("v", b.URL, map[string]string{"objects": "[{objectName: a, secretPath: database/creds/a, secretKey: k}]"})
			wantFile(t, mustFetch(t, p, r), "a", "v1")
			logins := b.count("/login")
			now.advance(45 * time.Minute)
			wantFile(t, mustFetch(t, p, r), "a", "v2")
			if b.count("renew-self") != 1 || b.count("/login") != logins+1 {
				t.Errorf("%d renewals and %d logins more, want one of each", b.count("renew-self"), b.count("/login")-logins)
			}
		})
	}
}
