package vault_test

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// address is an address of a real Vault that can be away.
type address struct {
	*broken
	away atomic.Bool
}

func newAddress(t *testing.T, to string) *address {
	t.Helper()
	target, err := url.Parse(to)
	testkit.Must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	a := &address{}
	serve := func(w http.ResponseWriter, r *http.Request) {
		if a.away.Load() {
			http.Error(w, `{"errors":["Vault is sealed"]}`, http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}
	a.broken = newBroken(t, serve)
	a.login = serve
	return a
}

func bothAddresses(first, second *address) map[string]string {
	return map[string]string{"vaultAddress": first.URL, "vaultFallbackAddress": second.URL}
}

const leased = "- {objectName: cert, secretPath: pki/issue/leasing-long, secretKey: certificate, method: PUT, secretArgs: {common_name: a.example}}"

// At the second address of one cluster a Vault token is renewed, and revoked: nothing is issued again,
// over a restart too.
func TestSecondAddressKeepsLeases(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	testkit.Must(t, w.Write(t.Context(), "pki/roles/leasing-long", map[string]any{"allow_any_name": true, "ttl": "24h", "max_ttl": "24h", "generate_lease": true, "key_type": "ec", "key_bits": 256}))
	first, second := newAddress(t, w.Address), newAddress(t, w.Address)
	c := &clock{}
	begin := func() *vault.Provider {
		return newProvider(t, func(config *vault.Config) { config.Now, config.MaxRetries = c.now, -1 })
	}
	p := begin()
	r := w.request(t, w.pod("app"), bothAddresses(first, second), leased)
	before := files(mustFetch(t, p, r))["cert"]
	first.away.Store(true)
	c.advance(45 * time.Minute) // the token's two thirds are over
	wantFile(t, mustFetch(t, p, r), "cert", before)
	if second.count("auth/token/renew-self") == 0 || second.count("/login") > 0 || second.count("pki/issue") > 0 {
		t.Errorf("the second address was asked %q, want a renewal alone", second.seen)
	}
	if got := p.AnsweredBy(r.Volume); got != second.URL {
		t.Errorf("answered by %q", got)
	}
	later := begin()
	testkit.Must(t, later.Import(r.Volume, p.Export(r.Volume)))
	testkit.Must(t, later.Release(t.Context(), r.Volume))
	if second.count("auth/token/revoke-self") == 0 {
		t.Error("the token was not revoked at the second address, which leads to the same Vault")
	}
}

// A token is revoked where it was given, over a restart too: while that is away the other address's
// refusal does not count.
func TestTokensOfAReplicaAreRevokedThere(t *testing.T) {
	t.Parallel()
	main, replica := ownWorld(t), ownWorld(t)
	for _, w := range []*world{main, replica} {
		w.kv1(t, "share", map[string]any{"k": "v"})
	}
	// One issuer, as both replicas serve one cluster.
	testkit.Must(t, replica.EnableKubernetesAuth(t.Context(), "other", main.issuer))
	testkit.Must(t, main.EnableKubernetesAuth(t.Context(), "other", main.issuer))
	role := map[string]any{"bound_service_account_names": "app", "bound_service_account_namespaces": "shop", "audience": "vault", "policies": "app", "token_ttl": "1h"}
	for _, w := range []*world{main, replica} {
		testkit.Must(t, w.Role(t.Context(), "other", "app", role))
	}
	first, second := newAddress(t, main.Address), newAddress(t, replica.Address)
	params := bothAddresses(first, second)
	params["vaultAuthMountPath"] = "other"
	begin := func() *vault.Provider {
		return newProvider(t, func(config *vault.Config) { config.MaxRetries = -1 })
	}
	p := begin()
	r := main.request(t, main.pod("app"), params, "- {objectName: k, secretPath: kv1/share, secretKey: k}")
	first.away.Store(true)
	wantFile(t, mustFetch(t, p, r), "k", "v")
	state := p.Export(r.Volume)
	first.away.Store(false)
	second.away.Store(true)
	const revoke = "auth/token/revoke-self"
	later := begin()
	testkit.Must(t, later.Import(r.Volume, state))
	if err := later.Release(t.Context(), r.Volume); err == nil {
		t.Error("a token counts as revoked that only the replica knows, and that is away")
	}
	if first.count(revoke) != 1 || second.count(revoke) == 0 {
		t.Errorf("revoked %d times at the first address and %d at the replica", first.count(revoke), second.count(revoke))
	}
	second.away.Store(false)
	before := second.count(revoke)
	testkit.Must(t, later.Release(t.Context(), r.Volume))
	if first.count(revoke) != 1 || second.count(revoke) != before+1 {
		t.Errorf("revoked %d times at the first address and %d at the replica", first.count(revoke), second.count(revoke)-before)
	}
}
