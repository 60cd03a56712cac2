package vault

import (
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// spec is a class as this provider understands it. It is never changed.
type spec struct {
	class class.Ref
	// named is the server by the class and the defaults, which Config.Instead may
	// put another in the place of.
	named    endpoint.Target
	login    login
	objects  []*object
	requests []*request
	warnings []string
	suspects []string // those of warnings that are probably mistakes
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
	s := &spec{class: cl.Ref, login: p.newLogin(set), interval: p.config.DefaultInterval, scope: cl.CredentialScope}
	s.objects, s.requests = newObjects(set)
	for _, o := range s.objects {
		if every := o.request.interval; every > 0 && every < p.config.MinInterval {
			set.Warn(set.Field(keyObjects).Index(o.index).Child(fieldInterval),
				"is less than the operator allows: %s is used: %s", p.config.MinInterval, setting.Name("--min-refresh-interval"))
		}
	}
	s.warnings, s.suspects, s.size = set.Warnings, set.Suspects, set.Size()
	if cl.RefreshInterval > 0 {
		s.interval = cl.RefreshInterval
	}
	if err := p.check(s, set); err != nil {
		return s, err
	}
	s.named, s.login.target = s.login.target, p.config.Instead.Over(s.login.target)
	return s, nil
}

// ids are the requests that the class makes.
func (s *spec) ids() map[string]bool {
	ids := make(map[string]bool, len(s.requests))
	for _, r := range s.requests {
		ids[r.id] = true
	}
	return ids
}

func (p *Provider) check(s *spec, set *params.Set) error {
	policy := params.Policy{
		AllowedFlag: "--vault-allowed-addresses",
		Allowed:     p.allowed, ForbidSkipVerify: p.config.ForbidSkipVerify, Files: p.endpoints.Files, Operator: p.config.DefaultTLS,
	}
	if err := set.Check(policy, targetKeys(), s.login.target); err != nil {
		return err
	}
	if len(p.config.AllowedAuthMounts) > 0 && !slices.Contains(p.mounts, s.login.mount) {
		return fault.New(fault.NotAllowed, "%s: this node's operator does not allow the auth mount %q", set.Field(keyAuthMount), s.login.mount).
			WithHint("leave the parameter out to use the operator's, or have the mount allowed with %s", setting.Name("--vault-allowed-auth-mounts"))
	}
	return nil
}

// spec parses a class, or finds it parsed.
func (p *Provider) spec(r provider.Request) (*spec, error) {
	return p.specs.Get(r.Volume, r.Class, p.newSpec)
}

// Validate implements provider.Validator.
func (p *Provider) Validate(c *class.Class) ([]string, error) {
	j, err := p.Judge(c)
	return j.Warnings, err
}
