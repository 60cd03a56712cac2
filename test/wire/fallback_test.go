package wire

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const login = "POST /v1/auth/kubernetes/login"

// allowLocalAddresses allows classes to name addresses of this machine.
func allowLocalAddresses(c *node.Config) { c.Vault.AllowLocalAddresses = true }

// fallbackRig also returns a function for the address that answers a volume, by the node's status; ""
// for the first one.
func fallbackRig(t *testing.T, change func(*node.Config)) (r *rig, answeredBy func(p kubelet.Pod) string) {
	t.Helper()
	address := testkit.FreeAddress(t)
	r = newRig(t, func(c *node.Config) {
		change(c)
		c.StatusAddr = address
	})
	return r, func(p kubelet.Pod) string {
		for _, v := range r.status(address, "").Volumes {
			if v.Pod == p.Name {
				return v.AnsweredBy
			}
		}
		return "no such volume"
	}
}

// fallback writes a class with two addresses.
func (r *rig) fallback(name, first, second string) {
	r.class(name, "vaultAddress: "+first, "vaultFallbackAddress: "+second, "refreshInterval: 1s")
}

func (r *rig) eventuallyHolds(p kubelet.Pod, want string) {
	r.t.Helper()
	r.eventually("the file holds "+want, func() bool { return r.file(p, "password") == marker+"-"+want })
}

// TestSecondAddressOfOneCluster: while the first address fails, the second answers with the same Vault
// token, and the first one again when it works.
func TestSecondAddressOfOneCluster(t *testing.T) {
	r, answeredBy := fallbackRig(t, allowLocalAddresses)
	first, second := testkit.NewProxy(t, r.vault.Address), testkit.NewProxy(t, r.vault.Address)
	r.fallback("secrets", first.URL, second.URL)
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	r.wantFile(p, "one")
	if n := second.Requests(""); n != 0 {
		t.Errorf("the second address was asked %d times while the first answered", n)
	}
	first.Seal()
	r.put("db", "two")
	r.eventuallyHolds(p, "two")
	if n := second.Requests(login); n != 0 {
		t.Errorf("%d logins at the second address of the same cluster", n)
	}
	r.eventually("the status names the address", func() bool { return answeredBy(p) == second.URL })
	q := r.pod("web-1", "web", "secrets") // the same service account has a token
	r.publish(q)
	r.wantFile(q, "two")
	first.Unseal()
	r.put("db", "three")
	r.eventuallyHolds(p, "three")
	r.eventually("the first answers again", func() bool { return answeredBy(p) == "" })
	before := second.Requests("")
	r.put("db", "four")
	r.eventuallyHolds(p, "four")
	if after := second.Requests(""); after != before {
		t.Errorf("the second address was asked %d times after the first was back", after-before)
	}
	testkit.Must(t, r.Unpublish(t.Context(), p))
	testkit.Must(t, r.Unpublish(t.Context(), q))
	r.eventually("the Vault token is revoked", func() bool { return first.Requests("POST /v1/auth/token/revoke-self") > 0 })
	r.wantAuditLine(`"event":"refresh"`, `"answeredBy":"`+second.URL+`"`)
}

func (r *rig) readAudit() []byte {
	r.t.Helper()
	return testkit.Value(os.ReadFile(r.auditLog()))(r.t)
}

func (r *rig) wantAuditLine(texts ...string) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("the audit trail has %q", texts), func() bool {
		for line := range strings.Lines(string(r.readAudit())) {
			all := true
			for _, text := range texts {
				all = all && strings.Contains(line, text)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// replicate sets up another Vault like the rig's, and returns a function that writes a secret to both.
func (r *rig) replicate(other *vaulttest.Server) (both func(value string)) {
	main := r.vault
	r.vault = other
	r.setUpVault()
	r.vault = main
	return func(value string) {
		for _, v := range []*vaulttest.Server{main, other} {
			testkit.Must(r.t, v.PutKV2(r.t.Context(), "secret", "db", map[string]any{"password": marker + "-" + value}))
		}
	}
}

// TestOperatorsSecondAddress: the operator's second address serves the classes that use the operator's
// first and name no second. It need not be in the list of allowed addresses, and may be on the node.
func TestOperatorsSecondAddress(t *testing.T) {
	other := vaulttest.New(t, vaulttest.Options{})
	second := testkit.NewProxy(t, other.Address)
	var first, third *testkit.Proxy
	r, answeredBy := fallbackRig(t, func(c *node.Config) {
		first, third = testkit.NewProxy(t, c.Vault.DefaultAddress), testkit.NewProxy(t, c.Vault.DefaultAddress)
		c.Vault.DefaultAddress, c.Vault.DefaultFallback, c.Vault.AllowedAddresses = first.URL, second.URL, []string{third.URL}
	})
	both := r.replicate(other)
	r.class("own", "vaultAddress: "+third.URL)
	third.Seal()
	if err := r.refuse(r.pod("own-0", "web", "own")); !strings.Contains(err.Error(), "Vault is sealed") || strings.Contains(err.Error(), second.URL) {
		t.Errorf("a class with an address of its own: %v", err)
	}
	third.Unseal()
	first.Seal()
	r.class("named", "vaultFallbackAddress: "+third.URL)
	named := r.pod("named-0", "web", "named")
	r.publish(named)
	r.wantFile(named, "one")
	if got := answeredBy(named); got != third.URL {
		t.Errorf("the class names %s as its second address, and %s answers", third.URL, got)
	}
	testkit.Must(t, r.Unpublish(t.Context(), named))
	if n := second.Requests(""); n != 0 {
		t.Errorf("the operator's second address was asked %d times for classes that do not use it", n)
	}
	r.class("default", "refreshInterval: 1s")
	p := r.pod("default-0", "web", "default")
	r.publish(p)
	r.wantFile(p, "one")
	if got := answeredBy(p); got != second.URL {
		t.Errorf("the operator's second address is %s, and %s answers", second.URL, got)
	}
	r.wantAuditLine(`"event":"publish"`, `"answeredBy":"`+second.URL+`"`, `"name":"default-0"`)
	first.Unseal()
	both("two")
	r.eventuallyHolds(p, "two")
	r.eventually("the first answers again", func() bool { return answeredBy(p) == "" })
}

// TestSecondAddressOfAReplica: a replica does not know the Vault token of the other cluster, so the
// driver logs in there. Each token is revoked where it was given.
func TestSecondAddressOfAReplica(t *testing.T) {
	r, answeredBy := fallbackRig(t, allowLocalAddresses)
	main, other := r.vault, vaulttest.New(t, vaulttest.Options{})
	both := r.replicate(other)
	first, second := testkit.NewProxy(t, main.Address), testkit.NewProxy(t, other.Address)
	r.fallback("secrets", first.URL, second.URL)
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	first.Seal()
	both("two")
	r.eventuallyHolds(p, "two")
	if n := second.Requests(login); n != 1 {
		t.Errorf("%d logins at the replica, want 1", n)
	}
	r.wantAuditLine(`"event":"login"`, `"address":"`+second.URL+`"`)
	first.Unseal()
	both("three")
	r.eventuallyHolds(p, "three")
	r.eventually("the first answers again", func() bool { return answeredBy(p) == "" })
	both("four") // read with a token of the first: the login there is over
	r.eventuallyHolds(p, "four")
	testkit.Must(t, r.Unpublish(t.Context(), p))
	const revoke = "POST /v1/auth/token/revoke-self"
	r.eventually("the tokens are revoked at the addresses that gave them", func() bool { return first.Requests(revoke) >= 1 && second.Requests(revoke) >= 1 })
	for name, v := range map[string]*vaulttest.Server{"the first": main, "the replica": other} {
		client := v.Client()
		r.eventually(name+" has no token of the pod left", func() bool { return tokensLeft(t, client) == 0 })
	}
}

// TestBothAddressesFail: the error names both addresses, and a second address that the operator does
// not allow is refused.
func TestBothAddressesFail(t *testing.T) {
	var allowed []string
	r := newRig(t, func(c *node.Config) {
		allowLocalAddresses(c)
		c.Vault.AllowedAddresses = allowed
	})
	first, second := testkit.NewProxy(t, r.vault.Address), testkit.NewProxy(t, r.vault.Address)
	r.fallback("secrets", first.URL, second.URL)
	live := r.pod("live", "web", "secrets")
	r.publish(live)
	first.Close()
	second.Seal()
	r.manifest("other", "- {objectName: password, secretPath: secret/data/other, secretKey: password}", "vaultAddress: "+first.URL, "vaultFallbackAddress: "+second.URL)
	err := r.refuse(r.pod("p", "web", "other"))
	testkit.Says(t, err, first.URL, second.URL, "connection refused", "Vault is sealed")
	r.wantFile(live, "one")
	r.stop()
	allowed = []string{first.URL}
	r.start()
	second.Unseal()
	err = r.refuse(r.pod("q", "web", "other"))
	testkit.Says(t, err, "spec.parameters.vaultFallbackAddress: this node's operator does not allow the address "+second.URL)
	r.class("same", "vaultAddress: "+first.URL, "vaultFallbackAddress: "+first.URL+"/x")
	if err := r.refuse(r.pod("s", "web", "same")); !strings.Contains(err.Error(), "spec.parameters.vaultFallbackAddress") {
		t.Errorf("the same server twice: %v", err)
	}
}

// tokensLeft counts the valid tokens of pods' logins.
func tokensLeft(t *testing.T, client *api.Client) (n int) {
	t.Helper()
	list := testkit.Value(client.Logical().ListWithContext(t.Context(), "auth/token/accessors"))(t)
	for _, accessor := range list.Data["keys"].([]any) {
		about, err := client.Logical().WriteWithContext(t.Context(), "auth/token/lookup-accessor", map[string]any{"accessor": accessor})
		if err == nil && strings.HasPrefix(fmt.Sprint(about.Data["path"]), "auth/kubernetes/") {
			n++
		}
	}
	return n
}
