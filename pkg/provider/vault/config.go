package vault

import (
	"cmp"
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
	// AllowedAuthMounts are the auth methods that classes may name besides
	// DefaultAuthMount; empty allows any.
	AllowedAuthMounts []string
	// AllowCertAuth allows the login with a client certificate, which is not the pod's
	// identity but that of everyone who may name its files.
	AllowCertAuth bool

	// Servers are the Vault servers. The client certificate of their DefaultTLS is presented
	// only for DefaultAuthMount and AllowedAuthMounts.
	endpoint.Servers
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
