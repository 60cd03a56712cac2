package vault_test

import (
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// onePodRole makes a jwt role that Vault gives to one pod only. Its metadata
// holds nothing of the pod.
func (w *world) onePodRole(t *testing.T, pod string) map[string]string {
	t.Helper()
	err := w.Role(t.Context(), "jwt", "onepod", map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "policies": "app", "token_ttl": "1h",
		"bound_claims": map[string]any{"/kubernetes.io/pod/name": pod},
	})
	testkit.Must(t, err)
	return map[string]string{"vaultAuthMountPath": "jwt", "roleName": "onepod"}
}

// refusedBeside fetches for the first pod, and then for the second, which the
// store refuses: it must not live on the first one's login.
func refusedBeside(t *testing.T, p *vault.Provider, first, second provider.Request) {
	t.Helper()
	mustFetch(t, p, first)
	if payload, err := p.Fetch(t.Context(), second); err == nil || fault.Of(err).Outage() {
		t.Errorf("a pod that the store refuses got %v, %v", payload, err)
	}
	mustFetch(t, p, first)
}

// TestDeniedPodGetsNoSharedCredential has a class of nothing but leases, which
// the service account's pods are to share, and a role for one of its pods.
func TestDeniedPodGetsNoSharedCredential(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	pg.Role(t, w.Server, "app", "1h", "24h")
	pod := w.pod("app")
	params := w.onePodRole(t, pod.Pod)
	const user = "- {objectName: user, secretPath: database/creds/app, secretKey: username}\n"
	p := newProvider(t, nil)
	first, second := w.request(t, pod, params, user), w.request(t, w.pod("app"), params, user)
	first.Class.CredentialScope, second.Class.CredentialScope = class.ScopeServiceAccount, class.ScopeServiceAccount
	counts := w.counted(t, func() { refusedBeside(t, p, first, second) })
	if counts["auth/jwt/login"] != 2 || counts["database/creds/app"] != 1 {
		t.Errorf("requests %v, want a login of each pod and one credential", counts)
	}
	testkit.Must(t, p.Release(t.Context(), first.Volume))
	testkit.Eventually(t, "the user is gone with its pod", func() bool { return pg.Users(t) == 0 })
}
