package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mayfly-csi/mayfly/pkg/kms/apiserver"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/encryptionconfig"
	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
)

// exitCodes is part of the help of every tool.
const exitCodes = `The exit code is 0 where all is in order, 1 for findings, and 2 for what could
not run.`

// errFindings ends a tool that has found something; the report has the details.
var errFindings = failed{errors.New("")}

// output are the flags of every tool.
type output struct {
	format, failOn string
}

func (o *output) bind(f *pflag.FlagSet) {
	f.StringVarP(&o.format, "output", "o", "text", "what to print: text or json")
	f.StringVar(&o.failOn, "fail-on", "error", "the lowest level that makes the exit code 1: error or warning. What could not be looked at is an error")
}

func (o *output) check() error {
	if o.format != "text" && o.format != "json" {
		return fmt.Errorf("--output: must be text or json, not %q", o.format)
	}
	if o.failOn != "error" && o.failOn != "warning" {
		return fmt.Errorf("--fail-on: must be error or warning, not %q", o.failOn)
	}
	return nil
}

// finish prints a report, and returns an error if it fails.
func (o *output) finish(r *report.Report, s Streams) error {
	write := r.Text
	if o.format == "json" {
		write = r.JSON
	}
	if err := write(s.Out); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if !r.Clean(o.failOn == "warning") {
		return errFindings
	}
	return nil
}

// settings are those of serve, for a tool. The tool's help shows only --config.
func settings(cmd *cobra.Command) *config.Options {
	flags := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	options := config.Register(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != config.FlagConfig {
			f.Hidden = true
		}
	})
	cmd.Flags().AddFlagSet(flags)
	return options
}

// quiet is the logger of a tool, which discards everything: the report has the results.
func quiet(s Streams) *slog.Logger {
	return slog.New(slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: slog.LevelError}))
}

// etcd are the flags of etcdctl, and its environment.
type etcd struct {
	endpoints         []string
	caCert, cert, key string
	prefix            string
}

func (e *etcd) bind(f *pflag.FlagSet) {
	f.StringSliceVar(&e.endpoints, "etcd-endpoints", nil, "`URLs` of etcd, separated by commas; unix:///var/lib/rancher/k3s/server/kine.sock for a k3s without etcd [ETCDCTL_ENDPOINTS]")
	f.StringVar(&e.caCert, "etcd-cacert", "", "PEM `file` of the authority of etcd's certificates [ETCDCTL_CACERT]")
	f.StringVar(&e.cert, "etcd-cert", "", "PEM `file` of a client certificate for etcd [ETCDCTL_CERT]")
	f.StringVar(&e.key, "etcd-key", "", "PEM `file` of its key [ETCDCTL_KEY]")
	f.StringVar(&e.prefix, "etcd-prefix", "/registry", "the API server's --etcd-prefix")
}

// load sets options without a flag from the environment.
func (e *etcd) load(getenv func(string) string) {
	if list := getenv("ETCDCTL_ENDPOINTS"); list != "" && len(e.endpoints) == 0 {
		e.endpoints = strings.Split(list, ",")
	}
	for name, value := range map[string]*string{"ETCDCTL_CACERT": &e.caCert, "ETCDCTL_CERT": &e.cert, "ETCDCTL_KEY": &e.key} {
		if *value == "" {
			*value = getenv(name)
		}
	}
}

func (e *etcd) open(ctx context.Context) (*scan.Etcd, error) {
	for _, endpoint := range e.endpoints {
		if u, err := url.Parse(endpoint); err != nil || u.Scheme == "" {
			return nil, fmt.Errorf("--etcd-endpoints: %q is no URL; write https://127.0.0.1:2379", endpoint)
		}
	}
	return scan.Open(ctx, scan.EtcdConfig{Endpoints: e.endpoints, CACert: e.caCert, Cert: e.cert, Key: e.key})
}

// snapshots opens the files of --snapshot.
func snapshots(ctx context.Context, files []string, r *report.Report) ([]scan.Source, error) {
	var all []scan.Source
	for _, file := range files {
		s, err := scan.OpenSnapshot(ctx, file)
		if err != nil {
			return nil, err
		}
		if s.Unverified {
			r.Add(report.Warning, s.String(), "scan what etcdctl snapshot save writes", "it has no checksum, as a copy of a database has none; what etcd had not written there yet is missing in it")
		}
		all = append(all, s)
	}
	return all, nil
}

// cluster are the flags of the tools that use API servers.
type cluster struct {
	kubeconfig, context string
	servers             []string
}

func (c *cluster) bind(f *pflag.FlagSet) {
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "`file` for the cluster (default $KUBECONFIG, else ~/.kube/config)")
	f.StringVar(&c.context, "context", "", "`name` of its context")
	f.StringSliceVar(&c.servers, "api-servers", nil, "`URLs` of all API servers, separated by commas; by default those behind the Service kubernetes")
}

func (c *cluster) connect(ctx context.Context, s Streams) (*apiserver.Cluster, error) {
	return apiserver.Connect(ctx, apiserver.Config{Kubeconfig: c.kubeconfig, List: s.Getenv("KUBECONFIG"), Context: c.context, Servers: c.servers, UserAgent: "mayfly-kms/" + s.Version})
}

// selection are the flags for which resources should be encrypted, and by which provider.
type selection struct {
	file, provider string
	resources      []string
	plainText      bool
}

func (x *selection) bind(f *pflag.FlagSet) {
	f.StringVar(&x.file, "encryption-config", "", "`file` of the API server's EncryptionConfiguration; the provider's name and resources come from it")
	f.StringVar(&x.provider, "provider-name", "", "`name` of the KMS provider in the EncryptionConfiguration (default that with the plugin's socket, else mayfly)")
	f.StringSliceVar(&x.resources, "resources", nil, "`resources` as in the EncryptionConfiguration, separated by commas (default those of the provider there, else secrets)")
}

// bindPlainText adds the flag for removing encryption.
func (x *selection) bindPlainText(f *pflag.FlagSet) {
	f.BoolVar(&x.plainText, "to-plain-text", false, "what is wanted is plain text, to take encryption out: identity is the first provider on every API server")
}

// target is the resources that should be encrypted, and by which provider.
type target struct {
	provider  string
	plainText bool
	resources scan.Selection
	want      func(scan.Resource) (scan.Want, bool)
}

const (
	defaultProvider = "mayfly"
	defaultResource = "secrets"
)

// load combines the flags and the file.
func (x *selection) load(socket string) (target, error) {
	t := target{provider: x.provider, resources: x.resources, plainText: x.plainText}
	if x.file != "" {
		c, err := encryptionconfig.Read(x.file)
		if err != nil {
			return target{}, err
		}
		if t.provider == "" {
			if t.provider, err = c.Name(probe.Scheme + socket); err != nil {
				return target{}, fmt.Errorf("EncryptionConfiguration %s: %w (--provider-name names one)", x.file, err)
			}
		}
		if t.want = c.Want(t.provider); len(t.resources) == 0 {
			t.resources = c.Resources(t.provider)
		}
		if len(t.resources) == 0 {
			return target{}, fmt.Errorf("EncryptionConfiguration %s has no KMS v2 provider %q", x.file, t.provider)
		}
	}
	if t.provider == "" {
		t.provider = defaultProvider
	}
	if len(t.resources) == 0 {
		t.resources = scan.Selection{defaultResource}
	}
	if t.want == nil {
		t.want = func(scan.Resource) (scan.Want, bool) { return scan.Want{Name: t.provider}, true }
	}
	if err := t.resources.Check(); err != nil {
		return target{}, fmt.Errorf("--resources: %w", err)
	}
	return t, nil
}

// scanOptions are the options for a scan of the target. Without key ids it accepts any.
func (t target) scanOptions(prefix string, names int, keyIDs ...string) scan.Options {
	return scan.Options{
		Keys: scan.NewKeys(prefix), Resources: t.resources, Names: names, Version: scan.TransitVersion,
		Want: func(r scan.Resource) (scan.Want, bool) {
			want, ok := t.want(r)
			want.KeyIDs, want.PlainText = keyIDs, t.plainText
			return want, ok
		},
	}
}

// announced reads the key id from the plugin at a socket.
func announced(ctx context.Context, endpoint string) (string, error) {
	p, err := probe.Dial(endpoint)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }()
	status, err := p.Status(ctx)
	if err != nil {
		return "", err
	}
	return status.KeyID, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
