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
)

// Needs tells what a class asks of its store, sorted by path.
func (p *Provider) Needs(c *class.Class) (Need, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return Need{}, err
	}
	l := s.login
	n := Need{Login: Login{s.named.String(), l.namespace, l.mount, l.role, l.audience}}
	for _, o := range s.objects {
		path, capabilities := o.request.access()
		for _, capability := range capabilities {
			n.add(path, capability, Serve, o.index)
		}
		if path, ok := metadataPath(o.request); ok {
			n.add(path, "read", Version, o.index)
		}
		if mayLease(o.request) {
			n.add("sys/leases/renew", "update", Lease, o.index)
			n.add("sys/leases/lookup", "update", Lease, o.index)
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

// mayLease tells whether the answer may have a lease. Only the answer itself
// tells for sure.
func mayLease(r *request) bool {
	return r.method != http.MethodGet || looksLeased(r) || slices.Contains(strings.Split(r.path, "/"), "sts")
}
