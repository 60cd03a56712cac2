package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit"
	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

const introduction = `mayfly-node gives pods their secrets as files in a private tmpfs.

It runs once per node. Kubelet calls it over a unix socket (CSI) for every pod
with a volume such as

    csi:
      driver: secrets-store.csi.k8s.io
      readOnly: true
      volumeAttributes: {secretProviderClass: my-secrets}

It reads the SecretProviderClass, logs in to the store with the pod's own
service account token, writes the files, and refreshes them in place.

Every flag can also be set by the environment variables shown in brackets; the
command line takes precedence. The driver never uses a Vault token in the
environment: it logs in only as the pod.
`

// defaultDriver is the Secrets Store CSI driver's name, so that existing pods need no change.
const defaultDriver = "secrets-store.csi.k8s.io"

const conclusion = `
Signals: SIGTERM and SIGINT stop the driver once running calls have finished;
mounted volumes stay as they are, and the next process serves them.
SIGHUP refreshes every volume now.

mayfly-node mounted counts the mounted volumes of the cluster and exits; see
mayfly-node mounted --help. mayfly-node audit verify checks whether lines of an
audit trail were changed; see mayfly-node audit --help.

Examples:
  In a cluster (the chart sets this up):
    mayfly-node --nodeid=$NODE_NAME --endpoint=unix:///csi/csi.sock \
      --plugins-registry-dir=/registration \
      --kubelet-registration-path=/var/lib/kubelet/plugins/secrets-store.csi.k8s.io/csi.sock
  On a machine without an API server, with the classes in a directory:
    mayfly-node --class-dir=./classes --endpoint=unix:///tmp/mayfly/csi.sock --vault-addr=https://vault.example:8200
`

// parse reads the command line, then the environment for flags that are not on it.
func parse(args []string, getenv func(string) string, help io.Writer) (*options, error) {
	o := &options{logFormat: "text"}
	f := o.declare()
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.help(help)
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: the driver takes flags only", f.Arg(0))
	}
	if err := f.fromEnv(getenv); err != nil {
		return nil, err
	}
	return o, o.finish()
}

func (o *options) declare() *flagSet {
	f := &flagSet{FlagSet: flag.NewFlagSet("mayfly-node", flag.ContinueOnError)}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	o.declareKubelet(f)
	o.declareClasses(f)
	o.declareVolumes(f)
	o.declareCeilings(f)
	o.declareVault(f)
	o.declareAkeyless(f)
	o.declarePlugins(f)
	o.declareAudit(f)
	o.declareProcess(f)
	return f
}

func (o *options) declareKubelet(f *flagSet) {
	c := &o.config
	hostname, _ := os.Hostname()
	f.group("Kubelet")
	f.str(&c.Driver, "driver-name", defaultDriver, "`name` of the CSIDriver object. Another name lets Mayfly run beside the\nSecrets Store CSI driver on one cluster.")
	f.str(&c.NodeID, "nodeid", hostname, "`name` of this node.", "NODE_NAME", "KUBE_NODE_NAME")
	f.str(&c.Endpoint, "endpoint", "unix:///csi/csi.sock", "`socket` on which CSI is served.", "CSI_ENDPOINT")
	f.str(&c.RegistryDir, "plugins-registry-dir", "", "`directory` that kubelet watches for plugins (<kubelet root>/plugins_registry).\nWith it the driver registers itself and needs no node-driver-registrar. If it is\nempty, a node-driver-registrar must register the driver.")
	f.str(&c.KubeletEndpoint, "kubelet-registration-path", "", "`path` of the CSI socket for kubelet, if it differs from the path in the container.")
	f.str(&c.StateDir, "state-dir", "", "`directory` on which the driver mounts a tmpfs for its state, which only root can read.\nThe driver needs it after a restart. Default: state, beside the CSI socket.")
}

func (o *options) declareClasses(f *flagSet) {
	c := &o.config
	c.KubeQPS = 50
	f.group("SecretProviderClass objects")
	f.str(&c.ClassDir, "class-dir", "", "`directory` of YAML or JSON manifests. The driver reads classes from it, and not from\nthe API server. It notices edits.")
	f.str(&c.Kubeconfig, "kubeconfig", "", "kubeconfig `file`, if the driver runs outside the cluster.", "KUBECONFIG")
	f.value(float(&c.KubeQPS), "kube-api-qps", "largest `number` of requests per second to the API server. The driver makes requests\nfor classes, not for pods.")
	f.integer(&c.KubeBurst, "kube-api-burst", 100, "largest `number` of requests to the API server in a burst.")
	f.value(list(&c.Vault.ClassFileDirs), "class-file-dirs", "`directories`, separated by commas. Classes may name files below them, such as\nvaultCACertPath. None of them may be inside kubelet's directory or the driver's\nstate, or contain them. Default: "+endpoint.DefaultClassFileDir+".")
	f.boolean(&c.Vault.AllowLocalAddresses, "allow-local-addresses", "let classes name servers at loopback and link-local addresses, and at the cloud's\nmetadata service. Servers that other flags name by host may have such addresses in any\ncase.")
	f.boolean(&c.RotatedEvents, "rotation-events", "write an Event on the pod for every rotation too, not only for failures.")
	f.str(&c.StartupTaint, "remove-startup-taint", "", "`key` of a taint that the driver removes from this node once it is ready, such as\nnode.mayfly.dev/not-ready. The taint keeps pods off the node until then.")
	f.boolean(&c.SyncSecrets, "sync-secrets", "write the Kubernetes Secrets that classes ask for under secretObjects. The driver then\nneeds the rights to create and patch them (docs/secrets.md).")
	f.boolean(&c.RolloutRestart, "rollout-restart", "restart the workloads that classes name under rolloutRestart when a secret has rotated.\nThe driver then needs the rights to get and patch them (docs/classes.md).")
}

func (o *options) declareVolumes(f *flagSet) {
	c := &o.config
	c.SizeLimit, c.InodeLimit = 16<<20, 1024
	f.group("Volumes")
	f.duration(&c.Interval, "rotation-poll-interval", 2*time.Minute, "`time` between two refreshes of a volume, if the class has no refreshInterval and the\nsecret has no lifetime. At least 1s.")
	f.integer(&c.RefreshWorkers, "refresh-workers", 8, "largest `number` of concurrent refreshes for each store, besides the first of each\nnamespace.")
	f.duration(&c.RefreshTimeout, "refresh-timeout", time.Minute, "`time` after which the driver cancels a refresh and tries again later.")
	f.duration(&c.LastGoodAge, "last-good-max-age", time.Hour, "largest age (`time`) of secrets in memory that new pods may start with while the store\nis down, for classes with onUnavailable: lastGood.")
	f.value(quantity(&c.SizeLimit), "volume-size-limit", "largest size of the files in one volume, in `bytes`, if the class has no\nvolumeSizeLimit. The tmpfs is twice as large, because the driver writes a new payload\nbeside the old one.")
	f.value(quantity(&c.InodeLimit), "volume-inode-limit", "largest `number` of files and directories in one volume, if the class has no\nvolumeInodeLimit.")
}

func (o *options) declareCeilings(f *flagSet) {
	c := &o.config
	c.StateSize = node.DefaultStateSize
	f.group("Memory, and ceilings for classes (docs/operating.md, Memory)")
	f.value(autoLimit(&c.MemoryBudget), "memory-budget", "`bytes` of memory for the secrets of all tenants: files in volumes, answers of stores,\nrecords. auto is the container's memory limit minus the needs of the process, or no\nlimit if the container has none; 0 for no limit.")
	f.value(autoLimit(&c.NamespaceMemory), "namespace-memory-limit", "`bytes` of the budget for the volumes of one namespace; auto for half, 0 for no limit.")
	f.value(autoLimit(&c.VolumeMemory), "volume-memory-limit", "`bytes` of the budget for one volume; auto for a third, 0 for no limit. A volume takes\ntwice its contents, because the driver writes a new payload beside the old one.")
	f.value(quantity(&c.StateSize), "state-size-limit", "`bytes` of the tmpfs on --state-dir, at least 1Mi.")
	f.value(autoLimit(&c.NamespaceState), "namespace-state-limit", "`bytes` of the state for the volumes of one namespace; auto for a quarter, 0 for no\nlimit.")
	f.value(limit(&c.MaxSizeLimit), "max-volume-size-limit", "highest volumeSizeLimit in `bytes` that a class may set; 0 for no ceiling. The driver\nrefuses a new volume of a class that sets more. A mounted volume stays, with this\nlimit.")
	f.value(limit(&c.MaxInodeLimit), "max-volume-inode-limit", "highest `number` that a class may set as volumeInodeLimit, likewise.")
	f.boolean(&c.StrictClasses, "strict-classes", "refuse classes with a warning, such as an unknown parameter. parameters.strict does this\nfor one class. Running pods keep the class that they have.")
	f.duration(&c.MinInterval, "min-refresh-interval", time.Second, "shortest refreshInterval (`time`) of a class. It replaces a shorter one, with a warning.")
}

func (o *options) declareVault(f *flagSet) {
	v := &o.config.Vault
	f.group("Vault and OpenBao (defaults; a class can set its own)")
	f.str(&v.DefaultAddress, "vault-addr", "", "`URL` of the server for classes without vaultAddress.", "BAO_ADDR", "VAULT_ADDR")
	f.str(&v.DefaultFallback, "vault-fallback-addr", "", "`URL` of a second address of the store at --vault-addr, which is asked while that is\naway, for classes without vaultFallbackAddress. A class with a vaultAddress of its own\nhas no other second address than its own.")
	f.str(&v.DefaultNamespace, "vault-namespace", "", "Vault `namespace` for classes without vaultNamespace.", "BAO_NAMESPACE", "VAULT_NAMESPACE")
	f.str(&v.DefaultAuthMount, "vault-mount", "kubernetes", "`path` of the auth method for classes without vaultAuthMountPath.")
	f.str(&v.DefaultTLS.CACertFile, "vault-tls-ca-cert", "", "PEM `file` of the certificate authority.", "BAO_CACERT", "VAULT_CACERT")
	f.str(&v.DefaultTLS.CACertDir, "vault-tls-ca-directory", "", "`directory` of PEM files of certificate authorities.", "BAO_CAPATH", "VAULT_CAPATH")
	f.str(&v.DefaultTLS.ServerName, "vault-tls-server-name", "", "`name` to expect in the server's certificate.", "BAO_TLS_SERVER_NAME", "VAULT_TLS_SERVER_NAME")
	f.str(&v.DefaultTLS.ClientCertFile, "vault-tls-client-cert", "", "PEM `file` of the client certificate, together with its key. The driver presents it only\nto --vault-addr and --vault-fallback-addr, for --vault-mount and\n--vault-allowed-auth-mounts.", "BAO_CLIENT_CERT", "VAULT_CLIENT_CERT")
	f.str(&v.DefaultTLS.ClientKeyFile, "vault-tls-client-key", "", "PEM `file` of the client certificate's key.", "BAO_CLIENT_KEY", "VAULT_CLIENT_KEY")
	f.boolean(&v.DefaultTLS.SkipVerify, "vault-tls-skip-verify", "do not verify the server's certificate. An attacker in the network can then read the\npods' tokens.", "BAO_SKIP_VERIFY", "VAULT_SKIP_VERIFY")
	f.value(list(&v.AllowedAddresses), "vault-allowed-addresses", "`URLs`, separated by commas, that classes may name as vaultAddress and\nvaultFallbackAddress besides the servers of the flags above; a host may begin with\n\"*.\". Empty allows any: the author of a class then chooses where the driver sends the\npods' tokens.")
	f.value(list(&v.AllowedAuthMounts), "vault-allowed-auth-mounts", "`paths` of auth methods, separated by commas, that classes may name as\nvaultAuthMountPath besides --vault-mount. Empty allows any.")
	f.boolean(&v.AllowCertAuth, "vault-allow-cert-auth", "let classes log in by a client certificate, through the cert method. Such a login has\nthe identity of everyone who may name the certificate's files, and not that of the pod.")
	f.str(&v.DefaultAudience, "vault-audience", "", "`audience` of the service account token for classes without one. Default: the\nprovider's name. The CSIDriver object must list it under tokenRequests.")
	f.boolean(&v.ForbidSkipVerify, "vault-forbid-skip-verify", "refuse classes that set vaultSkipTLSVerify.")
	f.duration(&v.RequestTimeout, "vault-request-timeout", 10*time.Second, "`time` that one request may take.")
	f.boolean(&v.DisableRevocation, "vault-disable-revocation", "do not revoke the Vault tokens and leases of deleted pods. They stay valid until they\nexpire.")
	f.integer(&v.MaxRetries, "vault-max-retries", 2, "`number` of retries of a request after a temporary failure.")
}

func (o *options) declareAkeyless(f *flagSet) {
	a := &o.config.Akeyless
	f.group("Akeyless (defaults; a class can set its own)")
	f.str(&a.DefaultGateway, "akeyless-gateway-url", "", "`URL` of the gateway for classes without akeylessGatewayURL. Default: Akeyless' own\nservice.")
	f.str(&a.DefaultFallback, "akeyless-fallback-gateway-url", "", "`URL` of a second gateway, which is asked while the first is away, for classes without\nakeylessFallbackGatewayURL. A class with an akeylessGatewayURL of its own has no other\nsecond gateway than its own.")
	f.str(&a.DefaultAccessID, "akeyless-access-id", "", "`id` of the auth method for classes without akeylessAccessID.")
	f.str(&a.DefaultK8sAuthConfigName, "akeyless-k8s-auth-config", "", "`name` of the gateway's Kubernetes auth config for classes without\nakeylessK8sAuthConfigName.")
	f.str(&a.DefaultAudience, "akeyless-audience", "akeyless", "`audience` of the service account token for classes without one. The CSIDriver\nobject must list it under tokenRequests.")
	f.str(&a.DefaultTLS.CACertFile, "akeyless-tls-ca-cert", "", "PEM `file` of the gateway's certificate authority.")
	f.value(list(&a.AllowedAddresses), "akeyless-allowed-addresses", "`URLs`, separated by commas, that classes may name as akeylessGatewayURL and\nakeylessFallbackGatewayURL besides the gateways of the flags above; a host may begin\nwith \"*.\". Empty allows any.")
	f.boolean(&a.ForbidSkipVerify, "akeyless-forbid-skip-verify", "refuse classes that do not verify the gateway's certificate.")
	f.boolean(&a.ShareByServiceAccount, "akeyless-share-by-service-account", "let the pods of one service account share logins and reads, if the class does not set\nsessionSharing. Use it only if no Akeyless role is bound to a pod's name or UID.")
	f.boolean(&a.DisableRevocation, "akeyless-disable-revocation", "do not revoke the dynamic credentials of deleted pods. They stay valid until they expire.")
	f.duration(&a.RequestTimeout, "akeyless-request-timeout", 10*time.Second, "`time` that one request may take.")
}

func (o *options) declarePlugins(f *flagSet) {
	c := &o.config
	o.pluginDir, o.pluginDirs, c.PluginMessage = node.DefaultPluginDir, []string{node.DefaultPluginDirEtc}, 4<<20
	f.group("Provider plugins")
	f.str(&o.pluginDir, "provider-volume", o.pluginDir, "`directory` with the sockets of provider plugins, for classes whose provider is not built\nin. If this and the next flag are empty, the driver uses no plugins.")
	f.value(list(&o.pluginDirs), "additional-provider-volume-paths", "further such `directories`, separated by commas.")
	f.value(list(&c.PluginAudiences), "provider-audiences", "service account tokens that the driver sends to plugins, as `PROVIDER=AUDIENCE`,\nseparated by commas; an audience may begin with \"*\", and none means no token. Other\nproviders get the tokens that they are known to use (docs/plugins.md).")
	f.value(quantity(&c.PluginMessage), "max-call-recv-msg-size", "largest size of one answer of a plugin, in `bytes`.")
	f.duration(&c.PluginTimeout, "provider-timeout", 30*time.Second, "`time` that one call to a plugin may take.")
}

func (o *options) declareAudit(f *flagSet) {
	c := &o.config
	o.auditLevel = string(audit.Changes)
	f.group("Audit")
	f.str(&c.AuditLog, "audit-log", "", "`file` for the audit trail, one JSON line for each access (docs/audit.md); - for standard\noutput, empty for no audit trail. Only root can read the file. You may rotate it while\nthe driver runs.")
	f.value(oneOf(&o.auditLevel, string(audit.Changes), string(audit.All)), "audit-level", "`changes`, or all, which adds every refresh without a change, every repeated failure, and\nevery login and renewal.")
}

func (o *options) declareProcess(f *flagSet) {
	c := &o.config
	f.group("Process")
	f.str(&c.HealthAddr, "health-addr", ":9808", "`address` of /healthz and /readyz; empty for none.")
	f.str(&c.MetricsAddr, "metrics-addr", ":8095", "`address` of /metrics, in Prometheus' format; empty for none.")
	f.boolean(&c.Traces, "enable-otel-tracing", "send traces to a collector by OTLP over gRPC. OpenTelemetry's OTEL_ variables in the\nenvironment configure it (docs/monitoring.md).")
	f.str(&c.StatusAddr, "status-address", net.JoinHostPort("127.0.0.1", strconv.Itoa(statusz.Port)), "`address` of /status and /statusz, which show the volumes, stores and failures of this\nnode, and of /refresh; off for none. By default only a port-forward to the\ndriver's pod reaches it.")
	f.duration(&c.Grace, "shutdown-grace", 25*time.Second, "`time` for running calls to finish after a stop signal.")
	f.value(oneOf(&o.logFormat, "text", "json"), "log-format", "`text` or json.")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "lowest `level` that is logged: debug, info, warn or error.")
	f.Lookup("log-level").DefValue = "info" // as it is typed
	f.add("log-level")
	f.BoolVar(&o.version, "version", false, "print the version and exit.")
	f.addWithoutEnv("version")
}

// finish sets the options that depend on other flags.
func (o *options) finish() error {
	c := &o.config
	c.Version, c.AuditLevel = version, audit.Level(o.auditLevel)
	if c.StatusAddr == "off" {
		c.StatusAddr = ""
	}
	c.Vault.Name, c.Vault.UserAgent, c.Vault.DefaultInterval = "vault", "mayfly-node/"+version, c.Interval
	c.Akeyless.ClassFileDirs, c.Akeyless.AllowLocalAddresses = c.Vault.ClassFileDirs, c.Vault.AllowLocalAddresses
	c.Akeyless.UserAgent, c.Akeyless.DefaultInterval, c.Akeyless.MaxRetries = c.Vault.UserAgent, c.Interval, c.Vault.MaxRetries
	c.OpenBao = c.Vault
	c.OpenBao.Name = "openbao"
	for _, dir := range append([]string{o.pluginDir}, o.pluginDirs...) {
		if dir != "" {
			c.Plugins = append(c.Plugins, dir)
		}
	}
	return nil
}
