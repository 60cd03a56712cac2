package akeylessd

import (
	"maps"
	"strings"
	"time"
)

// The item types of describe-item.
const (
	typeStatic      = "STATIC_SECRET"
	typeRotated     = "ROTATED_SECRET"
	typeDynamic     = "DYNAMIC_SECRET"
	typeCertificate = "CERTIFICATE"
	typeIssuer      = "PKI_CERT_ISSUER"
)

type item struct {
	name     string
	kind     string
	values   []any // by version, the first is version 1
	modified time.Time
	next     time.Time // rotation
	ttl      time.Duration
}

// lease is one dynamic credential.
type lease struct {
	item    string
	expires time.Time
}

func (s *Server) put(name, kind string, change func(*item)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[name]
	if it == nil || it.kind != kind {
		it = &item{name: name, kind: kind}
		s.items[name] = it
	}
	it.modified = s.options.Now()
	change(it)
}

// PutStatic adds a version of a static secret: a text, or the value of a JSON or password secret.
func (s *Server) PutStatic(name string, value any) {
	s.put(name, typeStatic, func(it *item) { it.values = append(it.values, value) })
}

// PutRotated adds a version of a rotated secret, with the time of the next one.
func (s *Server) PutRotated(name string, value any, next time.Time) {
	s.put(name, typeRotated, func(it *item) { it.values, it.next = append(it.values, value), next })
}

// PutCertificate adds a version of a stored certificate with its key.
func (s *Server) PutCertificate(name, certificate, key string) {
	s.put(name, typeCertificate, func(it *item) {
		it.values = append(it.values, map[string]any{"certificate_pem": certificate, "private_key_pem": key})
	})
}

// PutDynamic adds a dynamic secret whose credentials live for ttl, in whole
// minutes.
func (s *Server) PutDynamic(name string, ttl time.Duration) {
	s.put(name, typeDynamic, func(it *item) { it.ttl = ttl })
}

// PutIssuer adds a PKI certificate issuer.
func (s *Server) PutIssuer(name string, ttl time.Duration) {
	s.put(name, typeIssuer, func(it *item) { it.ttl = ttl })
}

// Delete removes an item.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.items, name)
}

// Credentials counts the dynamic credentials that were issued, and those that are still valid.
func (s *Server) Credentials() (issued, alive int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	maps.DeleteFunc(s.alive, func(_ string, l lease) bool { return !now.Before(l.expires) })
	return s.credentials, len(s.alive)
}

// Certificates counts the PKI certificates that were issued.
func (s *Server) Certificates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}

// find is an item that the caller may know of.
func (s *Server) find(who *session, name, kind string) (*item, *answer) {
	name = "/" + strings.TrimPrefix(name, "/")
	it := s.items[name]
	var refusal answer
	switch {
	case s.rule(who, name) == nil:
		refusal = failure(403, "Forbidden: access to item %s is denied", name)
	case it == nil:
		refusal = failure(404, "item %s was not found", name)
	case it.kind != kind:
		refusal = failure(400, "item %s is not a %s", name, kind)
	default:
		return it, nil
	}
	return nil, &refusal
}

// version picks one of an item's values; 0 is the last.
func (it *item) version(n int) (any, *answer) {
	if n == 0 {
		n = len(it.values)
	}
	if n < 1 || n > len(it.values) {
		refusal := failure(404, "version %d of item %s was not found", n, it.name)
		return nil, &refusal
	}
	return it.values[n-1], nil
}
