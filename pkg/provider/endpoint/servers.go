package endpoint

import (
	"cmp"
	"errors"
	"fmt"
)

// Servers are the operator's settings about the servers of one provider. The zero value works.
type Servers struct {
	// DefaultFallback is the second address of the store at the default address, for classes that
	// use that address and name no second one; empty for none.
	DefaultFallback string
	// DefaultTLS is how a server is verified if a class does not say. Its client certificate is
	// presented to the default servers only.
	DefaultTLS TLS
	// AllowedAddresses are the servers that classes may name besides the default ones; empty allows
	// any over http and https. For the patterns see ParseAllowlist. The default port is that of the
	// scheme. A unix:// address must be a default one or be in the list, even if the list is empty:
	// a class must not reach other sockets of the node.
	AllowedAddresses []string
	// ForbidSkipVerify refuses classes that switch verification off.
	ForbidSkipVerify bool
	// Instead is the server that is used in place of the addresses of classes and defaults, after
	// those were checked, for a program that reaches the store in another way than a node does. Zero
	// fields of it change nothing.
	Instead Target
}

// Default is the server of classes that name none.
type Default struct {
	// What names the address in errors.
	What string
	// Given is the operator's address, Otherwise the provider's own; both may be empty.
	Given, Otherwise string
	Parse            func(text string) (Address, error)
}

// Operator returns the operator's own server; its addresses are zero if there is none.
func (s *Servers) Operator(d Default) (o Operator, err error) {
	o.TLS = s.DefaultTLS
	if text := cmp.Or(d.Given, d.Otherwise); text != "" {
		if o.Address, err = d.Parse(text); err != nil {
			return o, fmt.Errorf("default %s: %w", d.What, err)
		}
	}
	if s.DefaultFallback != "" {
		if o.Fallback, err = d.Parse(s.DefaultFallback); err != nil {
			return o, fmt.Errorf("default fallback %s: %w", d.What, err)
		}
	}
	switch {
	case (s.DefaultTLS.ClientCertFile == "") != (s.DefaultTLS.ClientKeyFile == ""):
		return o, errors.New("a client certificate and its key go together: give both or none")
	case s.DefaultTLS.ClientCertFile != "" && o.Address.IsZero():
		return o, errors.New("a client certificate is presented to the default address alone, and there is none: give both, or have classes name their own")
	case !o.Fallback.IsZero() && o.Address.IsZero():
		return o, errors.New("there is a default fallback address and no default address: give both, or have classes name their own")
	case s.ForbidSkipVerify && s.DefaultTLS.SkipVerify:
		return o, errors.New("skipping the verification of certificates is both forbidden and the default")
	}
	if err := CheckSecond(o.Address, o.Fallback); err != nil {
		return o, fmt.Errorf("default fallback %s: it %w", d.What, err)
	}
	return o, nil
}

// NewPool returns the pool for the operator's server and those of classes. It sends no request.
func (s *Servers) NewPool(c *Settings, n Names, o Operator, d Default) (p *Pool, err error) {
	p = &Pool{Logger: c.Logger, Names: n, Operator: o, AllowLocal: c.AllowLocalAddresses || !s.Instead.Address.IsZero()}
	p.Operator.Target = s.Instead.Over(o.Target)
	own := o.Address
	if d.Given == "" {
		own = Address{}
	}
	if p.Allowed, err = ParseAllowlist(s.AllowedAddresses, own, o.Fallback); err != nil {
		return nil, err
	}
	p.Files, err = NewFiles(c.ClassFileDirs)
	return p, err
}
