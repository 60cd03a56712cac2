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

// spec is a class as this provider reads it. It is never changed.
type spec struct {
	session.Spec
	// named is the server of the class and the defaults, which Config.Instead may replace.
	named endpoint.Target
	login login
}

// newSpec parses a class. Its error names every wrong field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	set := params.New(cl.Parameters, known(p.config.Name))
	s := &spec{login: p.newLogin(set)}
	listed := set.Objects(keyObjects)
	s.Spec = session.NewSpec(cl, set, p.config.DefaultInterval, fieldName, listed, newObjects(listed, p.config.MinInterval))
	if err := p.check(s, set); err != nil {
		return s, err
	}
	s.named = s.login.Target
	s.login.Target, s.login.Fallback = p.config.Instead.OverBoth(s.login.Target, s.login.Fallback)
	s.Login, s.AsPod, s.Audience, s.Fallback = s.login, true, s.login.Audience, s.login.Fallback.Address
	return s, nil
}

func (p *Provider) check(s *spec, set *params.Set) error {
	if err := set.Check(p.policy, targetKeys(), s.login.Target, s.login.Fallback); err != nil {
		return err
	}
	if len(p.config.AllowedAuthMounts) > 0 && !slices.Contains(p.mounts, s.login.Mount) {
		return fault.New(fault.NotAllowed, "%s: this node's operator does not allow the auth mount %q", set.Field(keyAuthMount), s.login.Mount).
			WithHint("leave the parameter out to use the operator's, or have the mount allowed with %s", setting.Name("--vault-allowed-auth-mounts"))
	}
	return nil
}

// Parse implements session.Store.
func (p *Provider) Parse(c *class.Class) (*session.Spec, error) {
	s, err := p.newSpec(c)
	return &s.Spec, err
}
