package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
)

// Kind is a resource that the cluster serves.
type Kind struct {
	scan.Resource
	// Version is the group's preferred version.
	Version    string
	Kind       string
	Namespaced bool
}

// base is the path of the resource's group and version.
func (k Kind) base() string {
	if k.Group == "" {
		return "/api/" + k.Version
	}
	return "/apis/" + k.Group + "/" + k.Version
}

// apiVersion is the field in the objects.
func (k Kind) apiVersion() string {
	return strings.TrimPrefix(k.Group+"/"+k.Version, "/")
}

// object is the path of an object.
func (k Kind) object(namespace, name string) string {
	if k.Namespaced {
		return k.base() + "/namespaces/" + namespace + "/" + k.Name + "/" + name
	}
	return k.base() + "/" + k.Name + "/" + name
}

// Kinds are the resources of a selection that the cluster serves, and whose objects can be listed
// and patched. It leaves out those that wanted refuses.
func (c *Cluster) Kinds(ctx context.Context, selection scan.Selection, wanted func(scan.Resource) bool) ([]Kind, error) {
	versions, err := c.versions(ctx)
	if err != nil {
		return nil, err
	}
	var all []Kind
	for _, v := range versions {
		if !selects(selection, v.Group) {
			continue
		}
		found, err := c.kindsOf(ctx, v)
		if err != nil {
			return nil, err
		}
		for _, k := range found {
			if selection.Matches(k.Resource) && wanted(k.Resource) {
				all = append(all, k)
			}
		}
	}
	slices.SortFunc(all, func(a, b Kind) int { return a.Compare(b.Resource) })
	return all, nil
}

// selects reports whether a selection can include a resource of a group, so that an aggregated API
// that does not answer only matters to selections with it.
func selects(s scan.Selection, group string) bool {
	return slices.ContainsFunc(s, func(pattern string) bool {
		_, g, _ := strings.Cut(pattern, ".")
		return g == group || g == "*"
	})
}

// versions are the groups and their preferred versions.
func (c *Cluster) versions(ctx context.Context) ([]Kind, error) {
	var groups struct {
		Groups []struct {
			Name      string `json:"name"`
			Preferred struct {
				Version string `json:"version"`
			} `json:"preferredVersion"`
		} `json:"groups"`
	}
	if err := c.main.do(ctx, call{method: http.MethodGet, path: "/apis", accept: contentJSON, into: &groups}); err != nil {
		return nil, fmt.Errorf("listing the cluster's API groups: %w", err)
	}
	all := []Kind{{Version: "v1"}}
	for _, g := range groups.Groups {
		// Events are in two groups of the API, and once in etcd.
		if g.Name != "events.k8s.io" {
			all = append(all, Kind{Resource: scan.Resource{Group: g.Name}, Version: g.Preferred.Version})
		}
	}
	return all, nil
}

func (c *Cluster) kindsOf(ctx context.Context, of Kind) ([]Kind, error) {
	var list struct {
		Resources []struct {
			Name       string   `json:"name"`
			Kind       string   `json:"kind"`
			Namespaced bool     `json:"namespaced"`
			Verbs      []string `json:"verbs"`
		} `json:"resources"`
	}
	if err := c.main.do(ctx, call{method: http.MethodGet, path: of.base(), accept: contentJSON, into: &list}); err != nil {
		return nil, fmt.Errorf("listing the resources of %s: %w", of.apiVersion(), err)
	}
	var all []Kind
	for _, r := range list.Resources {
		if !strings.Contains(r.Name, "/") && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "patch") {
			k := of
			k.Name, k.Kind, k.Namespaced = r.Name, r.Kind, r.Namespaced
			all = append(all, k)
		}
	}
	return all, nil
}
