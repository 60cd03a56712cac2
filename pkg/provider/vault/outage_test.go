package vault_test

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// node plays a scheduler with many volumes on a clock that the test moves.
type node struct {
	*clock
	p       provider.Provider
	volumes []scheduled
}

type scheduled struct {
	r      provider.Request
	due    time.Time
	fresh  time.Time // of the last success
	failed int
}

// run moves the clock in steps, and fetches what is due.
func (n *node) run(t *testing.T, d time.Duration) {
	const step = 50 * time.Millisecond
	for end := n.now().Add(d); n.now().Before(end); n.advance(step) {
		for i := range n.volumes {
			if v := &n.volumes[i]; !n.now().Before(v.due) {
				n.fetch(t, v)
			}
		}
	}
}

func (n *node) fetch(t *testing.T, v *scheduled) {
	payload, err := n.p.Fetch(t.Context(), v.r)
	if err == nil {
		v.due, v.fresh, v.failed = payload.RefreshAt, n.now(), 0
		return
	}
	v.failed++
	wait := fault.RetryAfter(err)
	if wait == 0 { // before the circuit opens
		wait = 2 * time.Second << min(v.failed, 6)
	}
	v.due = n.now().Add(wait)
}

// TestOutage has 110 volumes and a store that fails for a minute: at most two
// requests a second reach it, and all volumes are fresh within 5 s of its
// return.
func TestOutage(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	for name, fail := range map[string]http.HandlerFunc{
		"sealed":       answering(503, `{"errors":["Vault is sealed"]}`),
		"rate limited": answering(429, `{"errors":["slow down"]}`),
		"cut":          cut,
		"proxy":        answering(502, "<html>bad gateway"),
		"storage gone": answering(500, `{"errors":["internal error"]}`),
	} {
		t.Run(name, func(t *testing.T) {
			gate := newGate(t, w.Address)
			// What a busy machine takes for a request is no part of the outage.
			c := &clock{stopped: time.Now()}
			n := &node{clock: c, p: newProvider(t, func(cfg *vault.Config) {
				cfg.Now, cfg.DefaultInterval, cfg.MaxRetries, cfg.RequestTimeout = c.now, time.Minute, 0, time.Minute
			})}
			for i := range 110 {
				r := w.request(t, w.pod(fmt.Sprintf("web-%d", i)), nil, two)
				r.Class.Parameters["vaultAddress"] = gate.URL
				n.volumes = append(n.volumes, scheduled{r: r})
			}
			n.run(t, 10*time.Millisecond)
			gate.set(fail)
			for i := range n.volumes { // all are due at once, as after a restart
				n.volumes[i].due = n.now()
				n.volumes[i].r.Fresh = true
			}
			const outage = time.Minute
			n.run(t, outage)
			if got := gate.requests(); got > 2*60 || got < 30 {
				t.Errorf("%d requests in %s of outage, want at most two a second, and a probe now and then", got, outage)
			}
			gate.set(nil)
			back := n.now()
			n.run(t, 5*time.Second)
			for _, v := range n.volumes {
				if v.fresh.Before(back) {
					t.Errorf("volume %s is not fresh 5 s after the store's return; due in %s", v.r.Volume, v.due.Sub(n.now()))
				}
			}
		})
	}
}

// TestOneTenantsFailuresHoldUpNoOther has paths of one tenant hang or fail: its other pods and another
// tenant's are served.
func TestOneTenantsFailuresHoldUpNoOther(t *testing.T) {
	broken := answering(500, `{"errors":["1 error occurred: dial tcp: connection refused"]}`)
	six := ""
	for i := range 6 {
		six += fmt.Sprintf("- {objectName: f%d, secretPath: bad/%d, secretKey: k}\n", i, i)
	}
	for name, tc := range map[string]struct {
		fail    http.HandlerFunc
		objects string
	}{
		"one path hangs":    {hang, "[{objectName: a, secretPath: bad/slow, secretKey: k}]"},
		"six paths hang":    {hang, six},
		"six paths break":   {broken, six},
		"a proxy times out": {answering(504, "<html>gateway timeout"), six},
		"a proxy gives up":  {answering(503, "upstream connect error"), six},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/bad/") {
					tc.fail(w, r)
					return
				}
				answering(200, `{"data":{"k":"v"}}`)(w, r)
			})
			p := newProvider(t, func(c *vault.Config) { c.RequestTimeout = time.Second })
			for i := range 3 {
				if _, err := p.Fetch(t.Context(), brokenRequest(fmt.Sprint("v", i), b.URL, map[string]string{"objects": tc.objects})); err == nil {
					t.Fatal("want an error")
				}
			}
			mustFetch(t, p, brokenRequest("healthy", b.URL, nil))
			other := brokenRequest("other", b.URL, nil)
			other.Pod.Namespace = "other"
			mustFetch(t, p, other)
		})
	}
}

// TestSealedNamespace has one namespace of the store sealed, as OpenBao has it.
func TestSealedNamespace(t *testing.T) {
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Namespace") == "one" {
			answering(503, `{"errors":["Vault is sealed"]}`)(w, r)
			return
		}
		answering(200, `{"data":{"k":"v"}}`)(w, r)
	})
	p := newProvider(t, nil)
	for i := range 4 {
		r := brokenRequest(fmt.Sprint("v", i), b.URL, map[string]string{"vaultNamespace": "one"})
		r.Pod.Namespace = fmt.Sprint("tenant-", i%2)
		if _, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.Unavailable {
			t.Fatal(err)
		}
	}
	wantFile(t, mustFetch(t, p, brokenRequest("w", b.URL, map[string]string{"vaultNamespace": "two"})), "a", "v")
}

// TestDestination checks that a volume's destination is its server and namespace, also after a restart.
func TestDestination(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, nil)
	r := brokenRequest("v", b.URL, map[string]string{"vaultNamespace": "one"})
	mustFetch(t, p, r)
	want := b.URL + " one"
	testkit.Equal(t, "the destination", p.Destination("v"), want)
	next := newProvider(t, nil)
	testkit.Equal(t, "the destination of a volume that is not known", next.Destination("v"), "")
	testkit.Must(t, next.Import("v", p.Export("v")))
	testkit.Equal(t, "the destination after a restart", next.Destination("v"), want)
}

// address is an address of a real Vault that can be away.
type address struct {
	*broken
	away atomic.Bool
}

func newAddress(t *testing.T, to string) *address {
	t.Helper()
	target := testkit.Value(url.Parse(to))(t)
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
	testkit.Equal(t, "answered by", p.AnsweredBy(r.Volume), second.URL)
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
