package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

const (
	defaultOutageLimit = 24 * time.Hour
	// defaultCallTimeout is a little less than the API server's 3 s.
	defaultCallTimeout = 2500 * time.Millisecond
	defaultPoll        = 30 * time.Second
	defaultProof       = 5 * time.Minute

	// maxSocket is the size of sun_path less the terminating NUL.
	maxSocket = 107
	maxName   = 256
)

// refused is the error for a setting, with all its names.
func refused(flag string, format string, args ...any) error {
	return fmt.Errorf("--%s (%s, or %s in the file): %w", flag, EnvName(flag), YAMLName(flag), fmt.Errorf(format, args...))
}

// check makes a Config. It refuses invalid settings, and reads no file.
func (r *raw) check() (c Config, err error) {
	c.Timing = r.timing
	for _, step := range []func(*Config) error{r.checkServe, r.checkVault, r.checkTransit, r.checkTiming, r.checkLogin} {
		if err := step(&c); err != nil {
			return Config{}, err
		}
	}
	return c, nil
}

func (r *raw) checkServe(c *Config) error {
	s := &c.Serve
	s.SocketGroup, s.AuditLog, s.LocalKey = r.socketGroup, r.auditLog, r.localKey
	s.LogFormat, s.HealthAddr, s.MetricsAddr = r.logFormat, r.healthAddr, r.metricsAddr
	var err error
	if s.Socket, err = parseSocket(r.listen); err != nil {
		return refused("listen", "%w", err)
	}
	for _, text := range r.allowedUIDs {
		uid, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		if err != nil {
			return refused("allowed-uids", "must be numbers of users, such as 0,1000")
		}
		s.AllowedUIDs = append(s.AllowedUIDs, uint32(uid))
	}
	for flag, addr := range map[string]string{"health-addr": s.HealthAddr, "metrics-addr": s.MetricsAddr} {
		if _, port, err := net.SplitHostPort(addr); addr != "" && (err != nil || port == "") {
			return refused(flag, "must be host:port, such as 127.0.0.1:8796")
		}
	}
	if s.LogFormat != "json" && s.LogFormat != "text" {
		return refused("log-format", "must be json or text")
	}
	if s.LogLevel, err = parseLevel(r.level); err != nil {
		return refused("log-level", "%w", err)
	}
	return nil
}

func parseLevel(text string) (slog.Level, error) {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(text, l.String()) {
			return l, nil
		}
	}
	return 0, errors.New("must be debug, info, warn or error")
}

// parseSocket takes the path from the EncryptionConfiguration's form. It refuses /tmp, where other
// users could create the socket first, and abstract sockets, which have no owner.
func parseSocket(text string) (string, error) {
	path, ok := strings.CutPrefix(text, "unix://")
	switch {
	case !ok:
		return "", errors.New("must be a unix socket, such as unix:///run/mayfly-kms/kms.sock")
	case strings.HasPrefix(path, "/@"), strings.HasPrefix(path, "@"):
		return "", errors.New("must not be an abstract socket: those have no file permissions")
	case !filepath.IsAbs(path) || endpoint.HasControl(path):
		return "", errors.New("must have an absolute path, such as unix:///run/mayfly-kms/kms.sock")
	case len(path) > maxSocket:
		return "", fmt.Errorf("the path is %d bytes long, the kernel's limit for a socket is %d", len(path), maxSocket)
	}
	path = filepath.Clean(path)
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm", "/run", "/"} {
		if filepath.Dir(path) == dir {
			return "", fmt.Errorf("must be in a directory of its own, such as unix:///run/mayfly-kms/kms.sock, and not in %s", dir)
		}
	}
	return path, nil
}

func (r *raw) checkVault(c *Config) error {
	v := &c.Vault
	v.Namespace = strings.Trim(r.namespace, "/")
	v.TLS = endpoint.TLS{CACertFile: r.caCert, CACertDir: r.caPath, ServerName: r.serverName, ClientCertFile: r.clientCert, ClientKeyFile: r.clientKey}
	for _, text := range r.addresses {
		text = strings.TrimSpace(text)
		a, err := endpoint.ParseAddressOrSocket(text)
		switch {
		case err != nil:
			return refused("vault-addr", "%w", err)
		case a.Plain() && !loopback(a):
			return refused("vault-addr", "%s is not encrypted, and what goes there opens all Secrets: use https://; http:// is for loopback addresses", a)
		case slices.Contains(v.Addresses, a):
			return refused("vault-addr", "%s is there twice", a)
		}
		v.Addresses = append(v.Addresses, a)
	}
	if len(v.Addresses) == 0 {
		return refused("vault-addr", "must be set, as in https://vault.example.com:8200")
	}
	if v.Namespace != "" && !isPath(v.Namespace) {
		return refused("vault-namespace", "must be a path such as team/cluster")
	}
	if (r.clientCert == "") != (r.clientKey == "") {
		return refused("vault-client-cert", "and --vault-client-key must be set together")
	}
	for flag, path := range map[string]string{"vault-ca-cert": r.caCert, "vault-ca-path": r.caPath, "vault-client-cert": r.clientCert, "vault-client-key": r.clientKey} {
		if path != "" && !filepath.IsAbs(path) {
			return refused(flag, "must be an absolute path")
		}
	}
	return nil
}

func loopback(a endpoint.Address) bool {
	host := a.URL("").Hostname()
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// isPath reports whether a text is a path below Vault's /v1/ without characters that must be
// escaped in a URL, which names of mounts and keys do not use.
func isPath(s string) bool {
	if len(s) > maxName {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_./ ", c)
	})
}

func (r *raw) checkTransit(c *Config) error {
	t := Transit{Mount: strings.Trim(r.transitMount, "/"), Key: r.transitKey, ClusterID: r.clusterID, Epoch: r.epoch}
	c.Transit = t
	switch {
	case !isPath(t.Mount):
		return refused("transit-mount", "must be the path of a Transit engine, such as transit")
	case t.Key == "":
		return refused("transit-key", "must be set to the name of the key")
	case !isPath(t.Key) || strings.Contains(t.Key, "/"):
		return refused("transit-key", "must be the name of a key, without slashes")
	case t.ClusterID == "":
		return refused("cluster-id", "must be set, to the same on all nodes of the cluster, such as the UID of the namespace kube-system")
	case !isWord(t.ClusterID):
		return refused("cluster-id", "must be at most %d letters, digits and signs of ASCII, without spaces", maxName)
	case t.Epoch != "" && !isWord(t.Epoch):
		return refused("key-epoch", "must be at most %d letters, digits and signs of ASCII, without spaces", maxName)
	}
	return nil
}

func isWord(s string) bool {
	return len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

func (r *raw) checkTiming(c *Config) error {
	t := c.Timing
	for _, bound := range []struct {
		flag               string
		value, least, most time.Duration
	}{
		{"call-timeout", t.CallTimeout, 100 * time.Millisecond, 30 * time.Second},
		{"poll-interval", t.Poll, time.Second, 10 * time.Minute},
		{"proof-interval", t.Proof, time.Second, 24 * time.Hour},
		{"outage-limit", t.OutageLimit, time.Minute, 30 * 24 * time.Hour},
	} {
		if bound.value < bound.least || bound.value > bound.most {
			return refused(bound.flag, "must be from %s to %s", bound.least, bound.most)
		}
	}
	return nil
}
