package migrate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/apiserver"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/migrate"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
)

const current = "mayfly-1-v2-00000000000000000000000000000000"

// cluster has the key after some reads.
type cluster struct {
	looks, after int
	version      string
	migrateErr   error
	kinds        []apiserver.Kind
	refused      []error
	did          []string
}

func (c *cluster) Writers(context.Context, string) (apiserver.Writers, error) {
	c.looks++
	id := "old"
	if c.looks > c.after {
		id = current
	}
	return apiserver.Writers{Servers: []apiserver.Writer{{URL: "https://a", Seen: apiserver.Seen{IDHash: "h", KeyIDHash: key.HashOf(id)}}}}, nil
}

func (c *cluster) Kinds(context.Context, scan.Selection, func(scan.Resource) bool) ([]apiserver.Kind, error) {
	return c.kinds, nil
}

func (c *cluster) MigrationVersion(context.Context) (string, error) { return c.version, nil }

func (c *cluster) Migrate(_ context.Context, version string, k apiserver.Kind, _ func(string)) error {
	c.did = append(c.did, "migrate "+k.Resource.String()+" by "+version)
	return c.migrateErr
}

func (c *cluster) Rewrite(_ context.Context, k apiserver.Kind, _ int, _ func(apiserver.Rewritten)) (apiserver.Rewritten, error) {
	c.did = append(c.did, "patch "+k.Resource.String())
	return apiserver.Rewritten{Patched: 5, Refused: len(c.refused), Errors: c.refused}, nil
}

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		cluster *cluster
		method  migrate.Method
		plain   bool
		did     string
		want    string // of the error or in a check
		clean   bool
	}{
		"by the cluster":       {&cluster{version: "v1"}, migrate.Auto, false, "migrate secrets by v1", "by StorageVersionMigration v1", true},
		"once all have it":     {&cluster{version: "v1", after: 30}, migrate.Auto, false, "migrate secrets by v1", "1 API server", true},
		"never":                {&cluster{version: "v1", after: 1e6}, migrate.Auto, false, "", "nothing was migrated", false},
		"an old cluster":       {&cluster{}, migrate.Auto, false, "patch secrets", "by patches: 5 objects", true},
		"no patches wanted":    {&cluster{}, migrate.Storage, false, "", "use --method=patch", false},
		"patches wanted":       {&cluster{version: "v1"}, migrate.Patch, false, "patch secrets", "by patches", true},
		"not taken up":         {&cluster{version: "v1", migrateErr: apiserver.ErrNotTakenUp}, migrate.Auto, false, "migrate secrets by v1,patch secrets", "by patches", true},
		"not taken up, forced": {&cluster{version: "v1", migrateErr: apiserver.ErrNotTakenUp}, migrate.Storage, false, "migrate secrets by v1", "no controller", false},
		"it fails":             {&cluster{version: "v1", migrateErr: errors.New("webhook says no")}, migrate.Auto, false, "migrate secrets by v1", "webhook says no", false},
		"objects are refused":  {&cluster{refused: []error{errors.New("a/b: 403 no")}}, migrate.Auto, false, "patch secrets", "a/b: 403 no", false},
		"to plain text":        {&cluster{version: "v1", after: 1e6}, migrate.Auto, true, "migrate secrets by v1", "by StorageVersionMigration v1", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.cluster.kinds = []apiserver.Kind{{Resource: scan.Resource{Name: "secrets"}}}
				r := report.New()
				var said []string
				err := migrate.Run(t.Context(), tc.cluster, r, migrate.Options{
					Provider: "mayfly", KeyID: current, PlainText: tc.plain, Resources: scan.Selection{"secrets"}, Method: tc.method, PerSecond: 1,
					Wait: 10 * time.Minute, Progress: func(s string) { said = append(said, s) },
				})
				found := err != nil && strings.Contains(err.Error(), tc.want) ||
					slices.ContainsFunc(r.Checks, func(c report.Check) bool { return strings.Contains(c.Detail, tc.want) })
				if !found || (err == nil && r.Clean(false)) != tc.clean || strings.Join(tc.cluster.did, ",") != tc.did {
					t.Errorf("%v, %+v, did %q", err, r.Checks, tc.cluster.did)
				}
				if waits := tc.cluster.after > 0 && !tc.plain; waits != slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "writes under another key id") }) {
					t.Errorf("said %q", said)
				}
			})
		})
	}
}

func TestRunWithoutResources(t *testing.T) {
	r := report.New()
	err := migrate.Run(t.Context(), &cluster{}, r, migrate.Options{KeyID: current, Resources: scan.Selection{"widgets.example.com"}, Wait: time.Minute, Progress: func(string) {}})
	if err != nil || r.Clean(false) || !strings.Contains(r.Checks[len(r.Checks)-1].Detail, "serves none of widgets.example.com") {
		t.Errorf("%v, %+v", err, r.Checks)
	}
}
