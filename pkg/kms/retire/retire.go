// Package retire answers whether min_decryption_version of the Transit key may rise. It may once no
// live object, no API server and no retained backup needs a lower version.
package retire

import (
	"context"
	"fmt"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/kms/apiserver"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// Cluster reports which key id each API server writes with.
type Cluster interface {
	Writers(ctx context.Context, provider string) (apiserver.Writers, error)
}

// Options are the question.
type Options struct {
	Key transit.Key
	// Path is where the key's settings are written: mount/keys/name/config.
	Path string
	// To is the new value of min_decryption_version.
	To int
	// KeyIDs are those of the remaining versions.
	KeyIDs []string
	// Provider is the KMS provider's name in the EncryptionConfiguration.
	Provider string
	Scan     scan.Options
	// Live is etcd, Backups are the retained snapshots.
	Live    scan.Source
	Backups []scan.Source
	// WithoutBackups says that there are no backups.
	WithoutBackups bool
}

// Run checks all evidence. The API servers come first: after that they write only under remaining
// versions, so a later scan misses nothing.
func Run(ctx context.Context, c Cluster, r *report.Report, o Options) error {
	if o.To > o.Key.Latest {
		return fmt.Errorf("--to is %d, and the latest version of the key is %d", o.To, o.Key.Latest)
	}
	if o.To <= o.Key.MinDecryption {
		r.Good("min_decryption_version", "it is %d already", o.Key.MinDecryption)
		r.Verdict = fmt.Sprintf("min_decryption_version is %d, so there is nothing to do.", o.Key.MinDecryption)
		return nil
	}
	r.Good("key", "%s; to be retired: %s", o.Key, versions(o.Key.MinDecryption, o.To-1))
	if err := writers(ctx, c, r, o); err != nil {
		return err
	}
	for i, source := range append([]scan.Source{o.Live}, o.Backups...) {
		if err := checkSource(ctx, r, o, source, i > 0); err != nil {
			return err
		}
	}
	switch {
	case len(o.Backups) == 0 && o.WithoutBackups:
		r.Good("backups", "none is kept (--without-backups)")
	case len(o.Backups) == 0:
		r.Add(report.Unknown, "backups", "name each backup of etcd that is kept with --snapshot, or say --without-backups", "no backup was looked at: one that needs an old version could not be restored any more")
	}
	if !r.Clean(false) {
		r.Verdict = fmt.Sprintf("min_decryption_version must stay at %d.", o.Key.MinDecryption)
		return nil
	}
	r.Verdict = fmt.Sprintf("min_decryption_version may rise to %d:\n  vault write %s min_decryption_version=%d", o.To, o.Path, o.To)
	return nil
}

func versions(first, last int) string {
	if first >= last {
		return fmt.Sprintf("version %d", last)
	}
	return fmt.Sprintf("versions %d to %d", first, last)
}

// writers checks that every API server writes under a remaining version.
func writers(ctx context.Context, c Cluster, r *report.Report, o Options) error {
	const title = "write seeds of the API servers"
	w, err := c.Writers(ctx, o.Provider)
	if err != nil {
		return err
	}
	hashes := make([]string, len(o.KeyIDs))
	for i, id := range o.KeyIDs {
		hashes[i] = key.HashOf(id)
	}
	behind := w.Behind(hashes...)
	for _, text := range behind {
		r.Add(report.Failed, title, "an API server takes the new version within minutes; if it does not, see the log of mayfly-kms serve on its node", "%s", text)
	}
	if len(behind) == 0 {
		r.Good(title, "%s, all under a version that stays", report.Plural(len(w.Servers), "API server"))
	}
	return nil
}

// checkSource scans a source for values that need an old version.
func checkSource(ctx context.Context, r *report.Report, o Options, source scan.Source, backup bool) error {
	result, err := scan.Run(ctx, source, o.Scan)
	if err != nil && !backup {
		return err
	}
	if err != nil {
		r.Add(report.Unknown, source.String(), "give a file of etcdctl snapshot save", "%v", err)
		return nil
	}
	r.Scans = append(r.Scans, result)
	needs := needs(result, o.To, o.Provider)
	switch remedy := "run mayfly-kms migrate"; {
	case len(needs) > 0:
		if backup {
			remedy = "keep the version for as long as this backup is kept, or delete the backup and take a new one"
		}
		r.Add(report.Failed, source.String(), remedy, "%s", strings.Join(needs, "; "))
	default:
		r.Good(source.String(), "%s, none needs a version below %d", report.Plural(result.Values(), "value"), o.To)
	}
	return nil
}

// needs returns what in a result prevents the retirement. Plain values and those of other providers
// need no version of the key.
func needs(result *scan.Result, to int, provider string) []string {
	var all []string
	for _, f := range result.Resources {
		for _, u := range f.Under {
			what := fmt.Sprintf("%s of %s", report.Plural(u.Values, "value"), f.Resource)
			switch {
			case u.Error != "":
				all = append(all, fmt.Sprintf("%s cannot be read: %s", what, u.Error))
			case u.Provider != stored.KMSv2 || u.Name != provider:
			case u.Version == 0:
				all = append(all, fmt.Sprintf("%s: the version under key id %s is not known", what, u.KeyID))
			case u.Version < to:
				all = append(all, fmt.Sprintf("%s under version %d", what, u.Version))
			}
		}
	}
	return all
}
