package vault_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// TestRevokedLease has leases that an operator revoked before their time.
func TestRevokedLease(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		body   string
		after  time.Duration
		fresh  bool
		want   string
	}{
		{"a refresh by hand", 400, `{"errors":["invalid lease"]}`, 10 * time.Second, true, "v2"},
		{"an hour", 400, `{"errors":["invalid lease"]}`, 61 * time.Minute, false, "v2"},
		{"before an hour", 400, `{"errors":["invalid lease"]}`, 50 * time.Minute, false, "v1"},
		{"its token was revoked", 403, `{"errors":["permission denied","invalid token"]}`, 10 * time.Second, true, "v2"},
		{"no policy allows the question", 403, `{"errors":["permission denied"]}`, 10 * time.Second, true, "v1"},
		{"the lease is known", 200, `{"data":{"id":"x/1","ttl":30000}}`, 10 * time.Second, true, "v1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var made atomic.Int32
			b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "sys/leases/lookup") {
					answering(tc.status, tc.body)(w, r)
					return
				}
				n := made.Add(1)
				fmt.Fprintf(w, `{"lease_id":"x/%d","lease_duration":36000,"renewable":true,"data":{"k":"v%d"}}`, n, n)
			})
			b.login = goodLogin(36000)
			var now clock
			p := newProvider(t, func(c *vault.Config) { c.Now = now.now })
			r := brokenRequest("v", b.URL, map[string]string{"objects": "[{objectName: a, secretPath: database/creds/a, secretKey: k}]"})
			wantFile(t, mustFetch(t, p, r), "a", "v1")
			now.advance(tc.after)
			r.Fresh = tc.fresh
			wantFile(t, mustFetch(t, p, r), "a", tc.want)
		})
	}
}
