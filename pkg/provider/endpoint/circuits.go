package endpoint

import (
	"cmp"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/stores"
)

// Circuits are those that are open, the widest first, at most so many of them,
// and how many there are.
func (b *Breaker) Circuits(most int) (open []stores.Circuit, all int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	add := func(c *circuit, scope stores.Scope, namespace, tenant, place string) {
		if !c.open {
			return
		}
		path, _, _ := strings.Cut(place, "\n") // without what it is asked for
		told := stores.Circuit{Scope: scope, Namespace: namespace, Tenant: tenant, Path: path, Failures: c.failures, Since: c.since, ProbeAt: c.probe}
		if c.last != nil {
			told.Last = c.last.Error()
		}
		open = append(open, told)
	}
	add(&b.connection, stores.WholeServer, "", "", "")
	for name, n := range b.namespaces {
		add(&n.away, stores.StoreNamespace, name, "", "")
		add(&n.broken, stores.FailedPaths, name, "", "")
		for id, t := range n.tenants {
			add(&t.away, stores.Tenant, name, id, "")
			add(&t.broken, stores.FailedPaths, name, id, "")
			for place, p := range t.paths {
				add(p, stores.OnePath, name, id, place)
			}
		}
	}
	scopes := stores.Scopes()
	slices.SortFunc(open, func(x, y stores.Circuit) int {
		return cmp.Or(cmp.Compare(slices.Index(scopes, x.Scope), slices.Index(scopes, y.Scope)), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Tenant, y.Tenant), cmp.Compare(x.Path, y.Path))
	})
	all = len(open)
	return open[:min(all, most)], all
}
