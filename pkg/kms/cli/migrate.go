package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/kms"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/doctor"
	"github.com/mayfly-csi/mayfly/pkg/kms/migrate"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

type migrateCommand struct {
	output
	cluster
	selection
	etcd
	keyID     string
	method    string
	perSecond int
	wait      time.Duration
	names     int
}

func newMigrate(s Streams) *cobra.Command {
	c := &migrateCommand{}
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Rewrite all objects under the latest version of the key",
		Long: `Rewrite all objects under the latest version of the key, after a rotation or
after encryption was switched on. It waits until every API server writes under
that version, has the cluster rewrite the objects by a StorageVersionMigration, or
patches each with nothing where the cluster does not serve that, and scans etcd at
the end. No object's content passes through it. It may be run again at any time.

The latest version is asked of Vault, with the settings of serve from the same
file, environment or flags; --key-id goes without Vault.

` + exitCodes,
		Example: `  # On a kubeadm control plane
  mayfly-kms migrate --config=/etc/mayfly-kms/config.yaml --kubeconfig=/etc/kubernetes/admin.conf \
    --encryption-config=/etc/kubernetes/encryption.yaml \
    --etcd-endpoints=https://127.0.0.1:2379 --etcd-cacert=/etc/kubernetes/pki/etcd/ca.crt \
    --etcd-cert=/etc/kubernetes/pki/etcd/server.crt --etcd-key=/etc/kubernetes/pki/etcd/server.key`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.SortFlags = false
	c.cluster.bind(f)
	c.selection.bind(f)
	c.selection.bindPlainText(f)
	c.etcd.bind(f)
	f.StringVar(&c.keyID, "key-id", "", "the key `id` that all is to be under (default that of the key's latest version)")
	f.StringVar(&c.method, "method", string(migrate.Auto), "how objects are rewritten: auto, storageversionmigration or patch")
	f.IntVar(&c.perSecond, "patches-per-second", 50, "`number` of patches a second at most, for --method=patch and clusters without StorageVersionMigration")
	f.DurationVar(&c.wait, "wait", 15*time.Minute, "`time` to wait for all API servers to have the key")
	f.IntVar(&c.names, "names", 20, "how many objects to name for each resource at the end")
	c.output.bind(f)
	options := settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), s, options) }
	return cmd
}

func (c *migrateCommand) check() error {
	if err := c.output.check(); err != nil {
		return err
	}
	if !slices.Contains([]string{string(migrate.Auto), string(migrate.Storage), string(migrate.Patch)}, c.method) {
		return fmt.Errorf("--method: must be auto, storageversionmigration or patch, not %q", c.method)
	}
	if c.perSecond < 1 || c.perSecond > 10_000 {
		return errors.New("--patches-per-second: must be from 1 to 10000")
	}
	if c.wait <= 0 {
		return errors.New("--wait: must be more than 0")
	}
	return nil
}

func (c *migrateCommand) run(ctx context.Context, s Streams, options *config.Options) error {
	c.etcd.load(s.Getenv)
	if err := c.check(); err != nil {
		return err
	}
	r := report.New()
	id, socket, err := c.goal(ctx, s, options, r)
	if err != nil {
		return err
	}
	t, err := c.selection.load(socket)
	if err != nil {
		return err
	}
	servers, err := c.cluster.connect(ctx, s)
	if err != nil {
		return err
	}
	err = migrate.Run(ctx, servers, r, migrate.Options{
		Provider: t.provider, KeyID: id, PlainText: t.plainText, Resources: t.resources, Method: migrate.Method(c.method), PerSecond: c.perSecond, Wait: c.wait,
		Wanted:   func(x scan.Resource) bool { _, ok := t.want(x); return ok },
		Progress: func(text string) { fmt.Fprintln(s.Err, finding.Printable(text)) },
	})
	if err != nil {
		return err
	}
	if err := c.scanAfter(ctx, r, t, id); err != nil {
		return err
	}
	return c.output.finish(r, s)
}

// goal is the key id that everything should be under, and the plugin's socket.
func (c *migrateCommand) goal(ctx context.Context, s Streams, options *config.Options, r *report.Report) (id, socket string, err error) {
	if c.keyID != "" || c.plainText {
		return c.keyID, defaultSocket, nil
	}
	settings, err := options.Load(s.Getenv)
	if err != nil {
		return "", "", fmt.Errorf("%w (--key-id goes without Vault)", err)
	}
	k, err := readKey(ctx, settings, s)
	if err != nil {
		return "", "", err
	}
	id = doctor.KeyID(settings.Transit, k, k.Latest)
	r.Good("key", "%s, key id %s", k, id)
	return id, settings.Serve.Socket, nil
}

// scanAfter shows that nothing is left.
func (c *migrateCommand) scanAfter(ctx context.Context, r *report.Report, t target, id string) error {
	if len(c.etcd.endpoints) == 0 {
		r.Add(report.Unknown, "scan", "name etcd with --etcd-endpoints and its certificates, or run mayfly-kms scan on a snapshot", "whether anything is left was not looked at")
		return nil
	}
	live, err := c.etcd.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = live.Close() }()
	var ids []string
	if id != "" {
		ids = []string{id}
	}
	result, err := scan.Run(ctx, live, t.scanOptions(c.prefix, c.names, ids...))
	if err != nil {
		return err
	}
	reportScan(r, result, t)
	return nil
}

// readKey reads the key from Vault, logged in as the plugin.
func readKey(ctx context.Context, c config.Config, s Streams) (transit.Key, error) {
	connection, err := kms.Connect(c, nil, quiet(s))
	if err != nil {
		return transit.Key{}, err
	}
	defer func() { _ = connection.Close(context.WithoutCancel(ctx)) }()
	k, err := connection.Transit.Key(ctx)
	if err != nil {
		return transit.Key{}, err
	}
	return k, k.Usable()
}
