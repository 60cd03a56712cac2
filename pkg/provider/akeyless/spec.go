package akeyless

import (
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// spec is a class as this provider understands it. It is never changed.
type spec struct {
	class class.Ref
	// named is the gateway by the class and the defaults, which Config.Instead may
	// put another in the place of.
	named endpoint.Target
	login login
	// given is the credential in the class itself, if there is one.
	given    secret.String
	objects  []*object
	items    []*item
	warnings []string
	suspects []string // those of warnings that are probably mistakes
	interval time.Duration
	scope    class.CredentialScope
	size     int64
}

// Size implements params.Made.
func (s *spec) Size() int64 { return s.size }

// newSpec parses a class. Its error names every bad field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	set := params.New(cl.Parameters, known())
	s := &spec{class: cl.Ref, login: newLogin(set, &p.config, p.operator), interval: p.config.DefaultInterval, scope: cl.CredentialScope}
	if key := s.login.Type.secretKey(); key != "" {
		s.given = secret.NewString(set.Get(key, ""))
	}
	s.objects, s.items = newObjects(set)
	s.warnings, s.suspects, s.size = set.Warnings, set.Suspects, set.Size()
	if cl.RefreshInterval > 0 {
		s.interval = cl.RefreshInterval
	}
	if err := p.check(s, set); err != nil {
		return s, err
	}
	s.named, s.login.Target = s.login.Target, p.config.Instead.Over(s.login.Target)
	return s, nil
}

// ids are the items that the class asks for.
func (s *spec) ids() map[string]bool {
	ids := make(map[string]bool, len(s.items))
	for _, it := range s.items {
		ids[it.id] = true
	}
	return ids
}

func (p *Provider) check(s *spec, set *params.Set) error {
	policy := params.Policy{
		AllowedFlag: "--akeyless-allowed-addresses",
		Allowed:     p.allowed, ForbidSkipVerify: p.config.ForbidSkipVerify, Files: p.endpoints.Files, Operator: p.config.DefaultTLS,
	}
	if err := set.Check(policy, targetKeys(), s.login.Target); err != nil || s.login.K8sGateway == "" {
		return err
	}
	a, err := endpoint.ParseAddress(s.login.K8sGateway)
	if err != nil {
		return fault.New(fault.Internal, "%s does not read back: %w", set.Field(keyK8sGateway), err)
	}
	return set.CheckAddress(policy, keyK8sGateway, a) // Akeyless passes the pod's token on to there
}

// spec parses a class, or finds it parsed.
func (p *Provider) spec(r provider.Request) (*spec, error) {
	return p.specs.Get(r.Volume, r.Class, p.newSpec)
}

// Validate implements provider.Validator.
func (p *Provider) Validate(c *class.Class) ([]string, error) {
	s, err := p.newSpec(c)
	if err == nil {
		err = class.Suspected(s.suspects)
	}
	return slices.Clone(s.warnings), err
}

// Judged is what can be told of a class without its store.
type Judged struct {
	// Audience is that of the service account token which logs in; empty where
	// it needs none.
	Audience string
	// Address is the gateway, AccessID the auth method.
	Address, AccessID string
}

// Judge tells what a class asks for, whose parameters are valid.
func (p *Provider) Judge(c *class.Class) (Judged, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return Judged{}, err
	}
	return Judged{s.login.Audience, s.login.Target.Address.String(), s.login.AccessID}, nil
}

// Listed are the objects of a class, whose parameters are valid.
func (p *Provider) Listed(c *class.Class) ([]provider.Listed, error) {
	s, err := p.newSpec(c)
	if err != nil {
		return nil, err
	}
	out := make([]provider.Listed, len(s.objects))
	for i, o := range s.objects {
		out[i] = provider.Listed{ID: o.file, From: o.item.String(), Key: o.key}
	}
	return out, nil
}
