package vault

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// The provider names, which classes set as spec.provider.
const (
	NameVault   = "vault"
	NameOpenBao = "openbao"
)

const defaultAuthMount = "kubernetes"

// Config has the operator's settings. Only Name is required. The parameters of a class
// take precedence over the Default fields.
type Config struct {
	// Name is NameVault or NameOpenBao. It decides the default audience and the prefixes
	// of parameters.
	Name string

	// DefaultAddress is the server of classes without vaultAddress.
	DefaultAddress string
	// DefaultFallback is the second address of the store at DefaultAddress, for classes
	// that use that and have no vaultFallbackAddress; empty for none.
	DefaultFallback string
	// DefaultNamespace is the Vault namespace of classes without one.
	DefaultNamespace string
	// DefaultAuthMount is the path of the auth method; empty means kubernetes.
	DefaultAuthMount string
	// DefaultAudience is the audience of the service account token for the login; empty
	// means the provider's name.
	DefaultAudience string
	// DefaultTLS is how the server is verified if a class does not say. Its client
	// certificate is presented to DefaultAddress and DefaultFallback only, and only for
	// DefaultAuthMount and AllowedAuthMounts.
	DefaultTLS endpoint.TLS

	// AllowedAddresses are the servers that classes may name besides DefaultAddress and
	// DefaultFallback; empty allows any over http and https. A pattern is scheme://host[:port], compared exactly,
	// with two wildcards: a host that begins with "*." matches exactly one more label, and
	// the port "*" matches any port. The default port is that of the scheme. A unix://
	// address must be one of the defaults or be in the list, even if the list is empty: a
	// class must not reach other sockets of the node.
	AllowedAddresses []string
	// AllowedAuthMounts are the auth methods that classes may name besides
	// DefaultAuthMount; empty allows any.
	AllowedAuthMounts []string
	// AllowCertAuth allows the login with a client certificate, which is not the pod's
	// identity but that of everyone who may name its files.
	AllowCertAuth bool
	// ForbidSkipVerify refuses classes that switch verification off.
	ForbidSkipVerify bool

	// Instead is the server that is used in place of the addresses of classes and
	// defaults, after those were checked, for a program that reaches Vault in another way
	// than a node does. Zero fields of it change nothing.
	Instead endpoint.Target

	endpoint.Settings
}

// complete sets the defaults, and returns an error for settings that cannot work.
func (c *Config) complete() error {
	if c.Name != NameVault && c.Name != NameOpenBao {
		return fmt.Errorf("vault: the provider's name is %q, must be %q or %q", c.Name, NameVault, NameOpenBao)
	}
	if err := c.Settings.Complete(); err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	c.DefaultAuthMount = cmp.Or(c.DefaultAuthMount, defaultAuthMount)
	c.DefaultAudience = cmp.Or(c.DefaultAudience, c.Name)
	return c.check()
}

// operator returns the server for classes without one; its addresses are zero if there is
// none.
func (c *Config) operator() (endpoint.Operator, error) {
	o := endpoint.Operator{Target: endpoint.Target{TLS: c.DefaultTLS}}
	if err := o.Address.UnmarshalText([]byte(c.DefaultAddress)); err != nil {
		return o, fmt.Errorf("vault: default address: %w", err)
	}
	if err := o.Fallback.UnmarshalText([]byte(c.DefaultFallback)); err != nil {
		return o, fmt.Errorf("vault: default fallback address: %w", err)
	}
	if err := endpoint.CheckSecond(o.Address, o.Fallback); err != nil {
		return o, fmt.Errorf("vault: default fallback address: it %w", err)
	}
	return o, nil
}

func (c *Config) check() error {
	switch {
	case (c.DefaultTLS.ClientCertFile == "") != (c.DefaultTLS.ClientKeyFile == ""):
		return errors.New("vault: a client certificate and its key go together: give both or none")
	case c.DefaultTLS.ClientCertFile != "" && c.DefaultAddress == "":
		return errors.New("vault: a client certificate is presented to the default address alone, and there is none: give both, or have classes name their own")
	case c.DefaultFallback != "" && c.DefaultAddress == "":
		return errors.New("vault: there is a default fallback address and no default address: give both, or have classes name their own")
	case c.ForbidSkipVerify && c.DefaultTLS.SkipVerify:
		return errors.New("vault: skipping the verification of certificates is both forbidden and the default")
	}
	return nil
}

// mounts returns the paths of the auth methods, the default one first.
func (c *Config) mounts() ([]string, error) {
	var mounts []string
	for _, text := range append([]string{c.DefaultAuthMount}, c.AllowedAuthMounts...) {
		mount, err := parseMount(text)
		if err != nil {
			return nil, fmt.Errorf("vault: auth mount %q: %w", text, err)
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}
