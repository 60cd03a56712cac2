package akeyless

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Name is what classes give as spec.provider.
const Name = "akeyless"

// PublicAddress is Akeyless' own service, which is used where neither the
// class nor the operator names a gateway.
const PublicAddress = "https://api.akeyless.io"

const (
	defaultRequestTimeout = 10 * time.Second
	defaultRetryBase      = 250 * time.Millisecond
	defaultInterval       = 2 * time.Minute
	defaultReleaseTimeout = 5 * time.Second
	defaultResponseBytes  = 16 << 20
	versionKeyBytes       = 32
)

// Config is what the operator decides; the zero value works. What a class says
// comes before the Default fields.
type Config struct {
	// DefaultGateway is the base of the API for classes without
	// akeylessGatewayURL; empty means PublicAddress.
	DefaultGateway string
	// DefaultAccessID and DefaultK8sAuthConfigName are for classes without.
	DefaultAccessID          string
	DefaultK8sAuthConfigName string
	// DefaultAudience is the audience of the service account token for the
	// access types k8s and jwt; empty means akeyless.
	DefaultAudience string
	// DefaultTLS is how gateways are verified, for classes that do not say.
	DefaultTLS endpoint.TLS

	// AllowedAddresses are the gateways that classes may name besides
	// DefaultGateway; empty allows any. A pattern is scheme://host[:port],
	// compared exactly, with two wildcards: a host that begins with "*."
	// stands for exactly one label more, and the port "*" for any port.
	AllowedAddresses []string
	// ForbidSkipVerify refuses classes that switch verification off.
	ForbidSkipVerify bool

	// ShareByServiceAccount lets the pods of one service account share logins
	// and reads where the class does not say. Akeyless' roles can go by a
	// pod's name and UID too, and nothing in a login's answer tells whether
	// they do: set this only where no role does.
	ShareByServiceAccount bool

	// RequestTimeout bounds each request; 0 means 10 s.
	RequestTimeout time.Duration
	// MaxRetries is how often a request is made again; 0 or less means never.
	MaxRetries int
	// RetryBase is the first pause before a retry, which doubles; 0 means 250 ms.
	RetryBase time.Duration
	// DefaultInterval is how often secrets are read again where the class has
	// no interval; 0 means 2 minutes.
	DefaultInterval time.Duration
	// MaxResponseBytes bounds one answer; 0 means 16 MiB.
	MaxResponseBytes int64
	// ReleaseTimeout bounds the end of one volume's credentials; 0 means 5 s.
	ReleaseTimeout time.Duration
	// KeepCredentials leaves the dynamic credentials of gone volumes to their
	// time to live.
	KeepCredentials bool

	// Clouds are where cloud identities come from; the zero value means the
	// clouds' public addresses.
	Clouds Clouds

	// VersionKey keys the versions of objects. With a random key, which empty
	// means, they change at every start.
	VersionKey secret.Bytes
	UserAgent  string
	// Logger takes debug lines and what no caller is told; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Jitter is a source of numbers from 0 to 1; nil is a random one.
	Jitter func() float64
}

// Clouds are the addresses of the clouds' token services.
type Clouds struct {
	AWS         string // of STS
	Azure       string // of Entra ID
	Google      string // of the Security Token Service
	GoogleCreds string // of the IAM Service Account Credentials API
}

// complete fills in the defaults and refuses what cannot work.
func (c *Config) complete() error {
	setDefault(&c.DefaultAudience, Name)
	setDefault(&c.RequestTimeout, defaultRequestTimeout)
	setDefault(&c.RetryBase, defaultRetryBase)
	setDefault(&c.DefaultInterval, defaultInterval)
	setDefault(&c.ReleaseTimeout, defaultReleaseTimeout)
	setDefault(&c.MaxResponseBytes, defaultResponseBytes)
	setDefault(&c.UserAgent, "mayfly")
	setDefault(&c.Clouds.AWS, "https://sts.amazonaws.com")
	setDefault(&c.Clouds.Azure, "https://login.microsoftonline.com")
	setDefault(&c.Clouds.Google, "https://sts.googleapis.com")
	setDefault(&c.Clouds.GoogleCreds, "https://iamcredentials.googleapis.com")
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
	case c.RequestTimeout < 0, c.RetryBase < 0, c.DefaultInterval < 0, c.ReleaseTimeout < 0, c.MaxResponseBytes < 0:
		return errors.New("akeyless: timeouts, intervals and limits must not be negative")
	case (c.DefaultTLS.ClientCertFile == "") != (c.DefaultTLS.ClientKeyFile == ""):
		return errors.New("akeyless: a client certificate and its key go together: give both or none")
	case c.ForbidSkipVerify && c.DefaultTLS.SkipVerify:
		return errors.New("akeyless: skipping the verification of certificates is both forbidden and the default")
	}
	return nil
}

// gateway is the one of classes without, and whether the operator chose it.
func (c *Config) gateway() (a endpoint.Address, chosen bool, err error) {
	if c.DefaultGateway == "" {
		a, err = endpoint.ParseAddress(PublicAddress)
		return a, false, err
	}
	a, err = endpoint.ParseAddress(c.DefaultGateway)
	if err != nil {
		return a, true, fmt.Errorf("akeyless: default gateway: %w", err)
	}
	return a, true, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
