package vault

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// The provider names, which classes give as spec.provider.
const (
	NameVault   = "vault"
	NameOpenBao = "openbao"
)

const defaultAuthMount = "kubernetes"

// Config is what the operator decides. Only Name is required. What a class
// says comes before the Default fields.
type Config struct {
	// Name is NameVault or NameOpenBao. It decides the default audience and
	// which prefixes parameters may have.
	Name string

	// DefaultAddress is the server of classes without vaultAddress.
	DefaultAddress string
	// DefaultNamespace is the Vault namespace of classes without one.
	DefaultNamespace string
	// DefaultAuthMount is the path of the auth method; empty means kubernetes.
	DefaultAuthMount string
	// DefaultAudience is the audience of the service account token that is
	// used to log in; empty means the provider's name.
	DefaultAudience string
	// DefaultTLS is how the server is verified, for classes that do not say. Its
	// client certificate is presented to DefaultAddress alone, and only for
	// DefaultAuthMount and AllowedAuthMounts.
	DefaultTLS endpoint.TLS

	// AllowedAddresses are the servers that classes may name besides
	// DefaultAddress; empty allows any over http and https. A pattern is
	// scheme://host[:port], compared exactly, with two wildcards: a host that
	// begins with "*." stands for exactly one label more, and the port "*"
	// for any port. Without a port it is the scheme's own. A unix:// address
	// must be DefaultAddress or be listed literally, even if the list is
	// empty: a class must not reach a node's other sockets.
	AllowedAddresses []string
	// AllowedAuthMounts are the auth methods that classes may name besides
	// DefaultAuthMount; empty allows any.
	AllowedAuthMounts []string
	// AllowCertAuth lets classes log in by a client certificate, which is the
	// identity of all who may name its files and not the pod's.
	AllowCertAuth bool
	// ForbidSkipVerify refuses classes that switch verification off.
	ForbidSkipVerify bool

	// Instead is the server that is asked in place of those that classes and the
	// defaults name, once those were judged: for who reaches it another way than
	// a node does. What is zero in it stays as it is.
	Instead endpoint.Target

	endpoint.Settings
}

// complete fills in the defaults and refuses what cannot work.
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

// address is the one of classes without; zero if there is none.
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

// mounts gives the paths of the auth methods, the default one first.
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
