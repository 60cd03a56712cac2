package plugin

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Where providers put their sockets.
const (
	DefaultDir    = "/var/run/secrets-store-csi-providers"
	DefaultDirEtc = "/etc/kubernetes/secrets-store-csi-providers"
)

const (
	defaultTimeout         = 30 * time.Second
	defaultIdle            = 10 * time.Minute
	defaultMaxMessageBytes = 4 << 20
	defaultMaxConcurrent   = 32

	// maxSocketPath is the kernel's limit for the path of a unix socket, less
	// the terminating NUL.
	maxSocketPath = 107
	// maxName is the longest name of a provider.
	maxName = 30
	suffix  = ".sock"
)

// Config is how provider plugins are found and called.
type Config struct {
	// Dirs are searched in order for <name>.sock; empty means DefaultDir and
	// DefaultDirEtc. A directory need not exist, now or ever.
	Dirs []string
	// Timeout bounds one call of a provider, whatever else bounds it; 0 means
	// 30 s. Kubelet gives a mount two minutes.
	Timeout time.Duration
	// MaxMessageBytes bounds one answer; 0 means 4 MiB. Whatever the number of
	// calls, eight answers at the most are taken in at once, and one more of each
	// provider that has none among them. Twice that memory is needed for them.
	MaxMessageBytes int
	// MaxConcurrent bounds the calls that one provider serves at once; those
	// above it wait, but for the first of each Kubernetes namespace. 0 means 32.
	MaxConcurrent int
	// IdleTimeout is how long an unused connection is kept; 0 means 10 min.
	IdleTimeout time.Duration
	// Audiences are those whose service account tokens a provider is sent, by
	// the provider's name. A provider that is not in it is sent those of
	// defaultAudiences or, where that does not know it either, all but those of
	// the built-in providers. The class's parameter audience comes on top.
	Audiences map[string][]string
	// BuiltIn names the providers that need no plugin, for the error about a
	// name that is unknown.
	BuiltIn []string
	// Budget is the memory that answers are charged to, twice, while they are
	// taken in and judged; nil refuses nothing.
	Budget *budget.Budget
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger is told when a provider stops to answer, and when it does again;
	// nil discards it.
	Logger *slog.Logger

	hasher *provider.Hasher
}

// defaultAudiences are what the known providers log in with.
var defaultAudiences = map[string][]string{
	"aws":       {"sts.amazonaws.com", "pods.eks.amazonaws.com"},
	"azure":     {"api://AzureADTokenExchange"},
	"gcp":       {"*.svc.id.goog"},
	"conjur":    {"conjur"},
	"infisical": {"infisical"},
}

// complete fills in the defaults and refuses what cannot work.
func (c *Config) complete() error {
	if len(c.Dirs) == 0 {
		c.Dirs = []string{DefaultDir, DefaultDirEtc}
	}
	c.Dirs = slices.Clone(c.Dirs)
	setDefault(&c.Timeout, defaultTimeout)
	setDefault(&c.IdleTimeout, defaultIdle)
	setDefault(&c.MaxMessageBytes, defaultMaxMessageBytes)
	setDefault(&c.MaxConcurrent, defaultMaxConcurrent)
	c.hasher = &provider.Hasher{}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Timeout < 0 || c.IdleTimeout < 0 || c.MaxMessageBytes < 0 || c.MaxConcurrent < 0 {
		return errors.New("plugin: timeouts and limits must not be negative")
	}
	for i, dir := range c.Dirs {
		if err := checkDir(dir); err != nil {
			return err
		}
		c.Dirs[i] = filepath.Clean(dir)
	}
	return nil
}

func checkDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("plugin: the directory %q of provider sockets must be an absolute path", dir)
	}
	if longest := maxSocketPath - maxName - len(suffix) - 1; len(filepath.Clean(dir)) > longest {
		return fmt.Errorf("plugin: the directory %q of provider sockets must be at most %d bytes long, because the kernel limits the paths of sockets", dir, longest)
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
