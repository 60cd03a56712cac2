package akeyless

import (
	"cmp"
	"crypto/rand"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Name is the provider's name, which classes set as spec.provider.
const Name = "akeyless"

// PublicAddress is Akeyless' own service, which is used if neither the class nor the
// operator names a gateway.
const PublicAddress = "https://api.akeyless.io"

// Config has the operator's settings; the zero value works. The parameters of a class take
// precedence over the Default fields.
type Config struct {
	// DefaultGateway is the base URL of the API for classes without akeylessGatewayURL;
	// empty means PublicAddress.
	DefaultGateway string
	// DefaultAccessID and DefaultK8sAuthConfigName are for classes without these
	// parameters.
	DefaultAccessID          string
	DefaultK8sAuthConfigName string
	// DefaultAudience is the audience of the service account token for the
	// access types k8s and jwt; empty means akeyless.
	DefaultAudience string

	// ShareByServiceAccount lets the pods of one service account share logins and reads,
	// if the class does not say. Akeyless' roles may depend on a pod's name and UID, and a
	// login's answer does not show whether they do: set this only if no role does.
	ShareByServiceAccount bool

	// Clouds are the token services of clouds; the zero value means their public
	// addresses.
	Clouds Clouds

	// IdentityKey is the key of the hashes by which a volume's state distinguishes access
	// keys and the like. With a random key, which empty means, volumes with such
	// credentials log in again after a restart.
	IdentityKey secret.Bytes

	endpoint.Servers
	endpoint.Settings
}

const identityKeyBytes = 32

// complete sets the defaults, and returns an error for settings that cannot work.
func (c *Config) complete() error {
	if err := c.Settings.Complete(); err != nil {
		return fmt.Errorf("akeyless: %w", err)
	}
	if c.IdentityKey.Len() == 0 {
		key := make([]byte, identityKeyBytes)
		_, _ = rand.Read(key) // never fails: the runtime ends the process first
		c.IdentityKey = secret.NewBytes(key)
	}
	c.DefaultAudience = cmp.Or(c.DefaultAudience, Name)
	c.Clouds.complete()
	return nil
}
