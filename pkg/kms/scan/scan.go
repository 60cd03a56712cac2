// Package scan counts the providers and keys that the values of etcd are under, live or in a
// snapshot file. It decrypts nothing, and stores no value.
package scan

import (
	"cmp"
	"context"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
)

// Source is where values are read from.
type Source interface {
	// Each calls visit with every key below the prefixes. The value is only
	// valid during the call.
	Each(ctx context.Context, prefixes []string, visit func(key string, value []byte)) error
	Revision() int64
	String() string
}

// Want says which provider and key a value of a resource should be under.
type Want struct {
	// Name is the KMS provider's name in the EncryptionConfiguration.
	Name string
	// KeyIDs are the key ids that are up to date. Without any, every value under the provider is as
	// wanted.
	KeyIDs []string
	// PlainText says that nothing should be encrypted.
	PlainText bool
}

// meets reports whether a value is as wanted.
func (w Want) meets(v stored.Value) bool {
	if w.PlainText {
		return v.Provider == stored.Identity
	}
	return v.Provider == stored.KMSv2 && v.Name == w.Name && (len(w.KeyIDs) == 0 || slices.Contains(w.KeyIDs, v.KeyID))
}

// Options say what to scan.
type Options struct {
	Keys      Keys
	Resources Selection
	// Want returns what is wanted of a resource; false leaves it out of the scan.
	Want func(Resource) (Want, bool)
	// Names bounds the listed objects of each resource.
	Names int
	// Version returns the key's version that a value needs for its decryption. It may be nil.
	Version func(stored.Value) (int, bool)
}

// maxKeys bounds the keys of a resource that are counted separately, because etcd's content is
// untrusted.
const maxKeys = 1000

// Result is the result of a scan.
type Result struct {
	Source    string  `json:"source"`
	Revision  int64   `json:"revision"`
	Resources []Found `json:"resources"`
}

// Found is the result for a resource.
type Found struct {
	Resource string `json:"resource"`
	Values   int    `json:"values"`
	// Under counts the values by provider and key, the most frequent first.
	Under []Under `json:"under"`
	// Stragglers are the objects that are not under the wanted key, or cannot be read:
	// namespace/name. There are StragglerCount of them; the list is bounded.
	StragglerCount int      `json:"stragglerCount"`
	Stragglers     []string `json:"stragglers"`
}

// Under is a provider and a key, and the number of values under it.
type Under struct {
	Provider stored.Provider `json:"provider"`
	Name     string          `json:"name,omitempty"`
	KeyID    string          `json:"keyID,omitempty"`
	// Version is the Transit key's version; 0 if it is unknown.
	Version int `json:"version,omitempty"`
	// Error says why values cannot be read; then there is no provider.
	Error  string `json:"error,omitempty"`
	Values int    `json:"values"`
	Wanted bool   `json:"wanted"`
}

// Stragglers is the number of values that are not as wanted.
func (r *Result) Stragglers() int {
	n := 0
	for i := range r.Resources {
		n += r.Resources[i].StragglerCount
	}
	return n
}

// Values is the number of values that were read.
func (r *Result) Values() int {
	n := 0
	for i := range r.Resources {
		n += r.Resources[i].Values
	}
	return n
}

// Run scans a source.
func Run(ctx context.Context, source Source, o Options) (*Result, error) {
	found := map[Resource]*counter{}
	err := source.Each(ctx, o.Keys.Prefixes(o.Resources), func(key string, value []byte) {
		r, object, ok := o.Keys.Of(key)
		if !ok || !o.Resources.Matches(r) {
			return
		}
		c := found[r]
		if c == nil {
			c = &counter{options: &o, under: map[Under]int{}}
			c.want, c.judged = o.Want(r)
			found[r] = c
		}
		if c.judged {
			c.add(object, value)
		}
	})
	if err != nil {
		return nil, err
	}
	result := &Result{Source: source.String(), Revision: source.Revision(), Resources: []Found{}}
	for r, c := range found {
		if c.judged {
			result.Resources = append(result.Resources, c.found(r))
		}
	}
	slices.SortFunc(result.Resources, func(a, b Found) int { return cmp.Compare(a.Resource, b.Resource) })
	return result, nil
}

// counter counts the values of one resource.
type counter struct {
	options    *Options
	want       Want
	judged     bool
	values     int
	under      map[Under]int
	stragglers []string
	count      int
}

func (c *counter) add(object string, value []byte) {
	c.values++
	v, err := stored.Parse(value)
	u := Under{Provider: v.Provider, Name: v.Name, KeyID: v.KeyID}
	if err != nil {
		u = Under{Error: err.Error()}
	} else if c.options.Version != nil {
		u.Version, _ = c.options.Version(v)
	}
	u.Wanted = err == nil && c.want.meets(v)
	if _, known := c.under[u]; !known && len(c.under) >= maxKeys {
		u = Under{Error: "under more keys than a report has lines", Wanted: u.Wanted}
	}
	c.under[u]++
	if !u.Wanted {
		c.count++
		if len(c.stragglers) < c.options.Names {
			c.stragglers = append(c.stragglers, object)
		}
	}
}

func (c *counter) found(r Resource) Found {
	f := Found{Resource: r.String(), Values: c.values, Under: []Under{}, StragglerCount: c.count, Stragglers: append([]string{}, c.stragglers...)}
	for u, n := range c.under {
		u.Values = n
		f.Under = append(f.Under, u)
	}
	slices.SortFunc(f.Under, func(a, b Under) int {
		return cmp.Or(cmp.Compare(b.Values, a.Values), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Name, b.Name), cmp.Compare(a.KeyID, b.KeyID), cmp.Compare(a.Error, b.Error))
	})
	slices.Sort(f.Stragglers)
	return f
}
