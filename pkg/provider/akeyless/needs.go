package akeyless

import (
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Need is what a class needs of Akeyless: its login, and its items.
type Need struct {
	Gateway    string
	AccessID   string
	AccessType string
	// Audience is that of the service account token for the login; empty if the login is
	// not the pod's.
	Audience string
	// AsPod says that the login is the pod's own, and Claims that roles can depend on the
	// service account.
	AsPod, Claims bool
	// Key is the key of the login's credential in the volume's Secret; empty if it needs
	// none, or the class has it.
	Key    string
	Rights []Right
	// Files are those on the node that the connection needs.
	Files []string
}

// Right is what an item needs.
type Right struct {
	Item         string
	Capabilities []string
	// Versions are the capabilities with which a refresh can check whether the item has
	// changed.
	Versions []string
	// Objects are the indexes of the objects that need it.
	Objects []int
}

// Needs returns what a class needs of Akeyless, in the order of the class.
func (p *Provider) Needs(c *class.Class) (Need, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return Need{}, err
	}
	return s.needs(), nil
}

func (s *spec) needs() Need {
	l := s.login
	n := Need{
		Gateway: s.named.Address.String(), Files: s.named.TLS.Files(), AccessID: l.AccessID, AccessType: string(l.Type),
		AsPod: l.Type.asPod(), Claims: l.Type.seesPod(),
	}
	if n.AsPod {
		n.Audience = l.Audience
	}
	if s.Given.Empty() {
		n.Key = l.Type.secretKey()
	}
	at := map[string]int{}
	for _, o := range s.Objects {
		name := itemOf(o.Request).name
		i, known := at[name]
		if !known {
			i = len(n.Rights)
			at[name] = i
			n.Rights = append(n.Rights, Right{Item: name})
		}
		n.Rights[i].add(o)
	}
	return n
}

func (r *Right) add(o *session.Object) {
	k := itemOf(o.Request).kind
	r.Objects = append(r.Objects, o.Index)
	merge(&r.Capabilities, k.capabilities()...)
	if !k.issues() {
		merge(&r.Versions, "list")
	}
}

func merge(to *[]string, words ...string) {
	for _, w := range words {
		if !slices.Contains(*to, w) {
			*to = append(*to, w)
		}
	}
}
