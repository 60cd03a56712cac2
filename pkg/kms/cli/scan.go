package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
)

// defaultSocket is that of serve.
const defaultSocket = "/run/mayfly-kms/kms.sock"

type scanCommand struct {
	output
	etcd
	selection
	snapshots     []string
	keyID, socket string
	names         int
}

func newScan(s Streams) *cobra.Command {
	c := &scanCommand{}
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Count what the values in etcd are encrypted with",
		Long: `Count what the values in etcd are encrypted with: plain text, another provider,
or which key id. It reads a live etcd or snapshot files, decrypts nothing, needs
no key and no Vault, and prints no value. Objects that are not under the current
key are named.

The current key id is the one that the plugin on this node announces, or that of
--key-id. Without both, every key id of the provider counts as current.

` + exitCodes,
		Example: `  # The etcd of a kubeadm control plane
  mayfly-kms scan --etcd-endpoints=https://127.0.0.1:2379 --etcd-cacert=/etc/kubernetes/pki/etcd/ca.crt \
    --etcd-cert=/etc/kubernetes/pki/etcd/server.crt --etcd-key=/etc/kubernetes/pki/etcd/server.key

  # Backups, on any machine
  mayfly-kms scan --snapshot=monday.db --snapshot=tuesday.db`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.SortFlags = false
	c.etcd.bind(f)
	f.StringArrayVar(&c.snapshots, "snapshot", nil, "`file` that etcdctl snapshot save has written; may be repeated")
	c.selection.bind(f)
	c.selection.bindPlainText(f)
	f.StringVar(&c.keyID, "key-id", "", "the current key `id`")
	f.StringVar(&c.socket, "socket", "", "`socket` of the plugin, which is asked for the current key id (default unix://"+defaultSocket+", if it is there)")
	f.IntVar(&c.names, "names", 20, "how many objects to name for each resource")
	c.output.bind(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), s) }
	return cmd
}

func (c *scanCommand) run(ctx context.Context, s Streams) error {
	c.etcd.load(s.Getenv)
	if err := c.output.check(); err != nil {
		return err
	}
	if len(c.etcd.endpoints) == 0 && len(c.snapshots) == 0 {
		return errors.New("name an etcd with --etcd-endpoints, or files with --snapshot")
	}
	socket := defaultSocket
	if c.socket != "" {
		socket = strings.TrimPrefix(c.socket, probe.Scheme)
	}
	t, err := c.selection.load(socket)
	if err != nil {
		return err
	}
	r := report.New()
	id, err := c.current(ctx, r)
	if err != nil {
		return err
	}
	var ids []string
	if id != "" {
		ids = []string{id}
	}
	return c.scan(ctx, s, r, t, t.scanOptions(c.prefix, c.names, ids...))
}

// current finds the current key id; may be empty.
func (c *scanCommand) current(ctx context.Context, r *report.Report) (string, error) {
	const title = "current key id"
	if c.keyID != "" {
		r.Good(title, "%s (--key-id)", c.keyID)
		return c.keyID, nil
	}
	endpoint := c.socket
	if endpoint == "" {
		if !exists(defaultSocket) {
			r.Add(report.Skipped, title, "name it with --key-id, or run this where the plugin runs", "it is not known, so any key id of the provider will do")
			return "", nil
		}
		endpoint = probe.Scheme + defaultSocket
	}
	id, err := announced(ctx, endpoint)
	if err != nil {
		return "", fmt.Errorf("asking the plugin for the current key id (--key-id names one): %w", err)
	}
	r.Good(title, "%s, by the plugin at %s", id, endpoint)
	return id, nil
}

func (c *scanCommand) scan(ctx context.Context, s Streams, r *report.Report, t target, o scan.Options) error {
	files, err := snapshots(ctx, c.snapshots, r)
	if err != nil {
		return err
	}
	var sources []scan.Source
	if len(c.etcd.endpoints) > 0 {
		live, err := c.etcd.open(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = live.Close() }()
		sources = append(sources, live)
	}
	for _, source := range append(sources, files...) {
		result, err := scan.Run(ctx, source, o)
		if err != nil {
			return err
		}
		reportScan(r, result, t)
	}
	return c.output.finish(r, s)
}

// reportScan adds the result of a scan to a report, with what to do about it.
func reportScan(r *report.Report, result *scan.Result, t target) {
	r.Scans = append(r.Scans, result)
	if result.Values() == 0 {
		r.Add(report.Warning, result.Source, "is --etcd-prefix the API server's?", "there are no values of these resources")
	}
	for _, f := range result.Resources {
		reportResource(r, f.Resource+" in "+result.Source, f, t)
	}
}

// kinds of values that are not as they should be.
type stragglers struct{ plain, other, old, unread int }

func count(f scan.Found, provider string) stragglers {
	var n stragglers
	for _, u := range f.Under {
		switch {
		case u.Wanted:
		case u.Error != "":
			n.unread += u.Values
		case u.Provider == stored.Identity:
			n.plain += u.Values
		case u.Provider == stored.KMSv2 && u.Name == provider:
			n.old += u.Values
		default:
			n.other += u.Values
		}
	}
	return n
}

func reportResource(r *report.Report, title string, f scan.Found, t target) {
	n := count(f, t.provider)
	note := func(n int, what, remedy string) {
		if n > 0 {
			r.Add(report.Failed, title, remedy, "%d of %s %s %s", n, report.Plural(f.Values, "value"), isAre(n), what)
		}
	}
	switch {
	case f.StragglerCount == 0 && t.plainText:
		r.Good(title, "%s, all plain text", report.Plural(f.Values, "value"))
		return
	case f.StragglerCount == 0:
		r.Good(title, "%s, all under %s", report.Plural(f.Values, "value"), t.provider)
		return
	case t.plainText:
		note(n.old+n.other, "encrypted still", "put identity first on every API server, and run mayfly-kms migrate --to-plain-text")
	default:
		note(n.plain, "plain text", "run mayfly-kms migrate; if new values are plain too, run mayfly-kms doctor")
		note(n.other, "under another provider", "run mayfly-kms migrate, and keep that provider in the EncryptionConfiguration until this is 0")
		note(n.old, "under another key id of "+t.provider, "run mayfly-kms migrate before min_decryption_version rises")
	}
	note(n.unread, "not readable", "the API server cannot read them either: see \"Objects that cannot be decrypted\" in docs/kms.md")
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
