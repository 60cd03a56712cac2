package akeyless

import (
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// spec is a class as this provider reads it. It is never changed.
type spec struct {
	session.Spec
	// named is the gateway of the class and the defaults, which Config.Instead may
	// replace.
	named    endpoint.Target
	login    login
	objects  []*object
	suspects []string // the warnings that are probably mistakes
}

// newSpec parses a class. Its error names every wrong field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	set := params.New(cl.Parameters, known())
	s := &spec{login: newLogin(set, &p.config, p.operator), Spec: session.Spec{Class: cl.Ref, Interval: p.config.DefaultInterval, Scope: cl.CredentialScope}}
	if s.SecretKey = s.login.Type.secretKey(); s.SecretKey != "" {
		s.Given = secret.NewString(set.Get(s.SecretKey, ""))
	}
	var items []*item
	s.objects, items = newObjects(set)
	for _, o := range s.objects {
		s.Objects = append(s.Objects, &o.Object)
	}
	session.SetKeys(s.Objects)
	for _, it := range items {
		s.Requests = append(s.Requests, &it.Request)
	}
	s.Warnings, s.suspects, s.Bytes = set.Warnings, set.Suspects, set.Size()
	if cl.RefreshInterval > 0 {
		s.Interval = cl.RefreshInterval
	}
	if err := p.check(s, set); err != nil {
		return s, err
	}
	s.named, s.login.Target = s.login.Target, p.config.Instead.Over(s.login.Target)
	if s.login.Target.Address != s.named.Address {
		s.login.Fallback = endpoint.Target{} // what is asked instead has no other
	}
	s.Login, s.AsPod, s.Audience = s.login, s.login.Type.asPod(), s.login.Audience
	return s, nil
}

func (p *Provider) check(s *spec, set *params.Set) error {
	policy := params.Policy{
		AllowedFlag: "--akeyless-allowed-addresses",
		Allowed:     p.allowed, ForbidSkipVerify: p.config.ForbidSkipVerify, Files: p.endpoints.Files, Operator: p.config.DefaultTLS,
	}
	if err := set.Check(policy, targetKeys(), s.login.Target, s.login.Fallback); err != nil || s.login.K8sGateway == "" {
		return err
	}
	a, err := endpoint.ParseAddress(s.login.K8sGateway)
	if err != nil {
		return fault.New(fault.Internal, "%s does not read back: %w", set.Field(keyK8sGateway), err)
	}
	return set.CheckAddress(policy, keyK8sGateway, a) // Akeyless sends the pod's token there
}

// Parse implements session.Store.
func (p *Provider) Parse(c *class.Class) (*session.Spec, error) {
	s, err := p.newSpec(c)
	return &s.Spec, err
}

// Validate implements provider.Validator.
func (p *Provider) Validate(c *class.Class) ([]string, error) {
	s, err := p.newSpec(c)
	if err == nil {
		err = class.Suspected(s.suspects)
	}
	return slices.Clone(s.Warnings), err
}

// Judged is what a class says about itself.
type Judged struct {
	// Audience is that of the service account token for the login; empty if it needs none.
	Audience string
	// Address is the gateway, AccessID the auth method.
	Address, AccessID string
}

// Judge returns what a valid class says.
func (p *Provider) Judge(c *class.Class) (Judged, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return Judged{}, err
	}
	return Judged{s.login.Audience, s.login.Target.Address.String(), s.login.AccessID}, nil
}

// Listed returns the objects of a valid class.
func (p *Provider) Listed(c *class.Class) ([]provider.Listed, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return nil, err
	}
	return s.Listed(), nil
}
