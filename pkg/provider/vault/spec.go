package vault

import (
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// spec is a class as this provider understands it. It is never changed.
type spec struct {
	session.Spec
	// named is the server by the class and the defaults, which Config.Instead may
	// put another in the place of.
	named    endpoint.Target
	login    login
	objects  []*object
	suspects []string // those of the warnings that are probably mistakes
}

// newSpec parses a class. Its error names every bad field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	set := params.New(cl.Parameters, known(p.config.Name))
	s := &spec{login: p.newLogin(set), Spec: session.Spec{Class: cl.Ref, AsPod: true, Interval: p.config.DefaultInterval, Scope: cl.CredentialScope}}
	var requests []*request
	s.objects, requests = newObjects(set)
	for _, o := range s.objects {
		if every := o.request.Interval; every > 0 && every < p.config.MinInterval {
			set.Warn(set.Field(keyObjects).Index(o.Index).Child(fieldInterval),
				"is less than the operator allows: %s is used: %s", p.config.MinInterval, setting.Name("--min-refresh-interval"))
		}
		s.Objects = append(s.Objects, &o.Object)
	}
	for _, r := range requests {
		if r.Interval > 0 {
			r.Interval = max(r.Interval, p.config.MinInterval)
		}
		s.Requests = append(s.Requests, &r.Request)
	}
	s.Warnings, s.suspects, s.Bytes = set.Warnings, set.Suspects, set.Size()
	if cl.RefreshInterval > 0 {
		s.Interval = cl.RefreshInterval
	}
	if err := p.check(s, set); err != nil {
		return s, err
	}
	s.named, s.login.target = s.login.target, p.config.Instead.Over(s.login.target)
	s.Login, s.Audience = s.login, s.login.audience
	return s, nil
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

// Parse implements session.Store.
func (p *Provider) Parse(c *class.Class) (*session.Spec, error) {
	s, err := p.newSpec(c)
	return &s.Spec, err
}

// Validate implements provider.Validator.
func (p *Provider) Validate(c *class.Class) ([]string, error) {
	j, err := p.Judge(c)
	return j.Warnings, err
}
