package vault

import (
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// spec is a class as this provider reads it. It is never changed.
type spec struct {
	session.Spec
	// named is the server of the class and the defaults, which Config.Instead may replace.
	named    endpoint.Target
	login    login
	objects  []*object
	suspects []string // the warnings that are probably mistakes
}

// newSpec parses a class. Its error names every wrong field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	set := params.New(cl.Parameters, known(p.config.Name))
	s := &spec{login: p.newLogin(set), Spec: session.Spec{Class: cl.Ref, AsPod: true, Interval: p.config.DefaultInterval, Scope: cl.CredentialScope}}
	var requests []*request
	s.objects, requests = newObjects(set)
	for i, o := range s.objects {
		first := i == 0 || s.objects[i-1].Index != o.Index
		if every := o.request.Interval; first && every > 0 && every < p.config.MinInterval {
			set.Warn(set.Field(keyObjects).Index(o.Index).Child(fieldInterval),
				"is less than the operator allows: %s is used: %s", p.config.MinInterval, setting.Name("--min-refresh-interval"))
		}
		s.Objects = append(s.Objects, &o.Object)
	}
	session.SetKeys(s.Objects)
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
	if s.login.target.Address != s.named.Address {
		s.login.fallback = endpoint.Target{} // what is asked instead has no other
	}
	s.Login, s.Audience = s.login, s.login.audience
	return s, nil
}

func (p *Provider) check(s *spec, set *params.Set) error {
	policy := params.Policy{
		AllowedFlag: "--vault-allowed-addresses",
		Allowed:     p.allowed, ForbidSkipVerify: p.config.ForbidSkipVerify, Files: p.endpoints.Files, Operator: p.config.DefaultTLS,
	}
	if err := set.Check(policy, targetKeys(), s.login.target, s.login.fallback); err != nil {
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

// Judged is what a class says about itself.
type Judged struct {
	// Audience is that of the service account token for the login.
	Audience string
	// Address, Namespace, Mount and Role are those of the login.
	Address, Namespace, Mount, Role string
	// Warnings are about mistakes with which the class still works.
	Warnings []string
	// WithData has the paths that were meant if the engine is KV version 2, by the index
	// of objects whose path may lack data/.
	WithData map[int]string
}

// Judge is Validate that also returns what a valid class says.
func (p *Provider) Judge(c *class.Class) (Judged, error) {
	s, err := p.newSpec(c)
	j := Judged{Warnings: slices.Clone(s.Warnings), WithData: map[int]string{}}
	if err != nil {
		return j, err
	}
	j.Audience, j.Address, j.Namespace, j.Mount, j.Role = s.login.audience, s.login.target.Address.String(), s.login.namespace, s.login.mount, s.login.role
	for _, o := range s.objects {
		if !o.request.mayLackData() {
			continue
		}
		if path := o.request.withData(); path != "" {
			j.WithData[o.Index] = path
		}
	}
	return j, class.Suspected(s.suspects)
}

// Listed returns the objects of a valid class.
func (p *Provider) Listed(c *class.Class) ([]provider.Listed, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return nil, err
	}
	return s.Listed(), nil
}
