package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/doctor"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/retire"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
)

type retireCommand struct {
	output
	cluster
	selection
	etcd
	to             int
	snapshots      []string
	withoutBackups bool
	names          int
}

func newRetire(s Streams) *cobra.Command {
	c := &retireCommand{}
	cmd := &cobra.Command{
		Use:   "retire",
		Short: "Tell whether old versions of the key are needed any more",
		Long: `Tell whether min_decryption_version of the key may rise, with the evidence: what
all live objects in etcd are under, what each API server writes under, and what
the backups that are kept need. It changes nothing: the command that it prints is
for somebody who may change the key.

` + exitCodes,
		Example: `  mayfly-kms retire --config=/etc/mayfly-kms/config.yaml --kubeconfig=/etc/kubernetes/admin.conf \
    --encryption-config=/etc/kubernetes/encryption.yaml \
    --etcd-endpoints=https://127.0.0.1:2379 --etcd-cacert=/etc/kubernetes/pki/etcd/ca.crt \
    --etcd-cert=/etc/kubernetes/pki/etcd/server.crt --etcd-key=/etc/kubernetes/pki/etcd/server.key \
    --snapshot=/var/backups/etcd/monday.db --snapshot=/var/backups/etcd/tuesday.db`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&c.to, "to", 0, "the `version` that min_decryption_version is to rise to (default the latest)")
	f.StringArrayVar(&c.snapshots, "snapshot", nil, "`file` of a backup that is kept, as etcdctl snapshot save has written it; may be repeated")
	f.BoolVar(&c.withoutBackups, "without-backups", false, "no backup of etcd is kept")
	c.cluster.bind(f)
	c.selection.bind(f)
	c.etcd.bind(f)
	f.IntVar(&c.names, "names", 20, "how many objects to name for each resource")
	c.output.bind(f)
	options := settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), s, options) }
	return cmd
}

func (c *retireCommand) check() error {
	if err := c.output.check(); err != nil {
		return err
	}
	switch {
	case c.to < 0:
		return errors.New("--to: must be a version of the key")
	case len(c.etcd.endpoints) == 0:
		return errors.New("name etcd with --etcd-endpoints: without it, it is not known what live objects need")
	case c.withoutBackups && len(c.snapshots) > 0:
		return errors.New("--without-backups: there is --snapshot, too")
	}
	return nil
}

func (c *retireCommand) run(ctx context.Context, s Streams, options *config.Options) error {
	c.etcd.load(s.Getenv)
	if err := c.check(); err != nil {
		return err
	}
	settings, err := options.Load(s.Getenv)
	if err != nil {
		return err
	}
	t, err := c.selection.load(settings.Serve.Socket)
	if err != nil {
		return err
	}
	k, err := readKey(ctx, settings, s)
	if err != nil {
		return err
	}
	o := retire.Options{
		Key: k, Path: settings.Transit.Mount + "/keys/" + settings.Transit.Key + "/config", To: c.to, Provider: t.provider,
		WithoutBackups: c.withoutBackups,
	}
	if o.To == 0 {
		o.To = k.Latest
	}
	for version := o.To; version <= k.Latest; version++ {
		if k.Created[version].IsZero() {
			return fmt.Errorf("vault does not say when version %d of the key was made", version)
		}
		o.KeyIDs = append(o.KeyIDs, doctor.KeyID(settings.Transit, k, version))
	}
	o.Scan = t.scanOptions(c.prefix, c.names, o.KeyIDs...)
	return c.checkResult(ctx, s, o)
}

func (c *retireCommand) checkResult(ctx context.Context, s Streams, o retire.Options) error {
	r := report.New()
	var err error
	if o.Backups, err = snapshots(ctx, c.snapshots, r); err != nil {
		return err
	}
	servers, err := c.cluster.connect(ctx, s)
	if err != nil {
		return err
	}
	var live *scan.Etcd
	if live, err = c.etcd.open(ctx); err != nil {
		return err
	}
	defer func() { _ = live.Close() }()
	o.Live = live
	if err := retire.Run(ctx, servers, r, o); err != nil {
		return err
	}
	return c.output.finish(r, s)
}
