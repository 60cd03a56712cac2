package vault

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

// Need is what a class asks of its store: where it logs in, and what it does
// with the Vault token of that login.
type Need struct {
	Login
	Rights []Right
	// Files are those on the node that the connection takes: authorities, and a
	// client certificate with its key.
	Files []string
}

// Login is where a class logs in, and as what.
type Login struct {
	Address, Namespace, Mount, Role, Audience string
}

// Right is one capability on one path of the API, which is written without v1/.
type Right struct {
	Path       string
	Capability string
	Purpose    Purpose
	// Objects are those of the class that ask for it, by index; none where it is
	// for the class as a whole.
	Objects []int
}

// Purpose is what a right is for.
type Purpose string

// The purposes. Without one of Serve a pod does not start. The others are for
// what comes later; Vault's default policy has those for tokens and leases.
const (
	// Serve: an object is read or made.
	Serve Purpose = "serve"
	// Version: a refresh asks for the version of a KV version 2 secret, in
	// place of the secret itself.
	Version Purpose = "version"
	// Token: the Vault token is renewed, and revoked with the pod.
	Token Purpose = "token"
	// Lease: a lease is renewed, and looked up.
	Lease Purpose = "lease"
	// Public: an object is read that Vault answers to anybody, if the path is of
	// the engine that it looks like. No right is needed then.
	Public Purpose = "public"
)

// Needs tells what a class asks of its store, sorted by path.
func (p *Provider) Needs(c *class.Class) (Need, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return Need{}, err
	}
	l := s.login
	n := Need{Login: Login{s.named.Address.String(), l.namespace, l.mount, l.role, l.audience}, Files: s.named.TLS.Files()}
	for _, o := range s.objects {
		path, capabilities := o.request.access()
		purpose := Serve
		if o.request.public() {
			purpose = Public
		}
		for _, capability := range capabilities {
			n.add(path, capability, purpose, o.Index)
		}
		if path, ok := metadataPath(o.request); ok {
			n.add(path, "read", Version, o.Index)
		}
		if mayLease(o.request) {
			n.add("sys/leases/renew", "update", Lease, o.Index)
			n.add("sys/leases/lookup", "update", Lease, o.Index)
		}
	}
	n.Rights = append(n.Rights,
		Right{Path: "auth/token/lookup-self", Capability: "read", Purpose: Token},
		Right{Path: "auth/token/renew-self", Capability: "update", Purpose: Token},
		Right{Path: "auth/token/revoke-self", Capability: "update", Purpose: Token})
	slices.SortStableFunc(n.Rights, func(a, b Right) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Capability, b.Capability))
	})
	return n, nil
}

func (n *Need) add(path, capability string, purpose Purpose, object int) {
	i := slices.IndexFunc(n.Rights, func(r Right) bool { return r.Path == path && r.Capability == capability })
	if i < 0 {
		n.Rights = append(n.Rights, Right{Path: path, Capability: capability, Purpose: purpose, Objects: []int{object}})
		return
	}
	r := &n.Rights[i]
	if purpose == Serve {
		r.Purpose = Serve // it is the most that it is for
	}
	if !slices.Contains(r.Objects, object) {
		r.Objects = append(r.Objects, object)
	}
}

// access is what a policy must grant for a request: the path as Vault's rules
// name it, and the capabilities.
func (r *request) access() (path string, capabilities []string) {
	path = r.path
	list, _ := strconv.ParseBool(r.query.Get("list"))
	switch {
	case r.method != http.MethodGet:
		capabilities = []string{"update"}
	case list:
		path += "/"
		capabilities = []string{"list"}
	default:
		capabilities = []string{"read"}
	}
	if api.IsSudoPath("/" + strings.TrimSuffix(path, "/")) {
		capabilities = append(capabilities, "sudo")
	}
	return path, capabilities
}

// public tells whether Vault answers the request without a right: what the PKI
// and SSH engines, the identity store and the server itself publish. By its path
// alone it may be another engine's.
func (r *request) public() bool {
	if r.method != http.MethodGet || len(r.query) > 0 {
		return false
	}
	if jsonPath(r.path) != "" || bareKey(r.path) != "" && !strings.HasSuffix(r.path, "sys/metrics") {
		return true
	}
	e := strings.Split(r.path, "/")
	n := len(e)
	switch {
	case n >= 2 && e[n-1] == "public_key":
	case n >= 3 && e[n-2] == "cert" && (slices.Contains([]string{"ca", "ca_chain", "crl", "delta-crl"}, e[n-1]) || strings.Count(e[n-1], ":") > 1):
	case n >= 4 && e[n-3] == "issuer" && e[n-1] == "json":
	default:
		return false
	}
	return !slices.Contains(e, "data")
}

// mayLease tells whether the answer may have a lease. Only the answer itself
// tells for sure.
func mayLease(r *request) bool {
	return r.method != http.MethodGet || looksLeased(r) || slices.Contains(strings.Split(r.path, "/"), "sts")
}
