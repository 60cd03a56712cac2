package vault_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const dbObjects = `
- {objectName: user, secretPath: database/creds/app, secretKey: username}
- {objectName: password, secretPath: database/creds/app, secretKey: password}
- {objectName: static, secretPath: kv1/share, secretKey: k}
`

func TestSharedCredentials(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.putShare(t, "v")
	pg.Role(t, w.Server, "app", "1h", "24h")
	p := newProvider(t, nil)
	var requests []provider.Request
	for range 6 {
		r := w.request(t, w.pod("app"), nil, dbObjects)
		r.Class.CredentialScope = class.ScopeServiceAccount
		requests = append(requests, r)
	}
	counts := w.counted(t, func() { fetchAll(t, p, 6, requests) })
	if counts["database/creds/app"] != 1 || under(counts, "/login") != 2 {
		t.Errorf("requests %v, want one credential", counts)
	}
	for _, r := range requests[1:] {
		testkit.Must(t, p.Release(t.Context(), r.Volume))
	}
	f := files(mustFetch(t, p, requests[0]))
	if !pg.LogsIn(t, f["user"], f["password"]) {
		t.Error("a credential that is still shared was ended")
	}
	testkit.Must(t, p.Release(t.Context(), requests[0].Volume))
	testkit.Eventually(t, "the role is gone", func() bool { return pg.Users(t) == 0 })
}

// TestUnexpectedLease leases under a path that does not look like it, for
// several pods at once: no lease is lost, and each pod gets its own.
func TestUnexpectedLease(t *testing.T) {
	t.Parallel()
	const pods = 6
	w := ownWorld(t)
	p := newProvider(t, nil)
	testkit.Must(t, w.Write(t.Context(), "pki/roles/leasing", map[string]any{"allow_any_name": true, "ttl": "1h", "generate_lease": true, "key_type": "ec", "key_bits": 256}))
	objects := "- {objectName: cert, secretPath: pki/issue/leasing, secretKey: certificate, method: PUT, secretArgs: {common_name: a.example}}"
	var requests []provider.Request
	for range pods {
		requests = append(requests, w.request(t, w.pod("app"), nil, objects))
	}
	fetchAll(t, p, pods, requests)
	counts := w.counted(t, func() { fetchAll(t, p, pods, requests) })
	if counts["pki/issue/leasing"] != 0 {
		t.Errorf("%d certificates made anew for nothing", counts["pki/issue/leasing"])
	}
	certs := map[string]bool{}
	for _, r := range requests {
		certs[files(mustFetch(t, p, r))["cert"]] = true
	}
	if len(certs) != pods {
		t.Errorf("%d certificates for %d pods", len(certs), pods)
	}
	for _, r := range requests {
		testkit.Must(t, p.Release(t.Context(), r.Volume))
	}
	testkit.Eventually(t, "no lease is left when all volumes are gone", func() bool {
		return len(w.leases(t, "sys/leases/lookup/pki/issue/leasing")) == 0
	})
}

// leases lists what Vault knows under a prefix.
func (w *world) leases(t *testing.T, path string) []any {
	t.Helper()
	s, err := w.Client().Logical().ListWithContext(t.Context(), path)
	testkit.Must(t, err)
	if s == nil {
		return nil
	}
	keys, _ := s.Data["keys"].([]any)
	return keys
}

// TestUnexpectedLeasesOfTwo has two volumes of one account read two paths that
// turn out to lease, at once and with the account's token. The end of one pod
// does not end the other's credential.
func TestUnexpectedLeasesOfTwo(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	parent, revoked, made, logins := map[string]string{}, map[string]bool{}, 0, 0
	arrived, both := make(chan struct{}, 2), make(chan struct{})
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		by := r.Header.Get("X-Vault-Token")
		switch {
		case strings.HasSuffix(r.URL.Path, "revoke-self"):
			revoked[by] = true
			w.WriteHeader(http.StatusNoContent)
			return
		case strings.HasSuffix(r.URL.Path, "/warm"):
			answering(200, `{"data":{"k":"v"}}`)(w, r)
			return
		}
		select {
		case arrived <- struct{}{}:
			if len(arrived) == cap(arrived) {
				close(both)
			}
		default:
		}
		mu.Unlock()
		<-both
		mu.Lock()
		made++
		user := fmt.Sprint("user-", made)
		parent[user] = by
		fmt.Fprintf(w, `{"lease_id":"x/%d","lease_duration":3600,"renewable":true,"data":{"k":%q}}`, made, user)
	})
	b.login = func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		logins++
		fmt.Fprintf(w, `{"auth":{"client_token":"token-%d","lease_duration":600,"renewable":true,"token_type":"service","metadata":%s}}`, logins, kubernetesMetadata)
	}
	p := newProvider(t, nil)
	of := func(volume, path string) provider.Request {
		return brokenRequest(volume, b.URL, map[string]string{"objects": "[{objectName: a, secretPath: " + path + ", secretKey: k}]"})
	}
	mustFetch(t, p, of("v0", "kv1/warm"))
	one, two := of("v1", "aws/sts/one"), of("v2", "aws/sts/two")
	fetchAll(t, p, 2, []provider.Request{one, two})
	users := []string{files(mustFetch(t, p, one))["a"], files(mustFetch(t, p, two))["a"]}
	mu.Lock()
	parents := []string{parent[users[0]], parent[users[1]]}
	mu.Unlock()
	for i, r := range []provider.Request{one, two} {
		testkit.Must(t, p.Release(t.Context(), r.Volume))
		mu.Lock()
		if !revoked[parents[i]] || (i == 0 && revoked[parents[1]]) {
			t.Errorf("when volume %d of 2 is gone, %v are revoked, and their users hang on %v", i+1, revoked, parents)
		}
		mu.Unlock()
	}
}
