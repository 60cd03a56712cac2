// Package migrate rewrites all objects with the current key: it waits until every API server writes
// with it, and then lets the cluster rewrite what is stored.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/apiserver"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
)

// lookEvery is how often it asks the API servers for their key.
const lookEvery = 2 * time.Second

// Method is how objects are rewritten.
type Method string

// The methods. Auto uses StorageVersionMigration if the cluster serves it.
const (
	Auto    Method = "auto"
	Storage Method = "storageversionmigration"
	Patch   Method = "patch"
)

// Cluster is the part of a cluster that a migration needs.
type Cluster interface {
	Writers(ctx context.Context, provider string) (apiserver.Writers, error)
	Kinds(ctx context.Context, selection scan.Selection, wanted func(scan.Resource) bool) ([]apiserver.Kind, error)
	MigrationVersion(ctx context.Context) (string, error)
	Migrate(ctx context.Context, version string, k apiserver.Kind, progress func(string)) error
	Rewrite(ctx context.Context, k apiserver.Kind, perSecond int, progress func(apiserver.Rewritten)) (apiserver.Rewritten, error)
}

// Options say what to migrate.
type Options struct {
	// Provider is the KMS provider's name in the EncryptionConfiguration.
	Provider string
	// KeyID is the key id that everything should be under.
	KeyID string
	// PlainText says that everything should be plain text. No API server reports whether it writes
	// plain text, so Run does not wait for that.
	PlainText bool
	Resources scan.Selection
	// Wanted leaves resources of Resources out.
	Wanted func(scan.Resource) bool
	Method Method
	// PerSecond bounds the patches a second.
	PerSecond int
	// Wait bounds the wait for the API servers.
	Wait time.Duration
	// Progress receives a line for each step.
	Progress func(string)
}

// Run migrates, and reports what it did.
func Run(ctx context.Context, c Cluster, r *report.Report, o Options) error {
	if !o.PlainText {
		if err := converge(ctx, c, r, o); err != nil {
			return err
		}
	}
	kinds, err := c.Kinds(ctx, o.Resources, o.Wanted)
	if err != nil {
		return err
	}
	if len(kinds) == 0 {
		r.Add(report.Failed, "resources", "name them with --resources or --encryption-config", "the cluster serves none of %s", strings.Join(o.Resources, ", "))
		return nil
	}
	version, err := method(ctx, c, o.Method)
	if err != nil {
		return err
	}
	for _, k := range kinds {
		taken := false
		if version != "" {
			if taken, err = storage(ctx, c, r, version, k, o); err != nil {
				return err
			}
		}
		if !taken {
			if err := patch(ctx, c, r, k, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// method returns the version of StorageVersionMigration, or none for patches.
func method(ctx context.Context, c Cluster, m Method) (string, error) {
	if m == Patch {
		return "", nil
	}
	version, err := c.MigrationVersion(ctx)
	if err == nil && version == "" && m == Storage {
		err = errors.New("the cluster does not serve StorageVersionMigration (storagemigration.k8s.io/v1 or v1beta1): use --method=patch")
	}
	return version, err
}

// storage lets the cluster migrate. If no controller does and the caller may choose, it reports
// that the migration was not taken up.
func storage(ctx context.Context, c Cluster, r *report.Report, version string, k apiserver.Kind, o Options) (taken bool, err error) {
	began := time.Now()
	title := "migrating " + k.Resource.String()
	err = c.Migrate(ctx, version, k, func(text string) { o.Progress(title + ": " + text) })
	switch {
	case ctx.Err() != nil:
		return false, err
	case errors.Is(err, apiserver.ErrNotTakenUp) && o.Method == Auto:
		o.Progress(title + ": " + err.Error() + "; patching in its place")
		return false, nil
	case err != nil:
		r.Add(report.Failed, title, "see the log of kube-controller-manager, which does the work; --method=patch goes without it", "%v", err)
	default:
		r.Good(title, "by StorageVersionMigration %s, in %s", version, time.Since(began).Round(time.Second))
	}
	return true, nil
}

// progressEvery bounds how often patches are reported.
const progressEvery = 500

func patch(ctx context.Context, c Cluster, r *report.Report, k apiserver.Kind, o Options) error {
	title := "migrating " + k.Resource.String()
	done, err := c.Rewrite(ctx, k, o.PerSecond, func(d apiserver.Rewritten) {
		if n := d.Patched + d.Changed + d.Refused; n%progressEvery == 0 {
			o.Progress(fmt.Sprintf("%s: %s so far", title, report.Plural(n, "object")))
		}
	})
	if err != nil {
		return err
	}
	for _, refused := range done.Errors {
		r.Add(report.Failed, title, "write the object by kubectl, or correct what refuses it, such as a webhook; then run migrate again", "%v", refused)
	}
	if more := done.Refused - len(done.Errors); more > 0 {
		r.Add(report.Failed, title, "", "%d more objects could not be written", more)
	}
	r.Good(title, "by patches: %s, %d changed or deleted by others meanwhile", report.Plural(done.Patched, "object"), done.Changed)
	return nil
}

// converge waits until every API server writes with the key id: an object that is written with the
// old key in between would be left out.
func converge(ctx context.Context, c Cluster, r *report.Report, o Options) error {
	const title = "all API servers write under the key"
	ctx, cancel := context.WithTimeout(ctx, o.Wait)
	defer cancel()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for said := ""; ; {
		w, err := c.Writers(ctx, o.Provider)
		var behind []string
		if err == nil {
			behind = w.Behind(key.HashOf(o.KeyID))
		} else {
			behind = []string{err.Error()}
		}
		if len(behind) == 0 {
			r.Good(title, "%s, key id %s", report.Plural(len(w.Servers), "API server"), o.KeyID)
			return nil
		}
		if text := strings.Join(behind, "; "); text != said && ctx.Err() == nil {
			said = text
			o.Progress("waiting: " + text)
		}
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return context.Cause(ctx)
			}
			return fmt.Errorf("waiting %s for all API servers to write under %s: %s; nothing was migrated", o.Wait, o.KeyID, said)
		case <-ticker.C:
		}
	}
}
