package node

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit"
	"github.com/mayfly-csi/mayfly/pkg/csi"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
)

// Config has the values of all flags.
type Config struct {
	Version string
	Logger  *slog.Logger

	// Driver is the name of the CSIDriver object, NodeID that of the node.
	Driver string
	NodeID string
	// Endpoint is the CSI socket.
	Endpoint string
	// RegistryDir is kubelet's plugins_registry; if empty, another process registers the driver.
	// KubeletEndpoint is the CSI socket's path as kubelet sees it, empty if it is the same.
	RegistryDir     string
	KubeletEndpoint string
	// StateDir is where the state's tmpfs is mounted; empty means beside the CSI socket.
	StateDir string

	// ClassDir is a directory of class manifests, which replaces the API server.
	ClassDir   string
	Kubeconfig string
	KubeQPS    float32
	KubeBurst  int
	// RotatedEvents writes an Event on the pod for every rotation.
	RotatedEvents bool
	// StartupTaint is the key of a taint that the driver removes from its node once it is ready;
	// empty for none.
	StartupTaint string

	limits.Limits
	RefreshWorkers int
	LastGoodAge    time.Duration
	RefreshTimeout time.Duration
	// SyncSecrets writes the Kubernetes Secrets that classes ask for.
	SyncSecrets bool
	// RolloutRestart restarts the workloads that classes name.
	RolloutRestart bool
	// StrictClasses refuses classes that have warnings.
	StrictClasses bool

	// MemoryBudget is how many bytes of memory the driver may use for tenants. NamespaceMemory and
	// VolumeMemory are the parts of it that one namespace and one volume may use. Auto derives them
	// from the container's memory limit, 0 means no limit.
	MemoryBudget    int64
	NamespaceMemory int64
	VolumeMemory    int64
	// StateSize is the size of the state's tmpfs in bytes, 0 for the default. NamespaceState is how
	// much of it the volumes of one namespace may use: 0 for no limit, Auto for a quarter.
	StateSize      int64
	NamespaceState int64
	// SetMemoryLimit limits the Go heap, as debug.SetMemoryLimit does; with nil the heap has no
	// limit.
	SetMemoryLimit func(bytes int64) int64

	// HealthAddr and MetricsAddr are the addresses of the HTTP servers; empty for none.
	HealthAddr  string
	MetricsAddr string
	// StatusAddr is the address that serves the status of the volumes; empty for none.
	StatusAddr string
	// AuditLog is the file of the audit trail, "-" for Stdout, empty for none.
	AuditLog   string
	AuditLevel audit.Level
	Stdout     io.Writer
	// Traces sends OpenTelemetry traces, configured by the OTEL_ variables.
	Traces bool
	// RefreshNow refreshes every volume at each value; nil for never.
	RefreshNow <-chan os.Signal
	// Grace is how long running calls may go on after the driver is told to stop.
	Grace time.Duration

	// Plugins are the directories with the sockets of provider plugins. PluginMessage is the
	// maximum size of one of their answers in bytes.
	Plugins       []string
	PluginMessage int64
	PluginTimeout time.Duration
	// PluginAudiences lists the service account tokens that each plugin receives, as
	// PROVIDER=AUDIENCE.
	PluginAudiences []string

	Vault    vault.Config
	OpenBao  vault.Config
	Akeyless akeyless.Config
}

// The directories in which the ecosystem's provider plugins create their sockets.
const (
	DefaultPluginDir    = plugin.DefaultDir
	DefaultPluginDirEtc = plugin.DefaultDirEtc
)

// driverName matches what Kubernetes accepts as the name of a CSIDriver object.
var driverName = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9.]{0,61}[a-zA-Z0-9])?$`)

func (c *Config) validate() error {
	if !driverName.MatchString(c.Driver) {
		return fmt.Errorf("--driver-name %q: at most 63 letters, digits, '-' and '.', beginning and ending with a letter or digit", c.Driver)
	}
	if c.NodeID == "" {
		return fmt.Errorf("--nodeid is empty: give the node's name, such as spec.nodeName through the downward API")
	}
	if c.KubeletEndpoint != "" && !filepath.IsAbs(c.KubeletEndpoint) {
		return fmt.Errorf("--kubelet-registration-path %q: must be the absolute path of the CSI socket on the host", c.KubeletEndpoint)
	}
	for flag, addr := range map[string]string{"--health-addr": c.HealthAddr, "--metrics-addr": c.MetricsAddr, "--status-address": c.StatusAddr} {
		if addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("%s %q: must be HOST:PORT or :PORT: %w", flag, addr, err)
		}
	}
	if c.StatusAddr != "" && (c.StatusAddr == c.HealthAddr || c.StatusAddr == c.MetricsAddr) {
		return fmt.Errorf("--status-address %q: is the address of the health or the metrics, and not everybody who may read those may read the status", c.StatusAddr)
	}
	socket, err := csi.ParseEndpoint(c.Endpoint)
	if err != nil {
		return fmt.Errorf("--endpoint: %w", err)
	}
	if c.StartupTaint != "" && c.ClassDir != "" {
		return fmt.Errorf("--remove-startup-taint needs the API server, and --class-dir goes without one")
	}
	if _, err := c.pluginAudiences(); err != nil {
		return err
	}
	if c.StateSize == 0 {
		c.StateSize = DefaultStateSize
	}
	if c.StateSize < minStateSize {
		return fmt.Errorf("--state-size-limit is %d bytes: it must be at least %d", c.StateSize, minStateSize)
	}
	if c.KubeletEndpoint == "" {
		c.KubeletEndpoint = socket
	}
	if c.StateDir == "" {
		c.StateDir = filepath.Join(filepath.Dir(socket), "state")
	}
	return c.validateClassFiles(socket)
}

// validateClassFiles refuses directories that hold files of other pods or of the driver itself.
func (c *Config) validateClassFiles(socket string) error {
	private := map[string]string{
		"kubelet's directory":                "/var/lib/kubelet",
		"kubelet's registration directory":   c.RegistryDir,
		"the directory of the CSI socket":    filepath.Dir(socket),
		"the state directory":                c.StateDir,
		"the client certificate's key":       c.Vault.DefaultTLS.ClientKeyFile,
		"the kernel's view of all processes": "/proc",
		"the kernel's view of all devices":   "/sys",
		"the devices":                        "/dev",
	}
	if root, _, ok := strings.Cut(c.KubeletEndpoint, "/plugins/"); ok {
		private["kubelet's root directory"] = root
	}
	for _, dirs := range [][]string{c.Vault.ClassFileDirs, c.OpenBao.ClassFileDirs, c.Akeyless.ClassFileDirs} {
		if err := endpoint.CheckDirs(dirs, private); err != nil {
			return fmt.Errorf("--class-file-dirs: %w", err)
		}
	}
	return nil
}

// pluginAudiences returns PluginAudiences by provider.
func (c *Config) pluginAudiences() (map[string][]string, error) {
	all := map[string][]string{}
	for _, pair := range c.PluginAudiences {
		name, audience, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--provider-audiences %q: must be PROVIDER=AUDIENCE, such as aws=sts.amazonaws.com, or PROVIDER= for none", pair)
		}
		all[name] = append(all[name], audience)
	}
	return all, nil
}
