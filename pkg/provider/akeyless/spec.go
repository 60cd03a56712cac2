package akeyless

import (
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
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
	named endpoint.Target
	login login
}

// newSpec parses a class. Its error names every wrong field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	set := params.New(cl.Parameters, known())
	s := &spec{login: newLogin(set, &p.config, p.operator)}
	listed := set.Objects(keyObjects)
	s.Spec = session.NewSpec(cl, set, p.config.DefaultInterval, fieldFile, listed, newObjects(listed))
	if s.SecretKey = s.login.Type.secretKey(); s.SecretKey != "" {
		s.Given = secret.NewString(set.Get(s.SecretKey, ""))
	}
	if err := p.check(s, set); err != nil {
		return s, err
	}
	s.named = s.login.Target
	s.login.Target, s.login.Fallback = p.config.Instead.OverBoth(s.login.Target, s.login.Fallback)
	s.Login, s.AsPod, s.Audience, s.Fallback = s.login, s.login.Type.asPod(), s.login.Audience, s.login.Fallback.Address
	return s, nil
}

func (p *Provider) check(s *spec, set *params.Set) error {
	if err := set.Check(p.policy, targetKeys(), s.login.Target, s.login.Fallback); err != nil || s.login.K8sGateway == "" {
		return err
	}
	a, err := endpoint.ParseAddress(s.login.K8sGateway)
	if err != nil {
		return fault.New(fault.Internal, "%s does not read back: %w", set.Field(keyK8sGateway), err)
	}
	return set.CheckAddress(p.policy, keyK8sGateway, a) // Akeyless sends the pod's token there
}

// Parse implements session.Store.
func (p *Provider) Parse(c *class.Class) (*session.Spec, error) {
	s, err := p.newSpec(c)
	return &s.Spec, err
}
