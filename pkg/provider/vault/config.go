package vault

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// The provider names, which classes give as spec.provider.
const (
	NameVault   = "vault"
	NameOpenBao = "openbao"
)

const (
	defaultAuthMount      = "kubernetes"
	defaultRequestTimeout = 10 * time.Second
	defaultInterval       = 2 * time.Minute
	defaultRevokeTimeout  = 5 * time.Second
	defaultResponseBytes  = 16 << 20
	versionKeyBytes       = 32
)

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
	// DefaultTLS is how the server is verified, for classes that do not say.
	DefaultTLS TLS

	// AllowedAddresses are the servers that classes may name besides
	// DefaultAddress; empty allows any over http and https. A pattern is
	// scheme://host[:port], compared exactly, with two wildcards: a host that
	// begins with "*." stands for exactly one label more, and the port "*"
	// for any port. Without a port it is the scheme's own. A unix:// address
	// must be DefaultAddress or be listed literally, even if the list is
	// empty: a class must not reach a node's other sockets.
	AllowedAddresses []string
	// ForbidSkipVerify refuses classes that switch verification off.
	ForbidSkipVerify bool

	// RequestTimeout bounds each request; 0 means 10 s.
	RequestTimeout time.Duration
	// MaxRetries is how often a request is made again; negative means never.
	MaxRetries int
	// RetryBase is the first pause before a retry, which doubles; 0 means 250 ms.
	RetryBase time.Duration
	// DefaultInterval is how often secrets without a lifetime are read again
	// where the class has no interval; 0 means 2 minutes.
	DefaultInterval time.Duration
	// MaxResponseBytes bounds one answer; 0 means 16 MiB.
	MaxResponseBytes int64

	// RevokeTimeout bounds the end of one volume's Vault tokens; 0 means 5 s.
	RevokeTimeout time.Duration
	// DisableRevocation leaves tokens and leases of gone volumes to their TTL.
	DisableRevocation bool

	// VersionKey keys the versions of objects which the store does not number.
	// With a random key, which empty means, they change at every start.
	VersionKey secret.Bytes
	UserAgent  string
	// Logger takes debug lines and what no caller is told; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Jitter is a source of numbers from 0 to 1; nil is a random one.
	Jitter func() float64
}

// TLS says how to verify a server and who to be to it. The files are read
// again when they change.
type TLS struct {
	CACertFile     string
	CACertDir      string
	ServerName     string
	ClientCertFile string
	ClientKeyFile  string
	SkipVerify     bool
}

// complete fills in the defaults and refuses what cannot work.
func (c *Config) complete() error {
	if c.Name != NameVault && c.Name != NameOpenBao {
		return fmt.Errorf("vault: the provider's name is %q, must be %q or %q", c.Name, NameVault, NameOpenBao)
	}
	setDefault(&c.DefaultAuthMount, defaultAuthMount)
	setDefault(&c.DefaultAudience, c.Name)
	setDefault(&c.RequestTimeout, defaultRequestTimeout)
	setDefault(&c.RetryBase, defaultRetryBase)
	setDefault(&c.DefaultInterval, defaultInterval)
	setDefault(&c.RevokeTimeout, defaultRevokeTimeout)
	setDefault(&c.MaxResponseBytes, defaultResponseBytes)
	setDefault(&c.UserAgent, "mayfly")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = mathrand.Float64
	}
	if c.VersionKey.Len() == 0 {
		key := make([]byte, versionKeyBytes)
		_, _ = rand.Read(key) // never fails: the runtime ends the process first
		c.VersionKey = secret.NewBytes(key)
	}
	return c.check()
}

func (c *Config) check() error {
	switch {
	case c.RequestTimeout < 0, c.RetryBase < 0, c.DefaultInterval < 0, c.RevokeTimeout < 0, c.MaxResponseBytes < 0:
		return errors.New("vault: timeouts, intervals and limits must not be negative")
	case (c.DefaultTLS.ClientCertFile == "") != (c.DefaultTLS.ClientKeyFile == ""):
		return errors.New("vault: a client certificate and its key go together: give both or none")
	case c.ForbidSkipVerify && c.DefaultTLS.SkipVerify:
		return errors.New("vault: skipping the verification of certificates is both forbidden and the default")
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
