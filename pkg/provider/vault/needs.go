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

// Need is what a class needs of its store: its login, and the rights of that login's
// token.
type Need struct {
	Login
	Rights []Right
	// Files are those on the node that the connection needs: authorities, and a client
	// certificate with its key.
	Files []string
}

// Login is a class's login.
type Login struct {
	Address, Namespace, Mount, Role, Audience string
}

// Right is one capability for one path of the API, without v1/.
type Right struct {
	Path       string
	Capability string
	Purpose    Purpose
	// Objects are the indexes of the objects that need it; none if the class as a whole
	// needs it.
	Objects []int
}

// Purpose is why a right is needed.
type Purpose string

// The purposes. Without one of Serve a pod does not start. The others are needed later;
// Vault's default policy has those for tokens and leases.
const (
	// Serve: an object is read or issued.
	Serve Purpose = "serve"
	// Version: a refresh reads the version of a KV version 2 secret instead of the secret.
	Version Purpose = "version"
	// Token: the Vault token is renewed, and revoked with the pod.
	Token Purpose = "token"
	// Lease: a lease is renewed, and looked up.
	Lease Purpose = "lease"
	// Public: an object that Vault returns without a policy, if the path is of the engine
	// that it looks like.
	Public Purpose = "public"
)

// Needs returns what a class needs of its store, sorted by path.
func (p *Provider) Needs(c *class.Class) (Need, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return Need{}, err
	}
	return s.needs(), nil
}

func (s *spec) needs() Need {
	l := s.login
	n := Need{Login: Login{s.named.Address.String(), l.Namespace, l.Mount, l.Role, l.Audience}, Files: s.named.TLS.Files()}
	for _, o := range s.Objects {
		q := queryOf(o.Request)
		path, capabilities := q.access()
		purpose := Serve
		if q.public() {
			purpose = Public
		}
		for _, capability := range capabilities {
			n.add(path, capability, purpose, o.Index)
		}
		if path, ok := metadataPath(o.Request); ok {
			n.add(path, "read", Version, o.Index)
		}
		if q.mayLease() {
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
	return n
}

func (n *Need) add(path, capability string, purpose Purpose, object int) {
	i := slices.IndexFunc(n.Rights, func(r Right) bool { return r.Path == path && r.Capability == capability })
	if i < 0 {
		n.Rights = append(n.Rights, Right{Path: path, Capability: capability, Purpose: purpose, Objects: []int{object}})
		return
	}
	r := &n.Rights[i]
	if purpose == Serve {
		r.Purpose = Serve // the most important purpose
	}
	if !slices.Contains(r.Objects, object) {
		r.Objects = append(r.Objects, object)
	}
}

// access returns what a policy must allow for the request: the path as in Vault's
// policies, and the capabilities.
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

// public reports whether Vault answers the request without a policy, for what the PKI and
// SSH engines, the identity store and the server itself publish. The path alone does not
// prove which engine it is.
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

// mayLease reports whether the answer may have a lease. Only the answer itself is certain.
func (r *request) mayLease() bool {
	return r.method != http.MethodGet || r.looksLeased() || slices.Contains(strings.Split(r.path, "/"), "sts")
}

// WithData returns the paths that were meant if the engine is KV version 2, by the index of
// the objects of a valid class whose path may lack data/.
func (p *Provider) WithData(c *class.Class) map[int]string {
	s, err := p.newSpec(c)
	if err != nil {
		return nil
	}
	paths := map[int]string{}
	for _, o := range s.Objects {
		q := queryOf(o.Request)
		if path := q.withData(); path != "" && q.mayLackData() {
			paths[o.Index] = path
		}
	}
	return paths
}
