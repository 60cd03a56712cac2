package vault

import (
	"net/http"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// mayLackData tells whether a request may be for a secret of a KV version 2
// engine, with a path that lacks data/.
func mayLackData(r *request) bool {
	elements := strings.Split(r.path, "/")
	if r.method != http.MethodGet || len(r.query) > 0 || len(elements) < 2 || elements[1] == "data" || looksLeased(r) {
		return false
	}
	return !slices.Contains([]string{"auth", "sys", "identity", "cubbyhole"}, elements[0])
}

// withData is the path that was meant if the engine's mount has one element;
// empty where data stands somewhere in the path already.
func withData(r *request) string {
	elements := strings.Split(r.path, "/")
	if slices.Contains(elements, "data") {
		return ""
	}
	return elements[0] + "/data/" + strings.Join(elements[1:], "/")
}

// Judged is what can be told of a class without its store.
type Judged struct {
	// Audience is that of the service account token which logs in.
	Audience string
	// Address, Namespace, Mount and Role are where it logs in, and as what.
	Address, Namespace, Mount, Role string
	// Warnings are what the class works without.
	Warnings []string
	// WithData are the paths that were meant where a KV version 2 engine is
	// asked, by the index of the object, of those that may lack data/.
	WithData map[int]string
}

// Judge is Validate, and tells what a class asks for whose parameters are valid.
func (p *Provider) Judge(c *class.Class) (Judged, error) {
	s, err := p.newSpec(c)
	j := Judged{Warnings: slices.Clone(s.Warnings), WithData: map[int]string{}}
	if err != nil {
		return j, err
	}
	j.Audience, j.Address, j.Namespace, j.Mount, j.Role = s.login.audience, s.login.target.Address.String(), s.login.namespace, s.login.mount, s.login.role
	for _, o := range s.objects {
		if !mayLackData(o.request) {
			continue
		}
		if path := withData(o.request); path != "" {
			j.WithData[o.Index] = path
		}
	}
	return j, class.Suspected(s.suspects)
}

// Listed are the objects of a class, whose parameters are valid.
func (p *Provider) Listed(c *class.Class) ([]provider.Listed, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return nil, err
	}
	out := make([]provider.Listed, len(s.objects))
	for i, o := range s.objects {
		out[i] = provider.Listed{ID: o.Name, From: o.request.String(), Key: o.Key}
	}
	return out, nil
}
