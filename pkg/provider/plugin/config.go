package plugin

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Where providers create their sockets.
const (
	DefaultDir    = "/var/run/secrets-store-csi-providers"
	DefaultDirEtc = "/etc/kubernetes/secrets-store-csi-providers"
)

const (
	// maxSocketPath is the kernel's limit for the path of a unix socket, without the terminating
	// NUL.
	maxSocketPath = 107
	// maxName is the longest name of a provider.
	maxName = 30
	suffix  = ".sock"
)

// Config says how to find and call provider plugins.
type Config struct {
	// Dirs are searched in order for <name>.sock; empty means DefaultDir and
	// DefaultDirEtc. A directory need not exist, now or ever.
	Dirs []string
	// Timeout bounds one call of a provider, besides the caller's context; 0 means 30 s. Kubelet
	// gives a mount two minutes.
	Timeout time.Duration
	// MaxMessageBytes bounds one answer; 0 means 4 MiB. At most eight answers are read at once, and
	// one more for each provider that has none among them, whatever the number of calls. Reading
	// takes twice that memory.
	MaxMessageBytes int
	// MaxConcurrent bounds the concurrent calls of one provider; the others wait, except for the
	// first of each Kubernetes namespace. 0 means 32.
	MaxConcurrent int
	// IdleTimeout is how long an unused connection stays open; 0 means 10 min.
	IdleTimeout time.Duration
	// Audiences says, by the provider's name, for which audiences a provider receives service
	// account tokens. Without an entry it receives those of defaultAudiences or, if it has none
	// there either, all but those of the built-in providers. It always receives the token for the
	// class's parameter audience.
	Audiences map[string][]string
	// BuiltIn names the providers that need no plugin, for the error about an unknown name.
	BuiltIn []string
	// Budget is charged for answers, twice their size, while they are read and checked; nil refuses
	// nothing.
	Budget *budget.Budget
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger logs when a provider stops answering, and when it answers again; nil discards it.
	Logger *slog.Logger

	hasher *provider.Hasher
}

// defaultAudiences are the audiences that well-known providers log in with.
var defaultAudiences = map[string][]string{
	"aws":       {"sts.amazonaws.com", "pods.eks.amazonaws.com"},
	"azure":     {"api://AzureADTokenExchange"},
	"gcp":       {"*.svc.id.goog"},
	"conjur":    {"conjur"},
	"infisical": {"infisical"},
}

// complete sets the defaults and refuses an invalid configuration.
func (c *Config) complete() error {
	if len(c.Dirs) == 0 {
		c.Dirs = []string{DefaultDir, DefaultDirEtc}
	}
	c.Dirs = slices.Clone(c.Dirs)
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 10*time.Minute)
	c.MaxMessageBytes = cmp.Or(c.MaxMessageBytes, 4<<20)
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, 32)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.hasher = &provider.Hasher{}
	if c.Now == nil {
		c.Now = time.Now
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
