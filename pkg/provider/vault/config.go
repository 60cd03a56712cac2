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
	// DefaultNamespace is the Vault namespace of classes without one.
	DefaultNamespace string
	// DefaultAuthMount is the path of the auth method; empty means kubernetes.
	DefaultAuthMount string
	// DefaultAudience is the audience of the service account token for the login; empty
	// means the provider's name.
	DefaultAudience string
	// DefaultTLS is how the server is verified if a class does not say. Its client
	// certificate is presented to DefaultAddress only, and only for DefaultAuthMount and
	// AllowedAuthMounts.
	DefaultTLS endpoint.TLS

	// AllowedAddresses are the servers that classes may name besides DefaultAddress; empty
	// allows any over http and https. A pattern is scheme://host[:port], compared exactly,
	// with two wildcards: a host that begins with "*." matches exactly one more label, and
	// the port "*" matches any port. The default port is that of the scheme. A unix://
	// address must be DefaultAddress or be in the list, even if the list is empty: a class
	// must not reach other sockets of the node.
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

// address returns the address for classes without one; zero if there is none.
func (c *Config) address() (endpoint.Address, error) {
	if c.DefaultAddress == "" {
		return endpoint.Address{}, nil
	}
	a, err := endpoint.ParseAddressOrSocket(c.DefaultAddress)
	if err != nil {
		return a, fmt.Errorf("vault: default address: %w", err)
	}
	return a, nil
}

func (c *Config) check() error {
	switch {
	case (c.DefaultTLS.ClientCertFile == "") != (c.DefaultTLS.ClientKeyFile == ""):
		return errors.New("vault: a client certificate and its key go together: give both or none")
	case c.DefaultTLS.ClientCertFile != "" && c.DefaultAddress == "":
		return errors.New("vault: a client certificate is presented to the default address alone, and there is none: give both, or have classes name their own")
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
