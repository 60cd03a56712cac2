package vault

import (
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// maxSpecs bounds the cache of parsed classes.
const maxSpecs = 512

// spec is a class as this provider understands it. It is never changed.
type spec struct {
	class    class.Ref
	login    login
	objects  []*object
	requests []*request
	warnings []string
	interval time.Duration
	scope    class.CredentialScope
}

// newSpec parses a class. Its error names every bad field.
func newSpec(c *Config, allowed allowlist, cl *class.Class) (*spec, error) {
	p := newParams(c.Name, cl.Parameters)
	s := &spec{class: cl.Ref, login: p.login(c), interval: c.DefaultInterval, scope: cl.CredentialScope}
	s.objects, s.requests = p.parseObjects()
	s.warnings = p.warnings
	if cl.RefreshInterval > 0 {
		s.interval = cl.RefreshInterval
	}
	if len(p.errs) > 0 {
		return s, fault.New(fault.InvalidClass, "SecretProviderClass %s: %w", cl.Ref, p.errs.ToAggregate())
	}
	return s, s.checkPolicy(c, allowed, p)
}

// checkPolicy holds the class against the operator's rules.
func (s *spec) checkPolicy(c *Config, allowed allowlist, p *params) error {
	if a := s.login.target.address; !allowed.allows(a) {
		return fault.New(fault.NotAllowed, "SecretProviderClass %s: %s: this node's operator does not allow the address %s", s.class, p.field(keyAddress), a).
			WithHint("leave the parameter out to use the operator's server, or have the address allowed")
	}
	if s.login.target.tls.SkipVerify && c.ForbidSkipVerify {
		return fault.New(fault.NotAllowed, "SecretProviderClass %s: %s: this node's operator does not allow skipping the verification of certificates", s.class, p.field(keySkipVerify)).
			WithHint("name the authority with %s instead", p.field(keyCACert))
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

// get parses a class, or finds it parsed. A class without a resource version,
// as from a directory of manifests, is parsed each time.
func (s *specs) get(c *class.Class, parse func() (*spec, error)) (*spec, error) {
	if c.ResourceVersion == "" {
		return parse()
	}
	id := specID{c.Ref, c.UID, c.ResourceVersion}
	s.mu.Lock()
	found, ok := s.byID[id]
	s.mu.Unlock()
	if ok {
		return found, nil
	}
	parsed, err := parse()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= maxSpecs {
		clear(s.byID) // rare, and what is still used comes back at once
	}
	s.byID[id] = parsed
	return parsed, nil
}

// Validate implements provider.Validator.
func (p *Provider) Validate(c *class.Class) ([]string, error) {
	s, err := newSpec(&p.config, p.allowed, c)
	return slices.Clone(s.warnings), err
}
