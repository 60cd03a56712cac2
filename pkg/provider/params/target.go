package params

import (
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// TargetKeys are the parameters that name the server and how to verify it; an empty one does not
// exist for the provider.
type TargetKeys struct {
	Address                       string
	Fallback                      string // the second address of the same store
	CACertFile, CACertDir, CACert string
	ServerName                    string
	ClientCertFile, ClientKeyFile string
	SkipVerify                    string
	// Socket allows addresses of the form unix://.
	Socket bool
}

// maxCACert bounds the authorities in a class, in bytes.
const maxCACert = 256 << 10

// TargetNames are the keys as classes spell them.
func TargetNames(k TargetKeys, known Known) endpoint.Names {
	name := func(key string) string { return known.namesOf(key)[0] }
	return endpoint.Names{
		Place:      "spec.parameters.",
		CACertFile: name(k.CACertFile), CACertDir: name(k.CACertDir), CACert: name(k.CACert), ServerName: name(k.ServerName),
		ClientCertFile: name(k.ClientCertFile), ClientKeyFile: name(k.ClientKeyFile),
	}
}

// Target reads which server to use and how to verify it. The operator's settings fill in what the
// class leaves out. Only the operator's own server gets the operator's client certificate.
func (s *Set) Target(k TargetKeys, def endpoint.Operator) endpoint.Target {
	address := def.Address
	switch {
	case s.Has(k.Address):
		address = s.Address(k.Address, k.Socket)
	case address.IsZero():
		s.Required(k.Address, "neither the class nor the driver names a server")
	}
	if !def.Owns(address) {
		def.TLS = def.TLS.WithoutClient()
	}
	t := endpoint.Target{Address: address, TLS: s.tls(k, def.TLS)}
	if t.Address.Plain() && t.TLS != (endpoint.TLS{}) && t.TLS != def.TLS {
		s.Warn(s.Field(k.Address), "is a plain http address, so the class's TLS parameters have no effect")
	}
	return t
}

// Fallback reads the second address of the store at first. Without one in the class it is the
// operator's, if the first is the operator's too: another store has another second address. The
// class's settings for the verification hold for both; only the operator's own server gets the
// operator's client certificate. It is zero for none.
func (s *Set) Fallback(k TargetKeys, def endpoint.Operator, first endpoint.Target) endpoint.Target {
	var a endpoint.Address
	switch {
	case s.Has(k.Fallback):
		a = s.Address(k.Fallback, k.Socket)
		if err := endpoint.CheckSecond(first.Address, a); err != nil {
			s.Invalid(k.Fallback, err.Error())
		}
	case first.Address == def.Address:
		a = def.Fallback
	}
	if a.IsZero() {
		return endpoint.Target{}
	}
	if !def.Owns(a) {
		def.TLS = def.TLS.WithoutClient()
	}
	return endpoint.Target{Address: a, TLS: s.tls(k, def.TLS)}
}

// Address reads an address.
func (s *Set) Address(key string, socket bool) endpoint.Address {
	parse := endpoint.ParseAddress
	if socket {
		parse = endpoint.ParseAddressOrSocket
	}
	text := s.Get(key, "")
	a, err := parse(text)
	switch {
	case err == nil:
	case strings.Contains(text, "@"): // may hold a password
		s.InvalidSecret(key, err.Error())
	default:
		s.Invalid(key, err.Error())
	}
	return a
}

// tls lets the class replace the operator's settings in groups: the authorities, the client's
// certificate and key.
func (s *Set) tls(k TargetKeys, def endpoint.TLS) endpoint.TLS {
	t := def
	if s.Has(k.CACert) || s.Has(k.CACertFile) || s.Has(k.CACertDir) {
		t.CACert, t.CACertFile, t.CACertDir = s.Get(k.CACert, ""), s.Get(k.CACertFile, ""), s.Get(k.CACertDir, "")
	}
	if len(t.CACert) > maxCACert {
		s.InvalidSecret(k.CACert, "is too long for a list of certificates")
	}
	if s.Has(k.ClientCertFile) || s.Has(k.ClientKeyFile) {
		s.Together("a client certificate and its key go together", k.ClientCertFile, k.ClientKeyFile)
		t.ClientCertFile, t.ClientKeyFile = s.Get(k.ClientCertFile, ""), s.Get(k.ClientKeyFile, "")
	}
	t.ServerName = s.Get(k.ServerName, t.ServerName)
	t.SkipVerify = s.Bool(k.SkipVerify, t.SkipVerify)
	return t
}

// Policy is what the operator allows classes to set: the servers and files of the pool. Files of the
// operator's own authorities are allowed too, because they are no secret.
type Policy struct {
	*endpoint.Pool
	*endpoint.Servers
	// AllowedFlag is the flag that sets AllowedAddresses.
	AllowedFlag string
}

// Check returns all mistakes of the parameters or, if there are none, what the operator's rules
// refuse of the store's first address t and of the second, which is zero for none.
func (s *Set) Check(p Policy, k TargetKeys, t, fallback endpoint.Target) error {
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.CheckAddress(p, k.Address, t.Address); err != nil {
		return err
	}
	if !fallback.Address.IsZero() {
		if err := s.CheckAddress(p, k.Fallback, fallback.Address); err != nil {
			return err
		}
	}
	if t.TLS.SkipVerify && p.ForbidSkipVerify {
		return fault.New(fault.NotAllowed, "%s: this node's operator does not allow skipping the verification of certificates", s.Field(k.SkipVerify)).
			WithHint("name the authority with %s instead", s.Field(k.CACertFile))
	}
	if p.ForbidSkipVerify && s.Has(k.CACert) {
		return fault.New(fault.NotAllowed, "%s: this node's operator does not allow skipping the verification of certificates, and an authority of the class's own choice would", s.Field(k.CACert)).
			WithHint("name the authority with %s instead", s.Field(k.CACertFile))
	}
	return s.checkFiles(p, k)
}

// checkFiles refuses files that the operator does not allow classes to name.
func (s *Set) checkFiles(p Policy, k TargetKeys) error {
	for _, file := range []struct{ key, operators string }{
		{k.CACertFile, p.DefaultTLS.CACertFile}, {k.CACertDir, p.DefaultTLS.CACertDir}, {k.ClientCertFile, ""}, {k.ClientKeyFile, ""},
	} {
		if !s.Has(file.key) || s.Get(file.key, "") == file.operators {
			continue
		}
		if err := p.Files.Check(s.Field(file.key).String(), s.Get(file.key, "")); err != nil {
			return err
		}
	}
	return nil
}

// CheckAddress refuses an address that the operator does not allow.
func (s *Set) CheckAddress(p Policy, key string, a endpoint.Address) error {
	if p.Allowed.Allows(a) {
		return nil
	}
	return fault.New(fault.NotAllowed, "%s: this node's operator does not allow the address %s", s.Field(key), a).
		WithHint("leave the parameter out to use the operator's server, or have the address allowed with %s", setting.Name(p.AllowedFlag))
}
