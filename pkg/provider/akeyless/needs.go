package akeyless

import "github.com/mayfly-csi/mayfly/pkg/class"

// Need is what a class asks of Akeyless: where it logs in, and the items that
// it reads.
type Need struct {
	Gateway    string
	AccessID   string
	AccessType string
	// Audience is that of the service account token to log in with; empty where
	// the login is not the pod's.
	Audience string
	// AsPod tells that the login is the pod's own, and Claims that roles can go by
	// the service account.
	AsPod, Claims bool
	// Key is the key of the volume's Secret that the login is made with; empty
	// where it needs none, or the class itself holds it.
	Key    string
	Rights []Right
	// Files are those on the node that the connection takes.
	Files []string
}

// Right is what an item takes.
type Right struct {
	Item         string
	Capabilities []string
	// Versions are those that let a refresh ask whether the item has changed.
	Versions []string
	// Objects are those of the class that ask for it, by index.
	Objects []int
}

// Needs tells what a class asks of Akeyless, in the order of the class.
func (p *Provider) Needs(c *class.Class) (Need, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return Need{}, err
	}
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
	for _, o := range s.objects {
		i, known := at[o.item.name]
		if !known {
			i = len(n.Rights)
			at[o.item.name] = i
			n.Rights = append(n.Rights, Right{Item: o.item.name})
		}
		n.Rights[i].add(o)
	}
	return n, nil
}

func (r *Right) add(o *object) {
	r.Objects = append(r.Objects, o.Index)
	merge(&r.Capabilities, o.item.kind.capabilities()...)
	if !o.item.kind.issues() {
		merge(&r.Versions, "list")
	}
}

func merge(to *[]string, words ...string) {
	for _, w := range words {
		found := false
		for _, have := range *to {
			found = found || have == w
		}
		if !found {
			*to = append(*to, w)
		}
	}
}

// capabilities are what Akeyless asks for. An item whose type the class does not
// say has to be described.
func (k kind) capabilities() []string {
	switch k {
	case rotated:
		return []string{"read", "list", "update"}
	case detected:
		return []string{"read", "list"}
	}
	return []string{"read"}
}
