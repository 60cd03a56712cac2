package vault

import (
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// spec is a class as this provider understands it. It is never changed.
type spec struct {
	class    class.Ref
	login    login
	objects  []*object
	requests []*request
	warnings []string
	interval time.Duration
	scope    class.CredentialScope
	size     int64
}

// Size implements params.Made.
func (s *spec) Size() int64 { return s.size }

// withoutObjects is what outlives the class in the volumes that were answered.
func (s *spec) withoutObjects() *spec {
	return &spec{class: s.class, login: s.login, interval: s.interval, scope: s.scope}
}

// newSpec parses a class. Its error names every bad field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	set := params.New(cl.Parameters, known(p.config.Name))
	s := &spec{class: cl.Ref, login: newLogin(set, &p.config, p.fallback), interval: p.config.DefaultInterval, scope: cl.CredentialScope}
	s.objects, s.requests = newObjects(set)
	s.warnings, s.size = set.Warnings, set.Size()
	if cl.RefreshInterval > 0 {
		s.interval = cl.RefreshInterval
	}
	policy := params.Policy{Allowed: p.allowed, ForbidSkipVerify: p.config.ForbidSkipVerify}
	if err := set.Check(policy, targetKeys(), s.login.target); err != nil {
		return s, fmt.Errorf("SecretProviderClass %s: %w", cl.Ref, err)
	}
	return s, nil
}

// spec parses a class, or finds it parsed.
func (p *Provider) spec(r provider.Request) (*spec, error) {
	return p.specs.Get(r.Volume, r.Class, p.newSpec)
}

// Validate implements provider.Validator.
func (p *Provider) Validate(c *class.Class) ([]string, error) {
	s, err := p.newSpec(c)
	return slices.Clone(s.warnings), err
}
