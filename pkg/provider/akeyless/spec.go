package akeyless

import (
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// maxSpecs bounds the cache of parsed classes.
const maxSpecs = 512

// spec is a class as this provider understands it. It is never changed.
type spec struct {
	class class.Ref
	login login
	// given is the credential in the class itself, if there is one.
	given    secret.String
	objects  []*object
	items    []*item
	warnings []string
	interval time.Duration
	scope    class.CredentialScope
}

// newSpec parses a class. Its error names every bad field.
func (p *Provider) newSpec(cl *class.Class) (*spec, error) {
	known := params.Known{Keys: parameterKeys(), Long: []string{keyObjects, keyCA}, Secret: []string{keyAccessKey, keyUIDToken}}
	set := params.New(cl.Parameters, known)
	s := &spec{class: cl.Ref, login: newLogin(set, &p.config, p.fallback), interval: p.config.DefaultInterval, scope: cl.CredentialScope}
	if key := s.login.Type.secretKey(); key != "" {
		s.given = secret.NewString(set.Get(key, ""))
	}
	s.objects, s.items = newObjects(set)
	s.warnings = set.Warnings
	if cl.RefreshInterval > 0 {
		s.interval = cl.RefreshInterval
	}
	if len(set.Errs) > 0 {
		return s, fault.New(fault.InvalidClass, "SecretProviderClass %s: %w", cl.Ref, set.Errs.ToAggregate())
	}
	return s, p.checkPolicy(s, set)
}

// checkPolicy holds the class against the operator's rules.
func (p *Provider) checkPolicy(s *spec, set *params.Set) error {
	refuse := func(key string, a endpoint.Address) error {
		return fault.New(fault.NotAllowed, "SecretProviderClass %s: %s: this node's operator does not allow the address %s", s.class, set.Field(key), a).
			WithHint("leave the parameter out to use the operator's gateway, or have the address allowed")
	}
	if a := s.login.Target.Address; !p.allowed.Allows(a) {
		return refuse(keyGateway, a)
	}
	if s.login.K8sGateway != "" { // Akeyless passes the pod's token on to there
		a, err := endpoint.ParseAddress(s.login.K8sGateway)
		if err != nil || !p.allowed.Allows(a) {
			return refuse(keyK8sGateway, a)
		}
	}
	if s.login.Target.TLS.SkipVerify && p.config.ForbidSkipVerify {
		return fault.New(fault.NotAllowed, "SecretProviderClass %s: %s: this node's operator does not allow skipping the verification of certificates", s.class, set.Field(keySkipVerify)).
			WithHint("name the authority with %s instead", keyCAFile)
	}
	return nil
}

// specs caches parsed classes by the state of the object.
type specs struct {
	mu   sync.Mutex
	byID map[specID]*spec
}

type specID struct {
	ref              class.Ref
	uid, resourceVer string
}

// spec parses a class, or finds it parsed. A class without a resource version,
// as from a directory of manifests, is parsed each time.
func (p *Provider) spec(c *class.Class) (*spec, error) {
	if c.ResourceVersion == "" {
		return p.newSpec(c)
	}
	id := specID{c.Ref, c.UID, c.ResourceVersion}
	p.specs.mu.Lock()
	defer p.specs.mu.Unlock()
	if found, ok := p.specs.byID[id]; ok {
		return found, nil
	}
	s, err := p.newSpec(c)
	if err != nil {
		return nil, err
	}
	if p.specs.byID == nil || len(p.specs.byID) >= maxSpecs {
		p.specs.byID = map[specID]*spec{} // rare, and what is still used comes back at once
	}
	p.specs.byID[id] = s
	return s, nil
}

// Validate implements provider.Validator.
func (p *Provider) Validate(c *class.Class) ([]string, error) {
	s, err := p.newSpec(c)
	return slices.Clone(s.warnings), err
}
